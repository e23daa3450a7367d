"""Which tokens the labels of a training pass ask about, and where those stand among the tokens that are left."""

import torch
from torch import Tensor

from pruning.reduction.sequence import Sequence, take

IGNORED = -100  # the label of a token that is not learned, in every loss of the library


def mark_before_answers(labels: Tensor) -> Tensor:
    """(B, N) bool from labels (B, N): the tokens before each answer, whose own label is ignored and the next one's not.

    Their attention says which tokens an answer needs, as PyramidDrop trains (Xing et al. 2025).
    """
    learned = labels != IGNORED
    return torch.cat([~learned[:, :-1] & learned[:, 1:], torch.zeros_like(learned[:, :1])], dim=1)


def select_queries(asking: Tensor, tokens: Sequence) -> tuple[Tensor, Tensor]:
    """Who asks among the tokens that are left.

    Args:
        asking: (B, N) bool, of the whole sequence.
        tokens: T of the N.

    Returns:
        (B, Q) indices among the T, and (B, Q) float32 weights that sum to one in a row. A row in which nobody asks
        is asked by its last token.
    """
    left = take(asking, tokens.indices.expand(asking.shape[0], -1))
    last = tokens.find_last()
    last = torch.full_like(left[:, :1], left.shape[1] - 1, dtype=torch.long) if last is None else last
    silent = ~left.any(1, keepdim=True)
    left = left | (silent & (torch.arange(left.shape[1], device=left.device) == last))
    max_queries = int(left.sum(1).max())
    indices = left.float().topk(max_queries, dim=1).indices
    weights = left.float().gather(1, indices)
    return indices, weights / weights.sum(1, keepdim=True)

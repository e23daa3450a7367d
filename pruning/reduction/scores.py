"""How much a token matters: attention it receives, how unlike its key is to the others', its norm, or chance."""

import torch
from torch import Tensor
from torch.nn import functional

ALWAYS, NEVER = 3e38, -3e38  # finite: not every runtime sorts infinities
FAINT = 1e-7  # of the attention of a row
_PRIME = 2**31 - 1


def compute_attention_weights(
    queries: Tensor,
    keys: Tensor,
    scaling: float,
    softcap: float | None = None,
    allowed: Tensor | None = None,
) -> Tensor:
    """The attention that each key receives from each query: softmax over the whole row, mean over heads.

    Args:
        queries: (B, heads, Q, D).
        keys: (B, groups, N, D); heads of one group share them.
        scaling: factor on the products.
        softcap: bound of the logits by a hyperbolic tangent (Gemma 2).
        allowed: (B, 1 or Q, N) bool, keys that a query sees; None for all.

    Returns:
        (B, Q, N) float32; rows sum to one. What is next to nothing is nothing: runtimes round it differently, and
        tokens that nobody looks at are to be equal in all of them.
    """
    batch, heads, count, width = queries.shape
    groups, tokens = keys.shape[1], keys.shape[2]
    grouped = queries.reshape(batch, groups, heads // groups * count, width)
    logits = (grouped @ keys.transpose(-1, -2)).float().reshape(batch, heads, count, tokens) * scaling
    if softcap is not None:
        logits = torch.tanh(logits / softcap) * softcap
    if allowed is not None:
        logits = logits.masked_fill(~allowed[:, None], NEVER)
    weights = logits.softmax(-1).mean(1)
    return torch.where(weights < FAINT, 0.0, weights)


def compute_key_scores(keys: Tensor, valid: Tensor | None) -> Tensor:
    """One minus the cosine of a token's key, all heads side by side, to the mean key: (B, groups, N, D) -> (B, N)."""
    flat = keys.transpose(1, 2).flatten(2).float()
    weights = torch.ones_like(flat[..., 0]) if valid is None else valid.float()
    mean = (flat * weights[..., None]).sum(1, keepdim=True) / weights.sum(1)[:, None, None].clamp(min=1)
    return 1 - functional.cosine_similarity(flat, mean, dim=-1)


def compute_norm_scores(hidden: Tensor) -> Tensor:
    """The Euclidean norm of each state: (B, N, H) -> (B, N)."""
    norms: Tensor = torch.linalg.vector_norm(hidden.float(), dim=-1)
    return norms


def draw_random_scores(indices: Tensor) -> Tensor:
    """Numbers in [0, 1) that depend on a token's original index only: (B, N) int64 -> (B, N).

    The control for every other score. Whole numbers modulo a prime, so that every runtime draws the same; the fifth
    power is a permutation there.
    """
    start = (indices + 1) * 48271 * 69621 % _PRIME
    square = start * start % _PRIME
    return (square * square % _PRIME * start % _PRIME).float() / _PRIME


def select_best(scores: Tensor, protected: Tensor, valid: Tensor | None, keep: int) -> Tensor:
    """The indices of the tokens that stay: protected ones, then those with the highest scores, padding last.

    Args:
        scores: (B, N) float32.
        protected: (B or 1, N) bool.
        valid: (B, N) bool, or None where nothing is padding.
        keep: how many stay in a row, protected ones included.

    Returns:
        (B, keep) int64, rising; of equals the first.
    """
    if valid is not None:
        scores = scores.masked_fill(~valid, NEVER)
    scores = scores.masked_fill(protected, ALWAYS)
    if torch.compiler.is_compiling():  # TopK in a file takes the first of equals, torch's own any of them
        ranked = scores.topk(keep, dim=1, sorted=False).indices
    else:
        ranked = scores.sort(dim=1, descending=True, stable=True).indices[:, :keep]
    return ranked.sort(dim=1).values

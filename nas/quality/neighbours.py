"""Retrieval: whether texts that are found for another one are still found when a candidate embeds them."""

import torch
from torch import Tensor

from pruning.checkpoint.sentence_embedding import COSINE

FOUND = 5  # texts that a query is answered with
RECALL, SAME_NEAREST = "recall_at_5", "same_nearest"
_NORMS = {"euclidean": 2.0, "manhattan": 1.0}  # of a difference, where vectors are compared by their distance


def compute_retrieval(own: Tensor, parent: Tensor, similarity: str = COSINE) -> dict[str, float]:
    """How alike a candidate and its parent answer when each text is looked for among the others.

    Args:
        own, parent: embeddings (texts, width) of the same texts, of length 1 where they are compared by their cosine.
        similarity: as Sentence Transformers names it: cosine, dot, euclidean or manhattan.

    Returns:
        `recall_at_5`: of the five texts nearest to each text by the parent's embeddings the share that is among the
        five nearest by the candidate's. `same_nearest`: the share of texts whose nearest text is the same. Nothing of
        five texts or fewer, where all are found.

    Example:
        >>> compute_retrieval(torch.eye(8), torch.eye(8))
        {'recall_at_5': 1.0, 'same_nearest': 1.0}
    """
    if len(parent) <= FOUND:
        return {}
    retrieved, wanted = (_find_nearest(vectors, similarity) for vectors in (own, parent))
    hits = (retrieved[:, :, None] == wanted[:, None, :]).any(1).float()
    same = (retrieved[:, 0] == wanted[:, 0]).float()
    return {RECALL: float(hits.mean()), SAME_NEAREST: float(same.mean())}


def _find_nearest(vectors: Tensor, similarity: str) -> Tensor:
    """(texts, FOUND): positions of the nearest other texts, nearest first; of equally near ones the first."""
    norm = _NORMS.get(similarity)
    near = vectors @ vectors.T if norm is None else -torch.cdist(vectors, vectors, p=norm)
    near.fill_diagonal_(-torch.inf)
    return near.sort(dim=1, descending=True, stable=True).indices[:, :FOUND]

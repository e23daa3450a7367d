"""Encoders: how well a candidate keeps the parent's embeddings and the similarities between them."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from nas.data.dataset import Dataset
from nas.quality.neighbours import compute_retrieval
from nas.quality.quality import Quality
from nas.quality.ranks import compute_rank_correlation
from pruning.checkpoint.sentence_embedding import COSINE, SentenceEmbedding, read_sentence_embedding
from search_spaces.errors import ModelError

_BATCH = 32
_VECTORS = 2  # axes of a batch of them; states of tokens have one more
_MIN_SQUARE = 1e-12  # of a squared length
DEFAULT = SentenceEmbedding()


class EmbeddingEvaluator:
    """1 - half the squared distance of candidate's and parent's embedding: their cosine, where both have length 1.

    An embedding is what the model's folder says (`pruning.checkpoint.sentence_files`); of a folder that says
    nothing, the mean over the real tokens, normalised. Vectors that are compared by their cosine are normalised
    for it; others keep their lengths, and the distance is relative to that of the parent's.
    """

    metric = "embedding_fidelity"
    higher_is_better = True

    def __init__(self, parent: Any, dataset: Dataset) -> None:
        """`parent` is kept; its embeddings are computed when a split is first asked for."""
        self.dataset, self._parent = dataset, parent
        pooling = read_sentence_embedding(parent)
        self._embedding = pooling or DEFAULT
        self._source = "no modules.json says otherwise" if pooling is None else "as modules.json says"
        self._has_head = parent.get_output_embeddings() is not None
        self._stored: dict[str, Tensor] = {}

    @property
    def words(self) -> str:
        """What is compared, and how texts are embedded."""
        if not self._pools():
            return "embeddings (the vectors that the model gives)"
        return f"embeddings ({self._embedding.words}; {self._source})"

    @torch.inference_mode()
    def _pools(self) -> bool:
        """Whether the model gives states of tokens, of which a vector is made, rather than the vector."""
        return bool(
            self._get_trunk(self._parent)(**next(self.dataset.calibration.iterate_batches(1)))[0].ndim > _VECTORS
        )

    def _get_trunk(self, model: Any) -> Any:
        """What gives them: a model without its head."""
        return model.base_model if self._has_head else model

    @torch.inference_mode()
    def evaluate(self, model: Any, split: str = "validation", items: int | None = None, start: int = 0) -> Quality:
        """Fidelity, Spearman's rank correlation of all pairwise similarities with the parent's, and retrieval.

        Retrieval is judged on whole splits only: among fewer texts others are nearest.

        Raises:
            ModelError: the candidate's embeddings have another width.
        """
        if split not in self._stored:
            self._stored[split] = self._embed(self._parent, split, None, 0)
        own = self._embed(model, split, items, start)
        parent = self._stored[split][start : start + len(own)]
        if own.shape != parent.shape:
            raise ModelError(
                f"the model's embeddings have {own.shape[1]} numbers and its parent's {parent.shape[1]}; compare it "
                "with the parent that it was made from"
            )
        per_item = (own - parent).square().sum(-1) / (2 * parent.square().sum(-1)).clamp(min=_MIN_SQUARE)
        loss, others = float(per_item.mean()), {"spearman": _compute_spearman(own, parent)}
        if len(own) == len(self._stored[split]):
            others |= compute_retrieval(own, parent, self._embedding.similarity)
        return Quality(self.metric, 1 - loss, True, split, loss, others, len(per_item), tuple(per_item.tolist()))

    def _embed(self, model: Any, split: str, items: int | None, start: int) -> Tensor:
        """As the model's own folder says, or else its parent's: a pruned copy has what its parent has."""
        own = read_sentence_embedding(model) or self._embedding
        batches = self.dataset.get_split(split).iterate_batches(_BATCH, items, start)
        vectors = torch.cat([embed(self._get_trunk(model), batch, own) for batch in batches])
        return normalize(vectors, dim=-1) if self._embedding.similarity == COSINE else vectors


def embed(model: Any, batch: dict[str, Tensor], embedding: SentenceEmbedding = DEFAULT) -> Tensor:
    """(batch, width) in fp32: the vectors that a model without a head gives, or those made of its hidden states."""
    output: Tensor = model(**batch)[0].float()
    if output.ndim == _VECTORS:
        return output
    mask = batch.get("attention_mask")
    return embedding(output, torch.ones(output.shape[:2]) if mask is None else mask)


def describe_other_embedding(candidate: Any, parent: Any) -> str:
    """How a finished model's folder differs from its parent's in how texts are embedded; empty where it does not."""
    own, its = read_sentence_embedding(candidate), read_sentence_embedding(parent)
    if its is None or (own is not None and own.digest == its.digest):
        return ""
    if own is None:
        return "has no modules.json: it is judged as its parent says, and Sentence Transformers would take another way"
    return f"embeds in another way than its parent, and is judged by its own: {own.words}"


def _compute_spearman(own: Tensor, parent: Tensor) -> float:
    """Of the similarities of all pairs; 1.0 when there are fewer than three."""
    above = torch.triu_indices(len(own), len(own), offset=1)
    return compute_rank_correlation(*((e @ e.T)[above[0], above[1]] for e in (own, parent)))

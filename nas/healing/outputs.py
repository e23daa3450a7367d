"""What of a model's outputs is compared with its parent's in training: what its candidates are judged by."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn.functional import normalize

from nas.quality.answers import AnswerEvaluator
from nas.quality.classification import ClassificationEvaluator
from nas.quality.distribution import StoredDistribution
from nas.quality.embedding import DEFAULT, EmbeddingEvaluator, embed
from nas.quality.evaluator import Evaluator
from nas.quality.labels import LabelEvaluator, compute_bernoulli_divergence
from nas.quality.language import LanguageEvaluator
from nas.quality.pairs import PairEvaluator
from nas.quality.prompt import PromptEvaluator
from pruning.checkpoint.sentence_embedding import COSINE, read_sentence_embedding
from search_spaces.errors import ModelError

LIKELIEST = 128  # of a parent's outcomes that are told apart; the rest is one
_TINY = 1e-12  # of a squared length


@dataclass(frozen=True)
class OutputLoss:
    """What of a model's outputs is compared, and how.

    Attributes:
        run: (items, rows, outcomes or width) that a model gives for its inputs.
        compare: (n,) of the rows (n, outcomes or width) of a model, and of its parent.
        distributions: whether rows are logits of one distribution each, of which the likeliest outcomes will do.
        mark_real: (items, rows) bool, the rows that count, of the inputs; None where all do.
    """

    run: Callable[[Any, Mapping[str, Tensor]], Tensor]
    compare: Callable[[Tensor, Tensor], Tensor]
    distributions: bool = False
    mark_real: Callable[[Mapping[str, Tensor]], Tensor] | None = None


def find_output_loss(evaluator: Evaluator, parent: Any, answer_tokens: int = 1) -> OutputLoss:
    """The loss that belongs to an evaluator of `parent`'s candidates.

    Args:
        answer_tokens: of a question's answer, which stand at the end of the inputs but for the last.

    Raises:
        ModelError: there is none for its kind of outputs.
    """
    match evaluator:
        case LanguageEvaluator():
            return OutputLoss(_compute_all_logits, compute_divergence, distributions=True)
        case PromptEvaluator():
            return OutputLoss(_keep_last_logits(1), compute_divergence, distributions=True)
        case AnswerEvaluator():
            return OutputLoss(
                _keep_last_logits(answer_tokens), compute_divergence, distributions=True,
                mark_real=lambda inputs: inputs["attention_mask"][:, -answer_tokens:].bool(),
            )  # fmt: skip
        case PairEvaluator():
            return OutputLoss(
                _compute_all_logits, compute_divergence, distributions=True,
                mark_real=lambda inputs: inputs["decoder_attention_mask"].bool(),
            )  # fmt: skip
        case ClassificationEvaluator():
            return OutputLoss(_compute_logits, compute_divergence, distributions=True)
        case LabelEvaluator():
            return OutputLoss(_compute_logits, lambda own, its: compute_bernoulli_divergence(its, own).mean(-1))
        case EmbeddingEvaluator():
            return OutputLoss(_build_embedder(parent), compute_relative_distance)
    raise ModelError(
        f"a {type(parent).__name__} cannot be healed: its outputs are judged by {evaluator.metric}, for which there is "
        "no training loss; heal language models, vision-language models, classifiers and models that give embeddings"
    )


def compute_divergence(own: Tensor, parent: Tensor) -> Tensor:
    """KL(parent || own) row by row, in nats, of logits (n, outcomes); of many outcomes the most likely are told apart.

    Which those are, `StoredDistribution` decides, as where candidates are judged.
    """
    return StoredDistribution.of(parent).compute_divergence(own)


def compute_relative_distance(own: Tensor, parent: Tensor) -> Tensor:
    """Half the squared distance, relative to the parent's squared length: 1 - cosine, where both have length 1."""
    return (own - parent).square().sum(-1) / (2 * parent.square().sum(-1)).clamp(min=_TINY)


def _compute_all_logits(model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    logits: Tensor = model(**inputs, use_cache=False).logits
    return logits


def _keep_last_logits(count: int) -> Callable[[Any, Mapping[str, Tensor]], Tensor]:
    def run(model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
        logits: Tensor = model(**inputs, use_cache=False, logits_to_keep=count).logits
        return logits[:, -count:]

    return run


def _compute_logits(model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    logits: Tensor = model(**inputs).logits
    return logits[:, None].float()


def _build_embedder(parent: Any) -> Callable[[Any, Mapping[str, Tensor]], Tensor]:
    """What makes an embedding of a model without its head, as the parent's folder says."""
    embedding = read_sentence_embedding(parent) or DEFAULT
    has_head = parent.get_output_embeddings() is not None

    def run(model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
        vectors = embed(model.base_model if has_head else model, dict(inputs), embedding)
        return (normalize(vectors, dim=-1) if embedding.similarity == COSINE else vectors)[:, None]

    return run

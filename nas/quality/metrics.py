"""The metrics of qualities, in one registry: what each is called, which way is better, how it is averaged.

A new metric is an entry here and an evaluator that gives it; one that is not listed is refused, not lost.
"""

from dataclasses import dataclass
from enum import StrEnum

from search_spaces.errors import UsageError


class Mean(StrEnum):
    """How the values of two sets of items make the value of both."""

    ARITHMETIC = "arithmetic"
    GEOMETRIC = "geometric"
    NONE = "none"  # it cannot be put together from parts, as a rank correlation


@dataclass(frozen=True)
class Metric:
    """A number that says how good a model is, or how near to its parent.

    Attributes:
        name: in files.
        label: for people, in a table's head.
        meaning: one line, in a glossary.
        absolute: whether it judges a model by itself, so that models of different parents can be compared.
        loss: what a search minimises where this is the headline; the metric itself where it is None.

    Example:
        >>> find_metric("perplexity").mean
        <Mean.GEOMETRIC: 'geometric'>
    """

    name: str
    label: str
    meaning: str
    higher_is_better: bool
    mean: Mean = Mean.ARITHMETIC
    absolute: bool = False
    loss: str | None = None


_KL = "KL to the parent"
METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            "kl", _KL,
            "how far predictions are from the parent's: Kullback-Leibler divergence, nats a token or item; 0 is equal",
            higher_is_better=False,
        ),
        Metric(
            "next_token_kl", "KL of the next token to the parent",
            "how far the prediction of the next token is from the parent's, nats", higher_is_better=False,
        ),
        Metric(
            "label_kl", "KL of every label to the parent's",
            "how far the probabilities of labels are from the parent's, nats", higher_is_better=False,
        ),
        Metric(
            "token_kl", "KL of every token's classes to the parent's",
            "how far the predicted class of each token is from the parent's, nats", higher_is_better=False,
        ),
        Metric(
            "relative_squared_error", "squared error to the parent, over the spread of its scores",
            "squared difference to the parent's scores over their variance; 0 is equal", higher_is_better=False,
        ),
        Metric(
            "embedding_fidelity", "embedding fidelity", "cosine of a model's embedding to the parent's; 1 is equal",
            higher_is_better=True, loss="1 - embedding fidelity",
        ),
        Metric(
            "accuracy", "accuracy", "share of right answers", higher_is_better=True, absolute=True, loss=_KL,
        ),
        Metric(
            "perplexity", "perplexity",
            "of the true next tokens: exp of the mean loss, the effective number of equally likely choices",
            higher_is_better=False, mean=Mean.GEOMETRIC, absolute=True,
        ),
        Metric(
            "agreement", "agreement with the parent", "share of items on which a model answers as the parent does",
            higher_is_better=True,
        ),
        Metric(
            "acceptance", "tokens that are the parent's",
            "share of next tokens, the likeliest each time, that are the parent's: those of a draft that it accepts",
            higher_is_better=True, loss="1 - acceptance",
        ),
        Metric(
            "spearman", "rank correlation with the parent", "rank correlation with the parent; 1 is the same order",
            higher_is_better=True, mean=Mean.NONE,
        ),
        Metric(
            "recall_at_5", "recall@5 of the parent's neighbours",
            "share of the five texts nearest to each text by the parent that are among its five nearest; 1 is equal",
            higher_is_better=True, mean=Mean.NONE,
        ),
        Metric(
            "same_nearest", "unchanged nearest neighbours", "share of texts whose nearest text is the parent's",
            higher_is_better=True, mean=Mean.NONE,
        ),
    )
}  # fmt: skip


def find_metric(name: str) -> Metric:
    """The metric of a name.

    Raises:
        UsageError: it is not registered.
    """
    if name not in METRICS:
        raise UsageError(f"metric {name!r} is none of {', '.join(METRICS)}; register it in nas/quality/metrics.py")
    return METRICS[name]

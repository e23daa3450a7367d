"""What a confidence threshold does: how many queries the small model keeps, and how often it is right with those.

The confidence is the largest probability of the model's softmax, the usual baseline for telling right answers from
wrong ones (Hendrycks and Gimpel, ICLR 2017). What it is not sure of goes on to the parent: a cascade.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from nas.routing.answers import Answers


@dataclass(frozen=True)
class Point:
    """One threshold.

    Attributes:
        threshold: the least confidence of a query that the small model keeps.
        share: of all queries, those that it keeps.
        agreement: of those, the share that it answers as the parent would; 1 where it keeps none.

    Example:
        >>> round(Point(threshold=0.9, share=0.5, agreement=0.96).overall, 2)
        0.98
    """

    threshold: float
    share: float
    agreement: float

    @property
    def overall(self) -> float:
        """The share of all queries that are answered as the parent would: it answers those that go on to it."""
        return 1 - self.share * (1 - self.agreement)


def compute_point(answers: Answers, threshold: float) -> Point:
    """What a threshold does with some queries."""
    kept = answers.confidence >= threshold
    count = int(kept.sum())
    agreement = float(answers.agrees[kept].double().mean()) if count else 1.0
    return Point(threshold, count / len(kept), agreement)


def find_threshold(answers: Answers, agreement: float) -> float | None:
    """The least threshold above which at least a share of the answers is the parent's; None where there is none.

    Queries of equal confidence are kept together or not at all.
    """
    confidence, order = answers.confidence.sort(descending=True)
    right = answers.agrees[order].double().cumsum(0) / torch.arange(1, len(order) + 1)
    ends = torch.cat([confidence[1:] < confidence[:-1], torch.tensor([True])])
    enough = (ends & (right >= agreement)).nonzero()[:, 0]
    return float(confidence[enough[-1]]) if len(enough) else None


def compute_curve(answers: Answers, shares: Sequence[float]) -> list[Point]:
    """A point for each share of the queries, at the confidence that keeps at least so many."""
    confidence = answers.confidence.sort(descending=True).values
    counts = [max(1, min(len(confidence), round(share * len(confidence)))) for share in shares]
    return [compute_point(answers, float(confidence[count - 1])) for count in counts]

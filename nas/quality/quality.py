"""A quality: one number a search minimises, the metrics people read, and where it was measured."""

import math
from dataclasses import dataclass, field, replace
from typing import Any

from nas.quality.metrics import Mean, find_metric


@dataclass(frozen=True)
class Quality:
    """How far an architecture is from the parent on one split.

    Attributes:
        metric: the headline metric; `value` its value, better higher if `higher_is_better`.
        loss: what the search minimises; 0 for the parent itself.
        others: more metrics by name.
        per_item: the loss of every item, for paired comparisons; not part of the JSON form.

    Example:
        >>> first = Quality("kl", 0.1, False, "test", 0.1, items=1, per_item=(0.1,))
        >>> later = Quality("kl", 0.3, False, "test", 0.3, items=1, per_item=(0.3,))
        >>> first.join(later).loss
        0.2
    """

    metric: str
    value: float
    higher_is_better: bool
    split: str
    loss: float
    others: dict[str, float] = field(default_factory=dict)
    items: int = 0
    per_item: tuple[float, ...] = field(default=(), compare=False, repr=False)

    def join(self, later: "Quality") -> "Quality":
        """The quality on these items and the later ones together; without what cannot be put together from parts.

        Raises:
            UsageError: a metric that is not registered, of which nobody knows how it is averaged.
        """
        items = self.items + later.items
        mine, theirs = self.items / items, later.items / items
        others = {}
        for name, value in self.others.items():
            match find_metric(name).mean:
                case Mean.ARITHMETIC:
                    others[name] = mine * value + theirs * later.others[name]
                case Mean.GEOMETRIC:
                    others[name] = math.exp(mine * math.log(value) + theirs * math.log(later.others[name]))
                case Mean.NONE:
                    pass
        return replace(
            self,
            value=mine * self.value + theirs * later.value,
            loss=mine * self.loss + theirs * later.loss,
            others=others,
            items=items,
            per_item=(*self.per_item, *later.per_item),
        )

    def to_json(self) -> dict[str, Any]:
        """The `quality` object of the result."""
        return {
            "metric": self.metric,
            "value": self.value,
            "higher_is_better": self.higher_is_better,
            "split": self.split,
            "loss": self.loss,
            "items": self.items,
            **self.others,
        }

    @classmethod
    def from_json(cls, document: dict[str, Any], per_item: tuple[float, ...] = ()) -> "Quality":
        """Read what `to_json` writes; `per_item` is kept apart from it."""
        own = ("metric", "value", "higher_is_better", "split", "loss", "items")
        others = {name: value for name, value in document.items() if name not in own}
        return cls(**{name: document[name] for name in own}, others=others, per_item=per_item)

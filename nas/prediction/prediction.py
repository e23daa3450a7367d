"""What a model makes of one input, as a person reads it, and how long that took."""

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nas.prediction.tasks import Inputs, Task


@dataclass(frozen=True)
class Prediction:
    """What was made of one input.

    Attributes:
        text: for people.
        value: token ids (tokens,), logits (labels,), or an embedding (width,).
        count: tokens that were generated, or one item.
        unit: of the count.
        seconds: that it took.

    Example:
        >>> Prediction("return", torch.tensor([17]), count=1, unit="token", seconds=0.01).rate
        100.0
    """

    text: str
    value: Tensor
    count: int
    unit: str
    seconds: float

    @property
    def rate(self) -> float:
        """How many a second."""
        return self.count / self.seconds

    def to_json(self) -> dict[str, Any]:
        """The JSON form, without the numbers that the text was made from."""
        return {"text": self.text, "count": self.count, "unit": self.unit, "seconds": self.seconds, "rate": self.rate}


@torch.inference_mode()
def predict(model: Any, task: Task, inputs: Inputs) -> Prediction:
    """The prediction of a model, timed once it has warmed up."""
    task.warm_up(model, inputs)
    began = time.perf_counter()
    value = task.predict(model, inputs)
    seconds = time.perf_counter() - began
    return Prediction(task.describe(value), value, task.count(value), task.unit, seconds)

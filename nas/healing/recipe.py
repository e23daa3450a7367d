"""How a winner is healed: how long, on how much at a time, how fast, and which of its weights."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from nas.request.choices import ALL, AUTO, LORA, PROJECTIONS, TRAINED, check_device
from search_spaces.errors import UsageError

MINUTES = 10.0
RATES = {PROJECTIONS: 1e-3, LORA: 1e-3, ALL: 3e-4}  # more weights move a model further at the same rate


@dataclass(frozen=True)
class Recipe:
    """All that a healing depends on besides model and data.

    Attributes:
        minutes: how long; they are made a number of steps once, by the pace of the machine.
        steps: how many instead; None where minutes were given.
        learning_rate: the highest; None for the usual one of what is trained.
        warm_up: share of the steps in which it rises from 0; from there it falls to 0 like a cosine.
        batch_items: that run at once.
        accumulation: batches of one step.
        clip: the longest that a gradient may be.
        hidden_weight: of the hidden states' error, beside the loss of the outputs.
        trained: which weights; a name in `TRAINED`.
        seed: of the order of the items.
        evaluate_every: steps between two evaluations on the validation split; None for a tenth of all.
        patience: so many evaluations in a row without an improvement end it, from half of the steps on.
        save_every: steps after which all that a run needs to go on is written.
        copies: of each window of text, with noise, that are trained on too.
        noise: share of their tokens that the parent has put there.
        mixed: copies of each text of a model for embeddings, with words of other texts, that are trained on too.
        device: where; auto takes all GPUs that there are, else the CPU.

    Example:
        >>> Recipe(steps=100).minutes is None
        True
    """

    minutes: float | None = None
    steps: int | None = None
    learning_rate: float | None = None
    warm_up: float = 0.05
    batch_items: int = 4
    accumulation: int = 2
    clip: float = 1.0
    hidden_weight: float = 1.0
    trained: str = PROJECTIONS
    seed: int = 0
    evaluate_every: int | None = None
    patience: int = 3
    save_every: int = 50
    copies: int = 3
    noise: float = 0.3
    mixed: int = 15
    device: str = AUTO

    def __post_init__(self) -> None:
        if self.minutes is not None and self.steps is not None:
            raise UsageError(f"--minutes {self.minutes:g} and --steps {self.steps} say both how long; leave one out")
        if self.minutes is None and self.steps is None:
            object.__setattr__(self, "minutes", MINUTES)
        if self.learning_rate is None and self.trained in RATES:
            object.__setattr__(self, "learning_rate", RATES[self.trained])
        for name in ("minutes", "steps", "learning_rate", "batch_items", "accumulation", "clip", "evaluate_every"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise UsageError(f"--{name.replace('_', '-')} {value:g} is not above zero; give a positive number")
        if self.trained not in TRAINED:
            raise UsageError(f"--train {self.trained!r} is none of {', '.join(TRAINED)}")
        check_device(self.device)

    @property
    def highest_rate(self) -> float:
        """The learning rate at the end of the warm-up."""
        assert self.learning_rate is not None, "it is settled when a recipe is made"
        return self.learning_rate

    def compute_rate(self, step: int, steps: int) -> float:
        """The learning rate of a step, from 0 on, of so many."""
        rising = max(1, round(self.warm_up * steps))
        if step < rising:
            return self.highest_rate * (step + 1) / rising
        return self.highest_rate * 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))

    def to_json(self) -> dict[str, Any]:
        """The JSON form; `Recipe(**document)` reads it."""
        return asdict(self)

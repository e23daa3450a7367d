"""How much time measuring may take."""

from dataclasses import dataclass

from latency_models.run_plan import MIN_ROUNDS


@dataclass(frozen=True)
class Effort:
    """How long is measured, all sessions together, warm-up not counted.

    Attributes:
        seconds: to spend.
        min_rounds: that are made, however long they take.
        limit_s: seconds at most; None for no limit.

    Example:
        >>> Effort(20.0).min_rounds
        10
    """

    seconds: float
    min_rounds: int = MIN_ROUNDS
    limit_s: float | None = None

"""What every latency model answers, and the form of its answers."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from latency_models.profile import Profile
from latency_models.workload import Workload
from search_spaces.architecture import Architecture
from search_spaces.schedule import Reduction
from search_spaces.unit import Choice, Unit


@dataclass(frozen=True)
class Prediction:
    """A latency in ms at a percentile, with an interval that is meant to hold 90 times of 100.

    A fit to fewer than nine records gives the widest interval they allow, which holds less often.
    `exact`: this very architecture was measured and `ms` is that measurement. `extrapolated`: outside of what the
    model was calibrated on.

    Example:
        >>> Prediction(ms=10.0, low_ms=9.5, high_ms=10.7, percentile=90).exact
        False
    """

    ms: float
    low_ms: float
    high_ms: float
    percentile: int
    exact: bool = False
    extrapolated: bool = False


class LatencyModel(Protocol):
    """Predicts the latency of architectures of one parent under one workload on one target.

    Example:
        >>> latency: LatencyModel = CalibratedModel(profile)
        >>> saved_ms = latency.predict_unit_ms(Unit(3, Kind.MLP))
    """

    workload: Workload
    measured: bool  # whether it rests on measurements of the target
    label: str  # for people: where the figures come from

    @property
    def profile(self) -> Profile | None:
        """What it was fitted to; None where nothing was measured."""

    def refit(self, profile: Profile) -> "LatencyModel":
        """The model of the same kind and label fitted to another profile of the target; of a data sheet, the first.

        Raises:
            MeasurementError: the profile holds too little for a fit.
        """

    def predict(self, architecture: Architecture, percentile: int = 50) -> Prediction:
        """The latency of an architecture."""

    def predict_unit_ms(self, chosen: Unit | Choice) -> float:
        """Milliseconds (p50) that one choice saves of the parent; a unit stands for dropping it. For planning."""

    def predict_savings(self, choices: Iterable[Choice], reduction: Reduction | None = None) -> dict[Choice, float]:
        """The same made additive: what to sum over a set of choices that holds all that they imply."""


MEASURED_LABEL = "measured on this machine"
DATA_SHEET_LABEL = "predicted from the data sheet, not measured"

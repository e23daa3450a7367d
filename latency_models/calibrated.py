"""L1 and L2: a latency model fitted to a few whole-model measurements of a parent's architectures.

Each measurement enters as its ratio to the sentinel of the same round times the parent's median, which takes drift
out. What was measured is answered with the measurement; anything else by regression on the kept units.
"""

import math
from collections.abc import Iterable
from functools import cached_property
from statistics import NormalDist
from typing import Self

import numpy as np
from numpy.typing import NDArray

from latency_models.marginal import compute_marginal_values
from latency_models.measurement import Measurement
from latency_models.model import MEASURED_LABEL, Prediction
from latency_models.profile import Profile
from latency_models.regression import COVERAGE, Regression
from latency_models.targets import HOST
from latency_models.terms import Terms
from search_spaces.architecture import Architecture, make_choice
from search_spaces.errors import MeasurementError
from search_spaces.level import DROP
from search_spaces.rules import get_parts
from search_spaces.schedule import Reduction
from search_spaces.unit import Choice, Unit

MIN_RECORDS = 4
TAIL_SAMPLES = 64  # fewer bound no 90th percentile (MLPerf's early stopping): the tail of all records is used


class CalibratedModel:
    """Predicts from a profile; an architecture that was measured is answered with its measurement.

    Example:
        >>> model = CalibratedModel(Profile.load(Path("profile.json")))
        >>> ms = model.predict(architecture, percentile=90).ms
    """

    measured = True

    def __init__(self, profile: Profile, label: str | None = None) -> None:
        """Fit the profile.

        Args:
            label: for people; None says which target was measured.

        Raises:
            MeasurementError: with fewer than four records, or without the parent among them.
        """
        parent = profile.find_measurement(Architecture.parent(profile.shape.depth))
        if parent is None or len(profile.records) < MIN_RECORDS:
            raise MeasurementError(
                f"the profile has {len(profile.records)} records; at least {MIN_RECORDS} with the parent among them "
                "are needed, so measure again"
            )
        self.profile, self.workload, self._parent = profile, profile.workload, parent
        self.label = label or (MEASURED_LABEL if profile.target == HOST else f"measured on {profile.target}")
        self.terms = Terms.over(profile.shape, profile.workload, (r.architecture for r in profile.records))
        self._tails: dict[int, float] = {}
        rows = np.array([self.terms.compute_row(record.architecture) for record in profile.records])
        measured = np.array([self._choose_level(record.measurement.compute_ratio()) for record in profile.records])
        self.regression = Regression.fit(rows, measured, len(self.terms.names))

    def refit(self, profile: Profile) -> Self:
        """The model of the same kind and label, fitted to another profile of the same target.

        Raises:
            MeasurementError: as the constructor.
        """
        return type(self)(profile, self.label)

    def predict(self, architecture: Architecture, percentile: int = 50) -> Prediction:
        """The measured value where there is one, else the fit with its jackknife+ interval.

        From a profile without token schedules, one is predicted to save nothing, and from one without other levels than
        dropped, such a level to save in proportion to its arithmetic; both are said to be extrapolated.
        A percentile other than the median is the fitted median times the records' median of percentile over median.
        """
        known = self.profile.find_measurement(architecture)
        if known is not None:
            ms = self._choose_level(known.compute_ratio()) * self._estimate_own_tail(known, percentile)
            low_ms, high_ms = (ms * bound / known.p50 for bound in known.compute_median_interval(COVERAGE))
            return Prediction(ms, low_ms, high_ms, percentile, exact=True)
        row, tail = self.terms.compute_row(architecture), self._estimate_tail(percentile)
        ms, outside = (
            self.regression.predict(row),
            not self.terms.covers(architecture) or self.regression.is_outside(row),
        )
        low_ms, high_ms = (ms * self._widen(bound / ms) for bound in self.regression.predict_interval(row))
        return Prediction(ms * tail, low_ms * tail, high_ms * tail, percentile, extrapolated=outside)

    def predict_unit_ms(self, chosen: Unit | Choice) -> float:
        """The fitted milliseconds (p50) that a choice alone saves of the parent; of a dropped block, both its parts."""
        choice = make_choice(chosen)
        if choice.level != DROP:
            parent = Architecture.parent(self.profile.shape.depth)
            saved = self.terms.compute_row(parent) - self.terms.compute_row(parent.drop(choice))
            return float(self.coefficients @ saved[: len(self.coefficients)])
        parts = (Unit(choice.layer, kind) for kind in get_parts(choice.unit.kind))
        return float(sum(self.coefficients[self.terms.find_columns(part)].sum() for part in parts))

    def predict_savings(self, choices: Iterable[Choice], reduction: Reduction | None = None) -> dict[Choice, float]:
        """What each choice adds to the savings of a set of them, ms (p50), as `latency_models.marginal` has it.

        Each was measured under the profile's own reduction, so `reduction` changes nothing.
        """
        return compute_marginal_values({choice: self.predict_unit_ms(choice) for choice in choices})

    @property
    def term_ms(self) -> dict[str, float]:
        """Milliseconds (p50) of the shared terms, of one unit of each class on all tokens, and of the stage terms."""
        return self.terms.compute_per_unit(self.coefficients)

    @property
    def coefficients(self) -> NDArray[np.float64]:
        """Milliseconds (p50) of each of `terms.names`."""
        return self.regression.coefficients

    @cached_property
    def error(self) -> float:
        """Median relative error when each record is predicted from the others."""
        return float(np.expm1(np.median(np.abs(self.regression.residuals))))

    def _widen(self, factor: float) -> float:
        """A bound's factor with what processes have in common added: all records of one share it, no residual has it.

        The sentinel of a process may be lucky in where its memory lies; its candidates then all seem slow together.
        """
        return math.exp(math.copysign(math.hypot(math.log(factor), self._apart), math.log(factor)))

    @cached_property
    def _apart(self) -> float:
        """90 % of the log ratio between two measurements of everything, from how far the sessions lie apart."""
        sessions = [np.log(record.measurement.compute_session_ratios()) for record in self.profile.records]
        count = min(map(len, sessions))
        if count < 2:
            return 0.0
        logs = np.array([each[:count] for each in sessions])
        common = np.median(logs - logs.mean(1, keepdims=True), axis=0)
        spread = math.sqrt(float((common**2).sum()) / (count - 1))
        return NormalDist().inv_cdf((1 + COVERAGE) / 2) * spread * math.sqrt(2 / count)

    def _estimate_tail(self, percentile: int) -> float:
        if percentile not in self._tails:
            measurements = [record.measurement for record in self.profile.records]
            self._tails[percentile] = float(np.median([m.compute_percentile(percentile) / m.p50 for m in measurements]))
        return self._tails[percentile]

    def _estimate_own_tail(self, known: Measurement, percentile: int) -> float:
        """Percentile over median of what was measured; of everything where it has too few samples."""
        enough = len(known.samples_ms) >= TAIL_SAMPLES
        return known.compute_percentile(percentile) / known.p50 if enough else self._estimate_tail(percentile)

    def _choose_level(self, ratio: float) -> float:
        return ratio * self._parent.p50


class PairedModel(CalibratedModel):
    """The same fit for a budget that is a fraction of the parent: everything has the parent's tail.

    What an architecture takes of the parent is then its median ratio in the same rounds at every percentile, so that
    nothing but the ratio decides who meets the fraction.

    Example:
        >>> model = PairedModel(profile)
        >>> fraction = model.predict(architecture, 90).ms / model.predict(parent, 90).ms
    """

    def _estimate_tail(self, percentile: int) -> float:
        return self._parent.compute_percentile(percentile) / self._parent.p50

    def _estimate_own_tail(self, known: Measurement, percentile: int) -> float:
        return self._estimate_tail(percentile)

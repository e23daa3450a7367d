"""Joules per inference, in the form of the latency model: what the device draws for each unit that is kept.

Energy is idle power times time and what each operation and byte costs on top; time and both counts are non-negative
combinations of the same terms, so energy is one too, and needs no idle power that would have to be known.
"""

import numpy as np
from numpy.typing import NDArray

from latency_models.profile import Profile
from latency_models.regression import Regression
from latency_models.terms import Terms
from search_spaces.architecture import Architecture
from search_spaces.errors import MeasurementError

MIN_RECORDS = 4
_INFERENCES = 1000
_JOULES_PER_WH = 3600


def has_energy(profile: Profile) -> bool:
    """Whether every record was measured with its energy, above zero."""
    joules = [record.measurement.joules for record in profile.records]
    return len(joules) >= MIN_RECORDS and all(values and float(np.median(values)) > 0 for values in joules)


def convert_to_wh_per_1000(joules: float) -> float:
    """Watt-hours of a thousand inferences, as the AI Energy Score counts."""
    return joules * _INFERENCES / _JOULES_PER_WH


class EnergyModel:
    """Predicts from a profile whose records have energies; what was measured is answered with its median.

    Example:
        >>> joules = EnergyModel(profile).predict_joules(architecture)
    """

    def __init__(self, profile: Profile) -> None:
        """Fit the profile.

        Raises:
            MeasurementError: with fewer than four records, or one without energy.
        """
        if not has_energy(profile):
            raise MeasurementError(
                f"not each of the profile's {len(profile.records)} records has an energy, or they are fewer than "
                f"{MIN_RECORDS}; measure again where the device's energy can be read"
            )
        self.terms = Terms.over(profile.shape, profile.workload, (r.architecture for r in profile.records))
        self._known = {r.architecture: float(np.median(r.measurement.joules)) for r in profile.records}
        rows = np.array([self.terms.compute_row(architecture) for architecture in self._known])
        self.regression = Regression.fit(rows, np.array(list(self._known.values())), len(self.terms.names))

    def predict_joules(self, architecture: Architecture) -> float:
        """Joules of one inference."""
        known = self._known.get(architecture)
        return self.regression.predict(self.terms.compute_row(architecture)) if known is None else known

    def predict_interval(self, architecture: Architecture) -> tuple[float, float]:
        """Where a measurement of it lies 90 times of 100, joules."""
        return self.regression.predict_interval(self.terms.compute_row(architecture))

    @property
    def coefficients(self) -> NDArray[np.float64]:
        """Joules of each of `terms.names`."""
        return self.regression.coefficients

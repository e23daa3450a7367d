"""L0: milliseconds from a data sheet, before anything was measured.

Each fused unit takes max(arithmetic / (eta_c * peak), bytes / (eta_m * bandwidth)) + kernels * launch. The
efficiencies are those that published transformer results on Jetson imply: fp16 ViT-B at about 200 tokens reaches
0.33 to 0.35 of the dense peak, BERT-large int8 0.45 to 0.49; batch-1 decoding reaches 0.75 to 0.9 of the memory
bandwidth. Expect a factor of two either way; the interval says so.
"""

import math
from collections.abc import Iterable

from latency_models.calibrated import CalibratedModel
from latency_models.datasheets import DataSheet
from latency_models.marginal import compute_marginal_values
from latency_models.model import DATA_SHEET_LABEL, Prediction
from latency_models.profile import Profile
from latency_models.shape import ModelShape
from latency_models.targets import Target
from latency_models.work import Work, compute_changed_work, list_works
from latency_models.workload import Workload
from search_spaces.architecture import Architecture, make_choice
from search_spaces.schedule import Reduction
from search_spaces.unit import Choice, Unit, is_structural

COMPUTE_EFFICIENCY = {"fp32": 0.34, "fp16": 0.34, "int8": 0.45, "fp8": 0.45}  # fp8: taken to be that of int8
MEMORY_EFFICIENCY = 0.75
LAUNCH_SECONDS = 3e-6  # per kernel
UNCERTAINTY = 2.0  # the interval is [ms / 2, ms * 2]


def compute_roof_seconds(work: Work, sheet: DataSheet) -> dict[str, float]:
    """What a data sheet says that arithmetic, memory and launches each take at least, at the usual efficiencies."""
    peaks = sheet.list_rates()
    rates = {name: peaks[name] * 1e12 * COMPUTE_EFFICIENCY[name] for name in work.arithmetic}
    return {
        "arithmetic": sum(flops / rates[name] for name, flops in work.arithmetic.items()),
        "memory": work.bytes_moved / (sheet.bandwidth * 1e9 * MEMORY_EFFICIENCY),
        "launches": work.kernels * LAUNCH_SECONDS,
    }


class DataSheetModel:
    """Predicts from the data sheet of a target.

    Example:
        >>> model = DataSheetModel(find_target("jetson-orin"), shape, Workload(Phase.FORWARD))
        >>> ms = model.predict(architecture).ms
    """

    measured = False
    profile = None
    label = DATA_SHEET_LABEL

    def __init__(self, target: Target, shape: ModelShape, workload: Workload) -> None:
        """Raises ValueError for this machine, which has no data sheet."""
        if target.sheet is None:
            raise ValueError(f"{target.name} has no data sheet; measure it")
        self.target, self.shape, self.workload, self._sheet = target, shape, workload, target.sheet

    def refit(self, profile: Profile) -> CalibratedModel:
        """The first measurements of the target take the data sheet's place."""
        return CalibratedModel(profile)

    def predict_work_ms(self, work: Work) -> float:
        """One fused unit under the roofline, ms."""
        seconds = compute_roof_seconds(work, self._sheet)
        return 1e3 * (max(seconds["arithmetic"], seconds["memory"]) + seconds["launches"])

    def predict_unit_ms(self, chosen: Unit | Choice) -> float:
        """What one choice saves of the parent, ms; exact here, since units add up."""
        return self._predict_saved_ms(make_choice(chosen), None)

    def predict_savings(self, choices: Iterable[Choice], reduction: Reduction | None = None) -> dict[Choice, float]:
        """What each choice adds to the savings of a set of them, as `latency_models.marginal` has it."""
        return compute_marginal_values({choice: self._predict_saved_ms(choice, reduction) for choice in choices})

    def _predict_saved_ms(self, choice: Choice, reduction: Reduction | None) -> float:
        if is_structural(choice):
            changed = compute_changed_work(self.shape, choice, self.workload, self.target.precision)
            return sum(self.predict_work_ms(before) - self.predict_work_ms(after) for before, after in changed)
        depth = self.shape.depth
        return self._sum_ms(Architecture.parent(depth)) - self._sum_ms(
            Architecture(depth, frozenset({choice}), reduction)
        )

    def _sum_ms(self, architecture: Architecture) -> float:
        """Summed exactly: what has the same units takes the same time to the last bit."""
        return math.fsum(
            map(self.predict_work_ms, list_works(self.shape, architecture, self.workload, self.target.precision))
        )

    def predict(self, architecture: Architecture, percentile: int = 50) -> Prediction:
        """The sum over stem, kept parts and token stages; every percentile is the same, since no tail was measured."""
        ms = self._sum_ms(architecture)
        return Prediction(ms, ms / UNCERTAINTY, ms * UNCERTAINTY, percentile)

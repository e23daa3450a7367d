"""What is known of a target for one model and workload, as a person would want it told."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latency_models.calibrated import CalibratedModel
from latency_models.datasheet_model import COMPUTE_EFFICIENCY, MEMORY_EFFICIENCY, UNCERTAINTY, DataSheetModel
from latency_models.energy_model import EnergyModel, convert_to_wh_per_1000, has_energy
from latency_models.footprint import Memory, compute_memory
from latency_models.profile import Profile
from latency_models.rates import Rate, compute_rates
from latency_models.shape import ModelShape
from latency_models.targets import Target
from latency_models.terms import Terms
from latency_models.validation import Validation, validate
from latency_models.work import compute_stem_work
from latency_models.workload import Workload
from nas.profiling.profile_store import check_profile
from search_spaces.architecture import Architecture
from search_spaces.errors import MeasurementError, UsageError

_MIB = 1 << 20


@dataclass(frozen=True)
class TargetReport:
    """The latency model of a target in words and numbers.

    Attributes:
        rates: of each term of the model.
        parent_ms: the parent's latency (p50); `joules` of one inference where energy was measured.
        model: the fit, None where only a data sheet speaks; `validation` of it.

    Example:
        >>> report = report_target(find_target("jetson-orin"), None, Workload(Phase.PREFILL))
        >>> lines = report.list_lines()
    """

    target: Target
    workload: Workload
    rates: list[Rate]
    parent_ms: float
    memory: Memory
    model: CalibratedModel | None = None
    validation: Validation | None = None
    joules: float | None = None

    @property
    def title(self) -> str:
        """What, where and how."""
        return f"{self.target.name}, {self.workload}"

    @property
    def caption(self) -> str:
        """How far it can be trusted."""
        if self.model is None:
            return f"From the data sheet, not measured: expect a factor of {UNCERTAINTY:.0f} in either direction"
        note = "" if self.target.sheet else "; no data sheet: bound as usual at this intensity"
        return f"Fitted to {len(self.model.profile.records)} measured architectures{note}"

    def list_lines(self) -> list[tuple[str, str]]:
        """(what, text) below the table of terms."""
        held = self.memory
        parts = f"{held.weights / _MIB:.1f} weights + {held.cache / _MIB:.1f} cache + {held.activations / _MIB:.1f}"
        lines = [
            ("parent", f"{self.parent_ms:.3f} ms p50"),
            ("memory", f"{held.total / _MIB:.1f} MiB at least: {parts} activations"),
        ]
        if self.joules is not None:
            lines.append(
                ("energy", f"{self.joules:.4g} J per inference, {convert_to_wh_per_1000(self.joules):.4g} Wh per 1,000")
            )
        return lines + (self._list_sheet_lines() if self.model is None else self._fit_lines())

    def _list_sheet_lines(self) -> list[tuple[str, str]]:
        sheet, precision = self.target.sheet, self.target.precision
        assert sheet is not None
        efficiency = f"{COMPUTE_EFFICIENCY[precision]:.2f} and {MEMORY_EFFICIENCY:.2f} of them are assumed"
        return [
            ("peaks", f"{sheet.peaks[precision]:.2f} T(FL)OP/s, {sheet.bandwidth:.0f} GB/s; {efficiency}"),
            ("source", sheet.source),
        ]

    def _fit_lines(self) -> list[tuple[str, str]]:
        assert self.model is not None
        assert self.validation is not None
        one, key = self.validation, self.model.profile.key
        correction = "used: it lowers the leave-one-out error" if self.model.regression.corrected else "not needed"
        return [
            ("key", ", ".join(f"{name} {value}" for name, value in key.items())),
            ("error", f"{100 * one.mape:.1f} % mean, {100 * one.within:.0f} % within 10 %, rank {one.spearman:.3f} "
                      f"(each of {one.records} records predicted from the others)"),
            ("intervals", f"{100 * one.coverage:.0f} % of the records are inside, nominally 90 %"),
            ("correction", correction),
        ]  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """The JSON form."""
        sheet = self.target.sheet
        return {
            "schema_version": 1,
            "target": self.target.name,
            "measured": self.model is not None,
            "workload": str(self.workload),
            "key": None if self.model is None else self.model.profile.key,
            "peak_tflops": None if sheet is None else sheet.peaks[self.target.precision],
            "bandwidth_gb_s": None if sheet is None else sheet.bandwidth,
            "parent_p50_ms": self.parent_ms,
            "terms": [rate.to_json() for rate in self.rates],
            "cross_validation": None if self.validation is None else self.validation.to_json(),
            "corrected": self.model is not None and self.model.regression.corrected,
            "joules": self.joules,
            "wh_per_1000": None if self.joules is None else convert_to_wh_per_1000(self.joules),
            "memory_bytes": {
                "weights": self.memory.weights, "cache": self.memory.cache, "activations": self.memory.activations,
            },
        }  # fmt: skip

    def draw(self, path: Path) -> None:
        """Measured against predicted.

        Raises:
            UsageError: nothing was measured.
        """
        from nas.figures.search import draw_prediction

        if self.model is None or self.validation is None:
            raise UsageError(f"--figure needs measurements of {self.target.name}; give some with --profile FILE")
        regression = self.model.regression
        words = f"{100 * self.validation.mape:.1f} % mean error, {self.validation.records} architectures"
        draw_prediction(list(regression.left_out), list(regression.measured), path, title=self.title, words=words)


def report_profile(
    target: Target,
    path: Path,
    workload: Workload | None = None,
    model: str | None = None,
    trust_remote_code: bool = False,
) -> TargetReport:
    """From what was measured.

    Args:
        model: that it must be of; None for any.

    Raises:
        MeasurementError: no readable profile, or too few records.
        ProfileMismatch: it is of another target, precision, workload or model.
    """
    profile = Profile.load(path)
    parent = None
    if model is not None:
        from nas.parent.parent import load_parent_model

        parent = load_parent_model(model, None, trust_remote_code)
    check_profile(profile, path, parent, target, workload or profile.workload)
    return _build_report(target, profile)


def _build_report(target: Target, profile: Profile) -> TargetReport:
    model = CalibratedModel(profile)
    parent = Architecture.parent(profile.shape.depth)
    return TargetReport(
        target, profile.workload, compute_rates(model.terms, model.term_ms, target), model.predict(parent).ms,
        compute_memory(profile.shape, parent, profile.workload, target.precision), model, validate(model.regression),
        EnergyModel(profile).predict_joules(parent) if has_energy(profile) else None,
    )  # fmt: skip


def report_target(
    target: Target, model: str | None, workload: Workload | None, trust_remote_code: bool = False
) -> TargetReport:
    """From the profile of this machine that is kept for a model, or from the data sheet of a device.

    Raises:
        MeasurementError: this machine was not measured with this model and workload.
    """
    from nas.parent.parent import load_parent_model
    from nas.profiling.choose_workload import choose_default_workload
    from nas.profiling.host_profile import get_profile_path

    parent = load_parent_model(model, None, trust_remote_code)
    chosen = workload or choose_default_workload(parent, target)
    if not target.is_host:
        return _report_datasheet(target, parent.shape, chosen)
    path = get_profile_path(parent, chosen)
    if not path.exists():
        again = [
            "nas",
            "profile",
            "--target",
            target.name,
            "--model",
            str(model or parent.id),
            "--workload",
            str(chosen),
        ]
        raise MeasurementError(
            f"{parent.id} was not measured on this machine under {chosen}; measure it with: {shlex.join(again)}"
        )
    profile = Profile.load(path)
    check_profile(profile, path, parent, target, chosen)
    return _build_report(target, profile)


def _report_datasheet(target: Target, shape: ModelShape, workload: Workload) -> TargetReport:
    model, terms, parent = (
        DataSheetModel(target, shape, workload),
        Terms(shape, workload),
        Architecture.parent(shape.depth),
    )
    milliseconds = {"constant": model.predict_work_ms(compute_stem_work(shape, workload, target.precision))}
    milliseconds |= {name: model.predict_unit_ms(units[0]) for name, units in terms.classes.items()}
    held = compute_memory(shape, parent, workload, target.precision)
    return TargetReport(target, workload, compute_rates(terms, milliseconds, target), model.predict(parent).ms, held)

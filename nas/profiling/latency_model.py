"""The latency model of a parent on a target: measured here, measured there and imported, or from the data sheet."""

from latency_models.calibrated import CalibratedModel
from latency_models.datasheet_model import DataSheetModel
from latency_models.model import LatencyModel
from latency_models.profile import Profile
from latency_models.targets import Target
from latency_models.terms import Terms
from latency_models.workload import Workload
from nas.export.parent_export import ParentExport
from nas.parent.parent import ParentModel
from nas.profiling.host_profile import load_host_profile
from nas.profiling.profile_store import fit_device_model, get_device_profile_path, load_device_profile
from nas.progress import Progress
from nas.storage.cache_folder import format_for_file
from search_spaces.space import Space


def load_latency_model(
    parent: ParentModel, target: Target, workload: Workload, export: ParentExport, progress: Progress,
    space: Space | None = None,
) -> LatencyModel:  # fmt: skip
    """The latency model of a target: of a device, its profile where one was imported, else its data sheet.

    With a `space` that has token schedules, the profile is one that covers them.
    """
    if target.is_host:
        return CalibratedModel(load_host_profile(parent, export, workload, progress, space=space))
    path = get_device_profile_path(parent.cache, target, workload)
    if not path.exists():
        _say_what_is_measured(parent, target, workload, progress)
        return DataSheetModel(target, parent.shape, workload)
    profile = load_device_profile(path, parent, target, workload)
    if not _covers_formats(profile, space):
        progress.show_message(
            f"{target.name} was measured without these formats of weights: the data sheet is used; nas profile kit "
            "--precision search measures them"
        )
        return DataSheetModel(target, parent.shape, workload)
    if not _covers(profile, space):
        progress.show_message(f"{target.name} was measured without these token schedules: the data sheet is used")
        return DataSheetModel(target, parent.shape, workload)
    return fit_device_model(profile)


def _covers(profile: Profile, space: Space | None) -> bool:
    """Whether schedules were measured that choose tokens as those of the space do, if it has any."""
    wanted = None if space is None else space.reduction if space.fixed is None else space.fixed.reduction
    return wanted is None or any(record.architecture.reduction == wanted for record in profile.records)


def _covers_formats(profile: Profile, space: Space | None) -> bool:
    """Whether parts were measured in all formats that the space has."""
    known = Terms.over(profile.shape, profile.workload, (record.architecture for record in profile.records))
    return Terms.of_space(profile.shape, profile.workload, space).formats <= known.formats


def _say_what_is_measured(parent: ParentModel, target: Target, workload: Workload, progress: Progress) -> None:
    """A device that was profiled under other workloads is not silently predicted from its data sheet."""
    profiles = sorted(parent.cache.glob(f"device-{format_for_file(target.name)}-*.json"))
    if profiles:
        known = ", ".join(str(Profile.load(path).workload) for path in profiles)
        progress.show_message(f"{target.name} was measured under {known}, not under {workload}: the data sheet is used")

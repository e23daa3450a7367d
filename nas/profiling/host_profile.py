"""The profile of this machine: measured once for a model and workload, then read from the cache."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from latency_models.profile import Profile
from latency_models.runtime_ort import count_default_threads, read_environment
from latency_models.targets import HOST
from latency_models.workload import Workload
from nas.export.parent_export import ParentExport
from nas.parent.parent import ParentModel
from nas.profiling.effort import Effort
from nas.profiling.host import SECONDS, measure_architectures, profile_host
from nas.progress import Progress, open_timed_stage
from nas.storage.cache_folder import format_for_file
from search_spaces.architecture import Architecture
from search_spaces.errors import MeasurementError, UsageError
from search_spaces.level import DROP
from search_spaces.schedule import TOKENS_REVISION
from search_spaces.space import Space

LIMIT = 9.0  # times the seconds that were asked for, at most, whatever a machine does besides
LOOK_SECONDS = 6.0  # to tell strategies apart that differ by much


def get_profile_path(parent: ParentModel, workload: Workload, space: Space | None = None) -> Path:
    """Where the host's profile of a parent and workload is kept; one for each choice of token schedules and levels."""
    return parent.cache / f"profile-{format_for_file(str(workload))}{name_measured(space)}.json"


def name_measured(space: Space | None) -> str:
    """Names what a space's profile is made with beside dropped units: token schedules, levels; empty without any."""
    return "" if space is None else _name_tokens(space) + _name_levels(space)


def _name_levels(space: Space) -> str:
    levels = sorted(str(choice) for choice in space.structure if choice.level != DROP)
    return f"-levels-{hashlib.sha256(' '.join(levels).encode()).hexdigest()[:12]}" if levels else ""


def _name_tokens(space: Space) -> str:
    steps = Architecture(space.depth, frozenset(space.steps), space.reduction)
    every = steps.replace_tokens(space.fixed) if space.fixed is not None else steps
    if not every.tokens.stages:
        return ""
    listed = sorted(map(str, space.steps))
    return f"-tokens-{hashlib.sha256(f'{TOKENS_REVISION} {every.digest} {listed}'.encode()).hexdigest()[:12]}"


def load_host_profile(
    parent: ParentModel, export: ParentExport, workload: Workload, progress: Progress, seconds: float = SECONDS,
    fresh: bool = False, space: Space | None = None,
) -> Profile:  # fmt: skip
    """The host's profile: read from the cache when it was made under the same key, else measured.

    Args:
        space: whose token schedules the profile is to cover.

    Raises:
        MeasurementError: the workload cannot be measured here.
        ExportError: a token schedule cannot be exported.
    """
    path = get_profile_path(parent, workload, space)
    known = None if fresh else _read_cached(path, parent, workload)
    if known is not None:
        progress.show_message(f"using the profile measured before ({path})")
        return known
    limit_s = LIMIT * seconds
    with open_timed_stage(progress, "measuring this machine", limit_s) as on_share:
        profile = profile_host(
            parent, export.graphs, workload, Effort(seconds, limit_s=limit_s), on_round=on_share, space=space
        )
    profile.save(path)
    return profile


def measure_ms(
    parent: ParentModel, export: ParentExport, workload: Workload, architectures: Sequence[Architecture]
) -> list[float]:
    """Medians of a quick look at some architectures on this machine, side by side; kept, as the exports are.

    Each is its ratio to the parent beside it, in the parent's median: few samples, and a machine may change meanwhile.

    Raises:
        MeasurementError: a file that does not run.
    """
    path = parent.cache / f"looks-{format_for_file(str(workload))}-{_name_profile(architectures)}.json"
    profile = _read_cached(path, parent, workload)
    if profile is None:
        records = measure_architectures(
            parent.model, export.graphs, list(architectures), workload, Effort(LOOK_SECONDS)
        )
        profile = Profile(read_environment(count_default_threads()), parent.digest, parent.shape, workload, records)
        profile.save(path)
    sentinel = profile.find_measurement(Architecture(parent.anatomy.depth))
    assert sentinel is not None
    ratios = {record.architecture: record.measurement.compute_ratio() for record in profile.records}
    return [sentinel.p50 * ratios[architecture] for architecture in architectures]


def _name_profile(architectures: Sequence[Architecture]) -> str:
    named = " ".join([str(TOKENS_REVISION), *(each.digest for each in architectures)])
    return hashlib.sha256(named.encode()).hexdigest()[:12]


def _read_cached(path: Path, parent: ParentModel, workload: Workload) -> Profile | None:
    """The cached profile if it is one of this machine with this model and workload, under today's key."""
    try:
        profile = Profile.load(path)
    except (UsageError, MeasurementError):  # there is none, or it is damaged
        return None
    described = (profile.key, profile.model, profile.shape, profile.workload, profile.target)
    wanted = (read_environment(count_default_threads()), parent.digest, parent.shape, workload, HOST)
    return profile if described == wanted else None

"""Profiles that devices made of themselves: checked, and kept where a search for that device finds them."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from latency_models.fit import CalibratedModel
from latency_models.profile import Profile
from latency_models.targets import Target, find_target
from latency_models.workload import Workload
from nas.cache import cache_folder, file_words
from search_spaces.errors import MeasurementError, ProfileMismatch

MOST_RECORDS, MOST_SAMPLES, MOST_BLOCKS = 500, 1_000_000, 1000  # of a profile that is taken from elsewhere

if TYPE_CHECKING:
    from nas.subject import Subject  # which loads models; a profile is checked without


def import_profile(path: Path, subject: "Subject | None" = None) -> tuple[Profile, Path]:
    """Check a profile that a kit wrote on a device and put it where a search for that device finds it.

    Args:
        subject: the model it must be of; None for any whose kit was made here.

    Returns:
        The profile and where it is kept.

    Raises:
        UnknownTarget: it names none that is known.
        ProfileMismatch: it is of another model, of this machine, or in another precision than its target.
        MeasurementError: it is damaged, or holds too little for a fit.
    """
    profile = Profile.load(path)
    _check_size(path, profile)
    target = find_target(profile.target)
    missing = {"device", "runtime", "precision", "threads", "power_mode"} - set(profile.key)
    if missing:
        raise MeasurementError(f"{path} does not say {', '.join(sorted(missing))} of its device; run the kit again")
    if target.is_host:
        raise ProfileMismatch(f"{path} is of the machine it was measured on; nas profile measures this one")
    if profile.key["precision"] != target.precision:
        raise ProfileMismatch(
            f"{path} was measured in {profile.key['precision']} and its target is {target.name}; make the kit anew"
        )
    device_model(profile)
    kept = device_profile_path(_cache_of(path, profile, subject), target, profile.workload)
    profile.save(kept)
    return profile, kept


def _check_size(path: Path, profile: Profile) -> None:
    """Refuse what would take long to fit; a kit writes some forty records.

    Raises:
        MeasurementError: the profile holds more.
    """
    samples = sum(len(record.measurement.samples_ms) for record in profile.records)
    for count, most, name in (
        (len(profile.records), MOST_RECORDS, "records"),
        (samples, MOST_SAMPLES, "samples"),
        (profile.shape.depth, MOST_BLOCKS, "blocks"),
    ):
        if count > most:
            raise MeasurementError(f"{path} holds {count} {name}, more than {most}; make it again with nas profile kit")


def _cache_of(path: Path, profile: Profile, subject: "Subject | None") -> Path:
    """The folder of the profile's model.

    Raises:
        ProfileMismatch: the model is another than `subject`, or none is known by that digest.
    """
    if subject is None:
        known = cache_folder() / profile.model
        if not re.fullmatch(r"[0-9a-f]{16}", profile.model) or not known.is_dir():
            raise ProfileMismatch(
                f"{path} is of the model {profile.model!r}, of which no kit was made here; name it with --model"
            )
        return known
    if profile.model != subject.digest or profile.shape != subject.shape:
        raise ProfileMismatch(
            f"{path} is of the model {profile.model!r}, and {subject.id} is {subject.digest!r}; name the model it is of"
        )
    return subject.cache


def device_profile_path(cache: Path, target: Target, workload: Workload) -> Path:
    """Where the profile of a device that is not this machine is kept, in the `cache` of a subject."""
    return cache / f"device-{file_words(f'{target.name} {workload}')}.json"


def device_model(profile: Profile) -> CalibratedModel:
    """The fit of a device's profile, which says where it was measured.

    Raises:
        MeasurementError: the profile holds too little for a fit.
    """
    model = CalibratedModel(profile)
    model.label = f"measured on {profile.target}, {profile.key['runtime']}"
    return model

"""Profiles that devices made of themselves: checked, and kept where a search for that device finds them."""

import json
import re
import zipfile
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from latency_models.calibrated import CalibratedModel
from latency_models.profile import Profile
from latency_models.runner.plan import PLAN
from latency_models.targets import Target, find_target
from latency_models.workload import Workload
from nas.storage.cache_folder import format_for_file, get_cache_folder
from search_spaces.errors import MeasurementError, ProfileMismatch

MAX_RECORDS, MAX_SAMPLES, MAX_BLOCKS = 500, 1_000_000, 1000  # of a profile that is taken from elsewhere

if TYPE_CHECKING:
    from nas.parent.parent import ParentModel  # which loads models; a profile is checked without

_LONGEST = 40  # characters of a value in a message
_KEY = {"device", "runtime", "precision", "threads", "power_mode"}


def import_profile(
    path: Path, parent: "ParentModel | None" = None, target: Target | None = None, workload: Workload | None = None
) -> tuple[Profile, Path]:
    """Check a profile that a kit wrote on a device and put it where a search for that device finds it.

    Args:
        parent: the model it must be of; None for any whose kit was made here.
        target, workload: what it must be of; None for any.

    Returns:
        The profile and where it is kept.

    Raises:
        UnknownTarget: it names none that is known.
        ProfileMismatch: it is of another model, shape, target or workload, of this machine, or in another precision
            than its target.
        MeasurementError: it is damaged, or holds too little for a fit.
    """
    profile = Profile.load(path)
    _check_size(path, profile)
    device = find_target(profile.target)
    if device.is_host:
        raise ProfileMismatch(f"{path} is of the machine it was measured on; nas profile measures this one")
    check_profile(profile, path, parent, target or device, workload or profile.workload)
    fit_device_model(profile)
    cache = _find_folder(path, profile) if parent is None else parent.cache
    kept = get_device_profile_path(cache, device, profile.workload)
    profile.save(kept)
    return profile, kept


def _check_size(path: Path, profile: Profile) -> None:
    """Refuse what would take long to fit; a kit writes some forty records.

    Raises:
        MeasurementError: the profile holds more.
    """
    samples = sum(len(record.measurement.samples_ms) for record in profile.records)
    for count, maximum, name in (
        (len(profile.records), MAX_RECORDS, "records"),
        (samples, MAX_SAMPLES, "samples"),
        (profile.shape.depth, MAX_BLOCKS, "blocks"),
    ):
        if count > maximum:
            raise MeasurementError(
                f"{path} holds {count} {name}, more than {maximum}; make it again with nas profile kit"
            )


def check_profile(
    profile: Profile, name: Path | str, parent: "ParentModel | None", target: Target, workload: Workload
) -> None:
    """Whether a profile is of this model, target and workload, in the target's precision.

    Args:
        name: of the file or device it comes from, for the message.
        parent: None where the model is not at hand.

    Raises:
        MeasurementError: it does not say enough of its device.
        ProfileMismatch: it is of something else; the message says of what, and how to get the right one.
    """
    missing = _KEY - set(profile.key)
    if missing:
        raise MeasurementError(f"{name} does not say {', '.join(sorted(missing))} of its device; run the kit again")
    if profile.target != target.name:
        raise ProfileMismatch(f"{name} was measured on {profile.target}, not on {target.name}; name that target")
    if profile.key["precision"] != target.precision:
        raise ProfileMismatch(
            f"{name} was measured in {profile.key['precision']} and its target is {target.name}; make the kit again"
        )
    if profile.workload != workload:
        raise ProfileMismatch(f"{name} is of {profile.workload}, not of {workload}; leave --workload out, or name that")
    if parent is None:
        return
    if profile.model != parent.digest:
        raise ProfileMismatch(
            f"{name} is of the model {profile.model!r}, and {parent.id} is {parent.digest!r}; name the model it is of"
        )
    if profile.shape != parent.shape:
        raise ProfileMismatch(
            f"{name} is of a model with {_describe_differences(profile, parent)}; its configuration changed since: "
            "make the kit again"
        )


def load_device_profile(path: Path, parent: "ParentModel", target: Target, workload: Workload) -> Profile:
    """A profile that was kept for a device, checked again: files are copied, and configurations change.

    Raises:
        MeasurementError, ProfileMismatch: as `check_profile`; the message says how to go on without it.
    """
    profile = Profile.load(path)
    try:
        check_profile(profile, path, parent, target, workload)
    except MeasurementError as error:
        raise type(error)(f"{error}, or remove the file to be predicted from the data sheet") from None
    return profile


def get_device_profile_path(cache: Path, target: Target, workload: Workload) -> Path:
    """Where the profile of a device that is not this machine is kept, in the `cache` of a parent."""
    return cache / f"device-{format_for_file(f'{target.name} {workload}')}.json"


def fit_device_model(profile: Profile) -> CalibratedModel:
    """The fit of a device's profile, which says where it was measured.

    Raises:
        MeasurementError: the profile holds too little for a fit.
    """
    return CalibratedModel(profile, f"measured on {profile.target}, {profile.key['runtime']}")


def _find_folder(path: Path, profile: Profile) -> Path:
    """The folder of a profile's model, of which the kit was made here.

    Raises:
        ProfileMismatch: none is known by that digest, or its kits are of another shape.
    """
    known = get_cache_folder() / profile.model
    if not re.fullmatch(r"[0-9a-f]{16}", profile.model) or not known.is_dir():
        raise ProfileMismatch(
            f"{path} is of the model {profile.model!r}, of which no kit was made here; name it with --model"
        )
    shapes = [shape for kit in sorted(known.glob("kit-*.zip")) if (shape := _read_shape(kit)) is not None]
    if shapes and profile.shape.to_json() not in shapes:
        raise ProfileMismatch(
            f"{path} is of the model {profile.model!r} in a shape that no kit made here has; name it with --model"
        )
    return known


def _read_shape(kit: Path) -> object:
    """The shape that a kit was made for; None where it cannot be read."""
    try:
        with zipfile.ZipFile(kit) as archive:
            return dict(json.loads(archive.read(PLAN))).get("shape")
    except (OSError, KeyError, ValueError, TypeError, zipfile.BadZipFile):
        return None


def _describe_differences(profile: Profile, parent: "ParentModel") -> str:
    """What two shapes differ in."""
    pairs = [(f.name, getattr(profile.shape, f.name), getattr(parent.shape, f.name)) for f in fields(profile.shape)]
    return ", ".join(f"{n} {_shorten(a)} where {parent.id} has {_shorten(b)}" for n, a, b in pairs if a != b)


def _shorten(value: object) -> str:
    text = str(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"

"""A kit carries nothing that was trained, measures without `nas`, and what comes back is used by a search."""

import dataclasses
import itertools
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from families import build

import nas.profiling.kit
from latency_models.calibrated import CalibratedModel
from latency_models.datasheet_model import DataSheetModel
from latency_models.profile import Profile
from latency_models.runner.plan import Plan
from latency_models.targets import find_target
from latency_models.workload import Workload
from nas.export.parent_export import ParentExport
from nas.parent.parent import ParentModel, load_parent_model
from nas.profiling.kit import Kit, pack
from nas.profiling.latency_model import load_latency_model
from nas.profiling.profile_store import import_profile
from nas.progress import Silent
from pruning.checkpoint import save
from pruning.surgery.prune import prune
from search_spaces import Architecture, Kind, Unit
from search_spaces.errors import MeasurementError, NasError, ProfileMismatch, UnknownTarget, UsageError

ORIN, HERE = find_target("jetson-orin"), Workload.parse("forward:batch=2,seq=17")


class Messages(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def show_message(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> ParentModel:
    """A tiny image model whose every parameter is a random number, as after training."""
    model, folder = build("vit"), tmp_path_factory.mktemp("trained")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel())))
    save(model, folder)
    return load_parent_model(str(folder))


@pytest.fixture(scope="module")
def unpacked(parent: ParentModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kit's folder as a device has it; a size of 1 KiB makes large weights of these tiny ones."""
    folder = tmp_path_factory.mktemp("kit")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nas.profiling.kit, "_DRAWN_BYTES", 1 << 10)
        Kit(parent, ORIN, HERE, seconds=1).write(folder / "written")
    pack(folder / "written", folder / "kit.zip")
    with zipfile.ZipFile(folder / "kit.zip") as archive:
        archive.extractall(folder / "device")
    return folder / "device"


@pytest.fixture(scope="module")
def measured(unpacked: Path) -> Path:
    """The profile after a run on this machine, which pretends to be the device."""
    command = [sys.executable, "run.py", "--provider", "cpu"]
    done = subprocess.run(command, cwd=unpacked, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return unpacked / "profile.json"


def test_nothing_that_was_trained_is_in_a_kit(parent: ParentModel, unpacked: Path) -> None:
    held = [path.read_bytes() for path in unpacked.rglob("*") if path.is_file()]
    for name, parameter in parent.model.named_parameters():
        for dtype in (np.float32, np.float16):
            start = parameter.detach().numpy().astype(dtype).tobytes()[:24]
            assert not any(start in content for content in held), name


def test_the_files_are_plain_operators_in_the_target_s_precision(unpacked: Path) -> None:
    plan = Plan.read(unpacked)
    graphs = [onnx.load(candidate.file, load_external_data=False) for candidate in plan.candidates]
    assert 20 <= len(graphs) <= 40
    assert {next(o.version for o in graph.opset_import if not o.domain) for graph in graphs} == {18}
    floats = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16}
    types = [t.data_type for graph in graphs for t in graph.graph.initializer if t.data_type in floats and t.dims]
    assert types.count(onnx.TensorProto.FLOAT16) > 0.9 * len(types)


def test_weights_are_drawn_on_the_device_and_every_tensor_lies_inside_the_file(unpacked: Path, measured: Path) -> None:
    plan = Plan.read(unpacked)
    parent = next(candidate for candidate in plan.candidates if candidate.name == plan.sentinel)
    left_out = [t for t in onnx.load(parent.file, load_external_data=False).graph.initializer if t.external_data]
    drawn = [
        {e.key: e.value for e in t.external_data}
        for t in left_out
        if t.external_data[0].value == nas.profiling.kit.RANDOM_WEIGHTS
    ]
    regions = sorted((int(e["offset"]), int(e["length"])) for e in drawn)
    assert len(regions) > 10
    assert all(first + size <= following for (first, size), (following, _) in itertools.pairwise(regions))
    file = parent.file.with_name(nas.profiling.kit.RANDOM_WEIGHTS)
    assert regions[-1][0] + regions[-1][1] <= file.stat().st_size <= parent.weight_bytes
    values = np.fromfile(file, dtype=np.float16).astype(np.float32)
    assert abs(values.mean()) < 1e-3
    assert values.std() == pytest.approx(0.02, rel=0.05)


def test_the_same_kit_has_the_same_bytes(parent: ParentModel, unpacked: Path, tmp_path: Path) -> None:
    """So a run on a device that was cut off is found again, also from another process or day."""
    files = [path for path in unpacked.rglob("*") if path.suffix in (".onnx", ".npz", ".py")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nas.profiling.kit, "_DRAWN_BYTES", 1 << 10)
        Kit(parent, ORIN, HERE, seconds=1).write(tmp_path / "again")
    for path in files:
        if "__pycache__" not in path.parts:
            assert (tmp_path / "again" / path.relative_to(unpacked)).read_bytes() == path.read_bytes()
    pack(tmp_path / "again", tmp_path / "one.zip")
    for path in sorted((tmp_path / "again").rglob("*"), reverse=True):
        path.touch()
    pack(tmp_path / "again", tmp_path / "two.zip")
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()


def test_what_was_measured_is_imported_and_predicts(parent: ParentModel, measured: Path) -> None:
    before = load_latency_model(parent, ORIN, HERE, ParentExport(parent, Silent()), Silent())
    assert isinstance(before, DataSheetModel)
    profile, kept = import_profile(measured, parent)
    assert kept.is_relative_to(parent.cache)
    model = load_latency_model(parent, ORIN, HERE, ParentExport(parent, Silent()), Silent())
    assert isinstance(model, CalibratedModel)
    assert model.measured
    assert model.label.startswith(f"measured on {ORIN.name}, onnxruntime")
    assert model.profile == profile == Profile.load(measured)
    assert import_profile(measured)[1] == kept  # its model is known by now
    other, progress = Workload.parse("forward:batch=4,seq=17"), Messages()
    assert isinstance(load_latency_model(parent, ORIN, other, ParentExport(parent, progress), progress), DataSheetModel)
    assert any(f"was measured under {HERE}, not under {other}" in line for line in progress.said)


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"target": "jetson-orrin"}, UnknownTarget, "nearest: jetson-orin"),
        ({"target": "host"}, ProfileMismatch, "is of the machine it was measured on"),
        ({"target": "l4/fp32"}, ProfileMismatch, "was measured in fp16"),
        ({"model": "0123456789abcdef"}, ProfileMismatch, "name the model it is of"),
        ({"shape": {"depth": 2, "window": [None] * 2}}, MeasurementError, "blocks and the profile's model 2"),
        ({"shape": {"heads": 2}}, ProfileMismatch, "heads 2 where .* has 4; its configuration changed"),
        ({"workload": "forward:batch=4,seq=17"}, MeasurementError, "in a profile of forward:batch=4,seq=17"),
        ({"key": {"device": "a board"}}, MeasurementError, "does not say power_mode, precision, runtime, threads"),
        ({"records": []}, MeasurementError, "0 records"),
        ({"schema_version": 3}, MeasurementError, "schema_version is 3"),
    ],
)
def test_a_profile_that_cannot_be_used_is_refused(
    parent: ParentModel, measured: Path, tmp_path: Path, changes: dict, error: type[NasError], says: str
) -> None:
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(changed(measured, changes)))
    with pytest.raises(error, match=says):
        import_profile(path, parent)


def changed(measured: Path, changes: dict) -> dict:
    """A profile's document with other values; of a shape only those that are named."""
    document = json.loads(measured.read_text())
    shape = document["shape"] | changes.get("shape", {})
    return document | changes | {"shape": shape}


@pytest.mark.parametrize(
    ("target", "workload", "says"),
    [
        ("jetson-orin-nx", HERE, "was measured on jetson-agx-orin-64gb@maxn/fp16, not on jetson-orin-nx"),
        ("jetson-orin", Workload.parse("forward:batch=9,seq=17"), "is of forward:batch=2,seq=17, not of forward"),
    ],
)
def test_a_profile_of_something_else_than_was_asked_for_is_refused(
    parent: ParentModel, measured: Path, target: str, workload: Workload, says: str
) -> None:
    with pytest.raises(ProfileMismatch, match=says):
        import_profile(measured, parent, find_target(target), workload)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model": "0123456789abcdef"}, "is of the model '0123456789abcdef'"),
        ({"shape": {"intermediate": 7}}, "intermediate 7 where"),
        ({"target": "l4/fp16"}, "was measured on l4/fp16, not on jetson"),
        ({"workload": "forward:batch=9,seq=17"}, "is of forward:batch=9,seq=17, not of forward:batch=2,seq=17"),
        ({"key": {"precision": "fp32"}}, "was measured in fp32 and its target is"),
    ],
)
def test_what_is_kept_for_a_device_is_checked_again_before_it_is_used(
    parent: ParentModel, measured: Path, changes: dict, says: str
) -> None:
    """A file that was copied over it, or a configuration that changed since."""
    _, kept = import_profile(measured, parent)
    document = changed(measured, {name: value for name, value in changes.items() if name != "key"})
    document["key"] |= changes.get("key", {})
    for record in document["records"]:
        record["measurement"]["workload"] = document["workload"]
    kept.write_text(json.dumps(document))
    with pytest.raises(ProfileMismatch, match=says) as refused:
        load_latency_model(parent, ORIN, HERE, ParentExport(parent, Silent()), Silent())
    assert "remove the file" in str(refused.value)
    assert "\n" not in str(refused.value)
    kept.unlink()


def test_a_profile_of_another_shape_than_any_kit_is_refused_without_the_model(
    parent: ParentModel, measured: Path, unpacked: Path, tmp_path: Path
) -> None:
    path, kit = tmp_path / "profile.json", parent.cache / "kit-0123456789abcdef.zip"
    parent.cache.mkdir(parents=True, exist_ok=True)
    pack(unpacked.parent / "written", kit)
    path.write_text(json.dumps(changed(measured, {"shape": {"heads": 2}})))
    with pytest.raises(ProfileMismatch, match="in a shape that no kit made here has"):
        import_profile(path)
    kit.unlink()


@pytest.mark.parametrize("model", ["0123456789abcdef", "../elsewhere", ""])
def test_a_profile_of_a_model_that_is_not_known_is_refused(measured: Path, tmp_path: Path, model: str) -> None:
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(json.loads(measured.read_text()) | {"model": model}))
    with pytest.raises(ProfileMismatch, match="of which no kit was made here"):
        import_profile(path)


def test_a_truncated_profile_is_refused_and_what_was_imported_stays(measured: Path, parent: ParentModel) -> None:
    kept = import_profile(measured, parent)[1]
    broken = measured.with_name("broken.json")
    broken.write_text(measured.read_text()[:-100])
    with pytest.raises(MeasurementError, match="is no profile"):
        import_profile(broken, parent)
    assert Profile.load(kept) == Profile.load(measured)


@pytest.mark.parametrize(("target", "says"), [("host", "is this machine"), ("l4/int8", "in int8, in which no graphs")])
def test_a_target_that_no_kit_can_be_made_for_is_refused(parent: ParentModel, target: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        Kit(parent, find_target(target), HERE)


def test_a_kit_is_made_once(parent: ParentModel, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Path] = []
    monkeypatch.setattr(
        Kit, "write", lambda kit, folder: made.append(folder) or (folder / "plan.json").write_text("{}")
    )
    kit = Kit(parent, ORIN, HERE, seconds=77)
    first = kit.build(Silent())
    assert (kit.build(Silent()), len(made)) == (first, 1)
    assert dataclasses.replace(kit, seconds=78).build(Silent()) != first


@pytest.mark.parametrize(
    "phase", [pytest.param("prefill:batch=2,seq=9", marks=pytest.mark.slow), "decode:batch=2,past=9"]
)
def test_a_decoder_is_measured_in_half_precision_with_its_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    monkeypatch.setattr(nas.profiling.kit, "_DRAWN_BYTES", 1 << 10)
    two = prune(build("llama"), Architecture.from_words("attn+mlp attn+mlp removed removed"))
    save(two, tmp_path / "model")
    decoder = load_parent_model(str(tmp_path / "model"))
    depth = decoder.anatomy.depth
    chosen = (Architecture.parent(depth), Architecture.parent(depth).drop(Unit(0, Kind.ATTENTION), Unit(1, Kind.MLP)))
    Kit(decoder, ORIN, Workload.parse(phase), 0.2, 4, chosen).write(tmp_path / "kit")
    with np.load(tmp_path / "kit" / "inputs.npz") as inputs:
        kinds = {name: array.dtype for name, array in inputs.items()}
    assert [kinds[name] for name in kinds if name.startswith("past.")] == ["float16"] * (
        2 * depth if "decode" in phase else 0
    )
    command = [sys.executable, "run.py", "--provider", "cpu"]
    done = subprocess.run(command, cwd=tmp_path / "kit", capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    profile = Profile.load(tmp_path / "kit" / "profile.json")
    assert {record.architecture for record in profile.records} == set(chosen)

"""A kit with weights of fewer bits: graphs without trained weights, and a profile that prices the formats."""

import dataclasses
import subprocess
import sys
import zipfile
from pathlib import Path

import onnx
import pytest
from families import build
from test_kit import HERE, Messages

import nas.profiling.kit
from latency_models.calibrated import CalibratedModel
from latency_models.datasheet_model import DataSheetModel
from latency_models.profile import Profile
from latency_models.runner.plan import Plan
from latency_models.targets import find_target
from nas.export.parent_export import ParentExport
from nas.parent.parent import load_parent_model
from nas.profiling.kit import Kit, pack
from nas.profiling.latency_model import load_latency_model
from nas.profiling.profile_store import import_profile
from nas.progress import Silent
from pruning.checkpoint import save
from search_spaces import Architecture, Choice

TARGET = find_target("jetson-orin/fp32")
NAMES = ("w8a8", "w4a16")


def test_a_kit_measures_formats_and_a_search_is_priced_by_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nas.profiling.kit, "_DRAWN_BYTES", 1 << 9)
    save(build("vit"), tmp_path / "model")
    parent = load_parent_model(str(tmp_path / "model"))
    space = parent.anatomy.build_space(("attention", "mlp", "mlp-bits"))
    kept = [each for each in space.choices if "bits" not in str(each) or str(each).endswith(NAMES)]
    space = dataclasses.replace(space, choices=tuple(kept))
    Kit(parent, TARGET, HERE, seconds=1, space=space).write(tmp_path / "kit")
    pack(tmp_path / "kit", tmp_path / "kit.zip")
    with zipfile.ZipFile(tmp_path / "kit.zip") as archive:
        archive.extractall(tmp_path / "device")
    plan = Plan.read(tmp_path / "device")
    types = set[int]()
    for candidate in plan.candidates:
        tensors = onnx.load(candidate.file, load_external_data=False).graph.initializer
        types |= {tensor.data_type for tensor in tensors if tensor.external_data}
    assert {onnx.TensorProto.INT8, onnx.TensorProto.INT4} <= types  # drawn on the device, as all weights are
    done = subprocess.run(
        [sys.executable, "run.py", "--provider", "cpu"], cwd=tmp_path / "device", capture_output=True, text=True,
        timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    import_profile(tmp_path / "device" / "profile.json", parent)
    export, candidate = ParentExport(parent, Silent()), Architecture(4).drop(Choice.parse("mlp.2:bits=w8a8"))
    model = load_latency_model(parent, TARGET, HERE, export, Silent(), space)
    assert isinstance(model, CalibratedModel)
    assert {(str(kind), name) for kind, name in model.terms.formats} == {("mlp", name) for name in NAMES}
    assert model.terms.covers(candidate)
    more = dataclasses.replace(space, choices=(*space.choices, Choice.parse("attention.1:bits=w8a8")))
    messages = Messages()
    assert isinstance(load_latency_model(parent, TARGET, HERE, export, messages, more), DataSheetModel)
    assert "was measured without these formats" in messages.said[-1]
    assert Profile.load(tmp_path / "device" / "profile.json").records

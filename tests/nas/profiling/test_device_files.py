"""Files for a target that is not this machine: one export of the parent, all winners and the parent edited from it."""

from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest

import nas.profiling.kit
from latency_models.targets import find_target
from latency_models.workload import Workload
from nas.export.parity import check_parity
from nas.parent.shape import read_shape
from nas.profiling.device import RemoteDevice
from nas.profiling.effort import Effort
from nas.profiling.kit import Kit
from nas.progress import Silent
from pruning.surgery.prune import prune
from search_spaces import Architecture

TARGET = "jetson-agx-orin-64gb@maxn/fp32"


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Filled with every file that is really exported."""
    made: list[Path] = []
    own = nas.profiling.kit.export_onnx
    monkeypatch.setattr(
        "nas.profiling.kit.export_onnx",
        lambda model, path, *more, **options: made.append(path) or own(model, path, *more, **options),
    )
    return made


def test_winners_and_parent_come_from_one_export(
    exports: list[Path], export_parent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported = export_parent("vit")
    parent = SimpleNamespace(
        model=exported.model,
        anatomy=exported.anatomy,
        shape=read_shape(exported.model, exported.anatomy),
        digest="digest",
    )
    kit = Kit(parent, find_target(TARGET), Workload.parse("forward:batch=2,seq=10"))
    device = RemoteDevice(kit, None, Silent())  # type: ignore[arg-type]
    for words in ("mlp attn+mlp attn removed", "attn+mlp removed mlp mlp"):
        pruned = prune(exported.model, Architecture.from_words(words), anatomy=exported.anatomy)
        winner = device.export(pruned, tmp_path)
        assert winner.name == "device-model.onnx"
        assert check_parity(pruned, winner) < 1e-4
        assert not onnx.load(str(winner)).functions  # TensorRT takes plain operators
    compared = []
    monkeypatch.setattr(
        "nas.profiling.device.measure_files",
        lambda files, *rest, **more: compared.append(check_parity(exported.model, files["parent"])),
    )
    device.compare(winner, Effort(1.0, 1))
    assert compared[0] < 1e-4
    assert len(exports) == 1

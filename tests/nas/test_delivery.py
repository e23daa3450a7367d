"""What a result folder is given: the files of the phases that its model has."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from families import build

from latency_models.workload import Phase, Workload
from nas.certificate import sha256
from nas.delivery import _export
from nas.export.onnx_export import workload_inputs
from nas.finalists import Finals
from nas.shape import shape_of
from pruning.anatomy import read_anatomy
from search_spaces import Architecture, Reduction, Schedule

SCHEDULE = Schedule.parse("1=0.5,3=0.25", Reduction())
PROMPT, STEP = Workload.parse("prefill:batch=1,seq=60"), Workload.parse("decode:batch=1,past=60")


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Phase, str]]:
    """Filled with every export that is asked for: its phase and the file's name."""
    asked: list[tuple[Phase, str]] = []

    def for_onnx_runtime(model: Any, path: Path, check: Any, phase: Phase) -> tuple[int, str]:
        asked.append((phase, path.name))
        path.write_text(model)
        return 23, ""

    def for_tensorrt(model: Any, path: Path, phase: Phase) -> Path:
        asked.append((phase, path.name))
        path.write_text(model)
        return path

    monkeypatch.setattr("nas.delivery.export_for_onnx_runtime", for_onnx_runtime)
    monkeypatch.setattr("nas.delivery.export_tensorrt_onnx", for_tensorrt)
    return asked


def delivery(folder: Path, architecture: Architecture, workload: Workload, measured: str = "nothing") -> Any:
    """What of a delivery the exports are decided by; `measured` is the digest of the certified file."""
    winner = SimpleNamespace(architecture=architecture)
    return SimpleNamespace(
        winner_folder=folder, outcome=SimpleNamespace(winner=winner), workload=workload,
        certificate=SimpleNamespace(file_sha256=measured),
    )  # fmt: skip


@pytest.mark.parametrize("schedule", [Schedule(), SCHEDULE], ids=str)
@pytest.mark.parametrize("workload", [PROMPT, STEP], ids=str)
def test_a_decoder_is_delivered_in_every_phase(
    workload: Workload, schedule: Schedule, exported: list[tuple[Phase, str]], tmp_path: Path
) -> None:
    """With all its tokens or with fewer."""
    _export(delivery(tmp_path, Architecture(4).with_tokens(schedule), workload), "model")
    asked = {(Phase.FORWARD, "model.onnx"), (Phase.PREFILL, "model-prefill.onnx"), (Phase.DECODE, "model-decode.onnx")}
    assert set(exported) == asked | {(workload.phase, f"model-{workload.phase}.tensorrt.onnx")}


def test_what_keeps_no_cache_is_delivered_as_one_file(exported: list[tuple[Phase, str]], tmp_path: Path) -> None:
    _export(delivery(tmp_path, Architecture(4).with_tokens(SCHEDULE), Workload.parse("forward:batch=8,seq=10")), "vit")
    assert [name for _, name in exported] == ["model.onnx", "model.tensorrt.onnx"]


def test_a_file_that_was_certified_is_not_written_again(exported: list[tuple[Phase, str]], tmp_path: Path) -> None:
    (tmp_path / "model-prefill.onnx").write_text("as measured")
    (tmp_path / "model.onnx").write_text("of an earlier search")
    digest = sha256(tmp_path / "model-prefill.onnx")
    _export(delivery(tmp_path, Architecture(4).with_tokens(SCHEDULE), PROMPT, digest), "reduced")
    assert (tmp_path / "model-prefill.onnx").read_text() == "as measured"
    assert (tmp_path / "model.onnx").read_text() == "reduced"


@pytest.mark.parametrize("asked", ["prefill:batch=4,seq=1024", "decode:batch=2,past=900", "forward:batch=1,seq=640"])
@pytest.mark.parametrize("family", ["llava", "llama"])
def test_where_a_target_is_far_away_this_machine_compares_prompts_with_room_for_an_image(
    family: str, asked: str
) -> None:
    """Of the phase that was asked for, however long; an image's tokens and words beside them fit in."""
    model = build(family)
    subject = SimpleNamespace(shape=shape_of(model, read_anatomy(model)))
    workload = Workload.parse(asked)
    small = Finals(None, subject, None, workload, None, None, None)._small()
    assert (small.batch, small.phase) == (1, workload.phase)
    given = workload_inputs(model, small)
    images = int((given["input_ids"][0] == getattr(model.config, "image_token_id", -1)).sum())
    assert small.past + small.sequence <= 257
    if family == "llava" and small.phase is Phase.DECODE:
        assert small.past > subject.shape.droppable
    elif family == "llava":
        assert len(given["pixel_values"]) == 1
        assert images == subject.shape.droppable <= small.sequence - 2

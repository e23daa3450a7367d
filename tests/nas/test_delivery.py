"""What a result folder is given: the files of the phases that its model has."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from families import build

from latency_models.workload import Phase, Workload
from nas.certificate import sha256
from nas.delivery import _export
from nas.export.form import Form
from nas.export.onnx_export import workload_inputs
from nas.finalists import Finals
from nas.shape import shape_of
from pruning.anatomy import read_anatomy
from search_spaces import Architecture, Reduction, Schedule

SCHEDULE = Schedule.parse("1=0.5,3=0.25", Reduction())
PROMPT, STEP = Workload.parse("prefill:batch=1,seq=60"), Workload.parse("decode:batch=1,past=60")


@pytest.fixture
def written() -> list[tuple[Phase, Form, str]]:
    """Filled with every file that is asked for: its phase, its form and its name."""
    return []


def delivery(
    folder: Path, architecture: Architecture, workload: Workload, written: list[tuple[Phase, Form, str]],
    measured: str = "nothing", runtime: str = "tensorrt",
) -> Any:  # fmt: skip
    """What of a delivery the exports are decided by; `measured` is the digest of the certified file."""

    def other(phase: Phase, form: Form) -> Any:
        def write(model: Any, path: Path) -> str:
            written.append((phase, form, path.name))
            path.write_text(model)
            return ""

        return SimpleNamespace(write_pruned=write)

    winner = SimpleNamespace(architecture=architecture)
    return SimpleNamespace(
        winner_folder=folder, outcome=SimpleNamespace(winner=winner), workload=workload,
        certificate=SimpleNamespace(file_sha256=measured), target=SimpleNamespace(runtime=runtime),
        export=SimpleNamespace(other=other),
    )  # fmt: skip


@pytest.mark.parametrize("schedule", [Schedule(), SCHEDULE], ids=str)
@pytest.mark.parametrize("workload", [PROMPT, STEP], ids=str)
def test_a_decoder_is_delivered_in_the_phases_that_generating_takes(
    workload: Workload, schedule: Schedule, written: list[Any], tmp_path: Path
) -> None:
    """With all its tokens or with fewer."""
    _export(delivery(tmp_path, Architecture(4).with_tokens(schedule), workload, written), "model")
    assert set(written) == {
        (Phase.PREFILL, Form.ONNX_RUNTIME, "model-prefill.onnx"),
        (Phase.DECODE, Form.ONNX_RUNTIME, "model-decode.onnx"),
        (workload.phase, Form.TENSORRT, f"model-{workload.phase}.tensorrt.onnx"),
    }


@pytest.mark.parametrize(
    ("runtime", "names"),
    [("tensorrt", ["model.onnx", "model.tensorrt.onnx"]), ("onnxruntime-cpu", ["model.onnx"])],
)
def test_only_what_is_used_is_written(runtime: str, names: list[str], written: list[Any], tmp_path: Path) -> None:
    workload = Workload.parse("forward:batch=8,seq=10")
    _export(delivery(tmp_path, Architecture(4).with_tokens(SCHEDULE), workload, written, runtime=runtime), "vit")
    assert [name for _, _, name in written] == names


def test_a_file_that_was_certified_is_not_written_again(written: list[Any], tmp_path: Path) -> None:
    (tmp_path / "model-prefill.onnx").write_text("as measured")
    (tmp_path / "model-decode.onnx").write_text("of an earlier search")
    digest = sha256(tmp_path / "model-prefill.onnx")
    _export(delivery(tmp_path, Architecture(4).with_tokens(SCHEDULE), PROMPT, written, digest), "reduced")
    assert (tmp_path / "model-prefill.onnx").read_text() == "as measured"
    assert (tmp_path / "model-decode.onnx").read_text() == "reduced"


@pytest.mark.parametrize("asked", ["prefill:batch=4,seq=1024", "decode:batch=2,past=900", "forward:batch=1,seq=640"])
@pytest.mark.parametrize("family", ["llava", "llama"])
def test_where_a_target_is_far_away_this_machine_compares_prompts_with_room_for_an_image(
    family: str, asked: str
) -> None:
    """Of the phase that was asked for, however long; an image's tokens and words beside them fit in."""
    model = build(family)
    subject = SimpleNamespace(shape=shape_of(model, read_anatomy(model)), model=model)
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

"""What a result folder is given: the files of the phases that its model has."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from families import build

from latency_models.model import Prediction
from latency_models.workload import Phase, Workload
from nas.certification.run import CertificationRun
from nas.export.exporters import EXPORTERS, Exporter
from nas.export.onnx_export import make_workload_inputs
from nas.parent.shape import read_shape
from nas.pipeline.delivery import Delivery
from nas.pipeline.write_results import _draw_pictures, _export
from nas.quality import Quality
from nas.request.quantities import Budget
from nas.request.search_request import SearchRequest
from nas.results.certificate import compute_sha256
from nas.search import Candidate, SearchOutcome
from nas.testing import SyntheticLatency
from pruning.anatomy.anatomy import read_anatomy
from search_spaces import Architecture, Kind, Reduction, Schedule, Unit
from search_spaces.architecture import drop_from_parent

SCHEDULE = Schedule.parse("1=0.5,3=0.25", Reduction())
PROMPT, STEP = Workload.parse("prefill:batch=1,seq=60"), Workload.parse("decode:batch=1,past=60")


@pytest.fixture
def written() -> list[tuple[Phase, Exporter, str]]:
    """Filled with every file that is asked for: its phase, its form and its name."""
    return []


def delivery(
    folder: Path, architecture: Architecture, workload: Workload, written: list[tuple[Phase, Exporter, str]],
    measured: str = "nothing", runtime: str = "tensorrt",
) -> Any:  # fmt: skip
    """What of a delivery the exports are decided by; `measured` is the digest of the certified file."""

    def other(phase: Phase, form: Exporter) -> Any:
        def write(model: Any, path: Path) -> str:
            written.append((phase, form, path.name))
            path.write_text(model)
            return ""

        return SimpleNamespace(write_pruned=write)

    winner = SimpleNamespace(architecture=architecture)
    context = SimpleNamespace(
        workload=workload, target=SimpleNamespace(runtime=runtime), export=SimpleNamespace(make_other=other)
    )
    return SimpleNamespace(
        winner_folder=folder, outcome=SimpleNamespace(winner=winner), context=context,
        certificate=SimpleNamespace(file_sha256=measured),
    )  # fmt: skip


@pytest.mark.parametrize("schedule", [Schedule(), SCHEDULE], ids=str)
@pytest.mark.parametrize("workload", [PROMPT, STEP], ids=str)
def test_a_decoder_is_delivered_in_the_phases_that_generating_takes(
    workload: Workload, schedule: Schedule, written: list[Any], tmp_path: Path
) -> None:
    """With all its tokens or with fewer."""
    _export(delivery(tmp_path, Architecture(4).replace_tokens(schedule), workload, written), "model")
    assert set(written) == {
        (Phase.PREFILL, EXPORTERS["onnxruntime"], "model-prefill.onnx"),
        (Phase.DECODE, EXPORTERS["onnxruntime"], "model-decode.onnx"),
        (workload.phase, EXPORTERS["tensorrt"], f"model-{workload.phase}.tensorrt.onnx"),
    }


@pytest.mark.parametrize(
    ("runtime", "names"),
    [("tensorrt", ["model.onnx", "model.tensorrt.onnx"]), ("onnxruntime-cpu", ["model.onnx"])],
)
def test_only_what_is_used_is_written(runtime: str, names: list[str], written: list[Any], tmp_path: Path) -> None:
    workload = Workload.parse("forward:batch=8,seq=10")
    _export(delivery(tmp_path, Architecture(4).replace_tokens(SCHEDULE), workload, written, runtime=runtime), "vit")
    assert [name for _, _, name in written] == names


def test_a_file_that_was_certified_is_not_written_again(written: list[Any], tmp_path: Path) -> None:
    (tmp_path / "model-prefill.onnx").write_text("as measured")
    (tmp_path / "model-decode.onnx").write_text("of an earlier search")
    digest = compute_sha256(tmp_path / "model-prefill.onnx")
    _export(delivery(tmp_path, Architecture(4).replace_tokens(SCHEDULE), PROMPT, written, digest), "reduced")
    assert (tmp_path / "model-prefill.onnx").read_text() == "as measured"
    assert (tmp_path / "model-decode.onnx").read_text() == "reduced"


@pytest.mark.parametrize("asked", ["prefill:batch=4,seq=1024", "decode:batch=2,past=900", "forward:batch=1,seq=640"])
@pytest.mark.parametrize("family", ["llava", "llama"])
def test_where_a_target_is_far_away_this_machine_compares_prompts_with_room_for_an_image(
    family: str, asked: str
) -> None:
    """Of the phase that was asked for, however long; an image's tokens and words beside them fit in."""
    model = build(family)
    parent = SimpleNamespace(shape=read_shape(model, read_anatomy(model)), model=model)
    workload = Workload.parse(asked)
    small = CertificationRun(SimpleNamespace(parent=parent, workload=workload), None)._choose_small_workload()
    assert (small.batch, small.phase) == (1, workload.phase)
    given = make_workload_inputs(model, small)
    images = int((given["input_ids"][0] == getattr(model.config, "image_token_id", -1)).sum())
    assert small.past + small.sequence <= 257
    if family == "llava" and small.phase is Phase.DECODE:
        assert small.past > parent.shape.droppable
    elif family == "llava":
        assert len(given["pixel_values"]) == 1
        assert images == parent.shape.droppable <= small.sequence - 2


class ParentMeasured(SyntheticLatency):
    """A latency model of a profile that has the parent."""

    def predict(self, architecture: Architecture, percentile: int = 50) -> Prediction:
        return replace(super().predict(architecture, percentile), exact=not architecture.choices)


def test_the_picture_has_one_scale_of_milliseconds(tmp_path: Path) -> None:
    """Parent, candidates and a budget that is a fraction, in those of the latency model as it is in the end."""
    architectures = [drop_from_parent(4, (Unit(layer, Kind.MLP) for layer in range(count))) for count in range(4)]
    qualities = [Quality("kl", 0.1 * count, False, "validation", 0.1 * count) for count in range(4)]
    found = [
        Candidate(architecture, quality, 10.0 - 2 * count, "x", count)
        for count, (architecture, quality) in enumerate(zip(architectures, qualities, strict=True))
    ]
    outcome = SearchOutcome(found[0], (found[3],), tuple(found), {"cosine-joint": found[2]}, 4, 1.0)
    context = SimpleNamespace(
        request=SearchRequest("host", Budget.parse("0.5x"), tmp_path), parent=SimpleNamespace(id="model"),
        target=SimpleNamespace(name="host"), workload=STEP,
    )  # fmt: skip
    costs = {Kind.ATTENTION: 0.0, Kind.MLP: 4.0}  # twice what candidates were found with
    latency = ParentMeasured(4, costs, stem=4.0, label="measured on this machine")
    delivered = Delivery(context, latency, outcome, SimpleNamespace(budget_ms=31.0), {}, 0, ())
    _draw_pictures(delivered)
    drawn = json.loads((tmp_path / "candidates.json").read_text())
    assert [point["ms"] for point in drawn["candidates"]] == [20.0, 16.0, 12.0, 8.0]
    assert [point["measured"] for point in drawn["candidates"]] == [True, False, False, False]
    assert [point["feasible"] for point in drawn["candidates"]] == [False, False, False, True]
    assert {name: point["ms"] for name, point in drawn["named"].items()} == {
        "parent": 20.0, "winner": 8.0, "cosine-joint": 12.0,
    }  # fmt: skip
    assert drawn["budget_ms"] == 10.0
    assert drawn["latency_label"].startswith("p90 latency, ms (measured on this machine")

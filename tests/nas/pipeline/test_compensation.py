"""Compensation from the request to the result folder: what is delivered is what was judged."""

import json
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from latency_models.workload import Workload
from nas.data.dataset import Split
from nas.parent.parent import load_parent_model
from nas.parent.reference_models import find_reference
from nas.pipeline.compensation import pick_items
from nas.pipeline.run import run
from nas.progress import Silent
from nas.quality.classification import ClassificationEvaluator
from nas.request.quantities import Budget
from nas.request.search_request import SearchRequest
from pruning.checkpoint import load, save
from pruning.compensation import CandidateBuilder, CompensationPlan
from pruning.surgery.prune import prune
from search_spaces import Architecture, Kind, Unit
from search_spaces.architecture import drop_from_parent

BLOCKS = 2  # what takes time is exporting them


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[SearchRequest, dict[str, Any]]:
    """A finished search of the first blocks of the shipped image model: its request and its result."""
    home, reference = tmp_path_factory.mktemp("compensated"), load_parent_model("digits-vit")
    later = (Unit(layer, Kind.BLOCK) for layer in range(BLOCKS, reference.anatomy.depth))
    first = prune(reference.model, drop_from_parent(reference.anatomy.depth, later), anatomy=reference.anatomy)
    shipped = find_reference("digits-vit")
    assert shipped is not None
    save(first, home / "model", companions=shipped.folder)
    out = home / "result"
    request = SearchRequest(
        "jetson-orin", Budget.parse("0.6x"), out, model=str(home / "model"), data=shipped.data, trials=4,
        workload=Workload.parse("forward:batch=4,seq=65"),
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NAS_CACHE", str(out.parent / "cache"))
        run(request, Silent())
    return request, json.loads((out / "result.json").read_text())


def test_the_loaded_folder_has_the_quality_of_the_result(finished: tuple[SearchRequest, dict[str, Any]]) -> None:
    request, result = finished
    parent = load_parent_model(request.model, request.data)
    evaluator = ClassificationEvaluator(parent.model, parent.dataset)
    loaded = evaluator.evaluate(load(request.out / "winner", torch.float32), "test")
    plain = prune(parent.model, Architecture.from_json(result["winner"]["architecture"]), anatomy=parent.anatomy)
    assert loaded.loss == pytest.approx(result["winner"]["quality"]["loss"], abs=1e-5)
    assert evaluator.evaluate(plain, "test").loss == pytest.approx(result["winner"]["as_dropped"]["loss"], abs=1e-5)
    assert result["winner"]["quality"]["loss"] < result["winner"]["as_dropped"]["loss"]


def test_the_file_computes_what_the_folder_does(finished: tuple[SearchRequest, dict[str, Any]]) -> None:
    request, _ = finished
    parent = load_parent_model(request.model, request.data)
    pixels = parent.dataset.test.inputs["pixel_values"][:8]
    session = onnxruntime.InferenceSession(str(request.out / "winner" / "model.onnx"))
    (logits,) = session.run(None, {"pixel_values": pixels.numpy()})[:1]
    with torch.inference_mode():
        expected = load(request.out / "winner", torch.float32)(pixel_values=pixels).logits.numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-3, rtol=1e-3)


def test_the_weights_can_be_made_again_from_what_the_folder_says(
    finished: tuple[SearchRequest, dict[str, Any]],
) -> None:
    request, result = finished
    record = json.loads((request.out / "winner" / "compensation.json").read_text())
    assert {name: record[name] for name in result["winner"]["compensation"]} == result["winner"]["compensation"]
    parent, loaded = load_parent_model(request.model, request.data), load(request.out / "winner", torch.float32)
    inputs = pick_items(parent.dataset.calibration, record["items"])
    plan = CompensationPlan(record["method"], inputs, inputs, record["arithmetic"] == "bf16")
    architecture = Architecture.from_json(json.loads((request.out / "winner" / "architecture.json").read_text()))
    again = CandidateBuilder(parent.model, parent.anatomy, plan).build(architecture)
    for name, tensor in again.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], tensor, atol=1e-4, rtol=1e-3)


def test_the_card_shows_the_winner_as_dropped(finished: tuple[SearchRequest, dict[str, Any]]) -> None:
    request, result = finished
    text = (request.out / "winner" / "README.md").read_text()
    assert f"| as dropped | {result['winner']['as_dropped']['value']:.4f} |" in text
    assert "compensation.json" in text


@pytest.mark.parametrize("count", [1, 2, 5, 9])
def test_items_are_picked_evenly_with_all_rows_that_belong_to_them(count: int) -> None:
    """Two images to a text."""
    split = Split("calibration", {"input_ids": torch.arange(5)[:, None], "pixel_values": torch.arange(10)[:, None]})
    picked = pick_items(split, count)
    items = picked["input_ids"][:, 0].tolist()
    assert len(items) == min(count, 5)
    assert items == sorted(set(items))
    assert picked["pixel_values"][:, 0].tolist() == [row for item in items for row in (2 * item, 2 * item + 1)]

"""A search that heals its finalists: what wins, what is delivered, what is told, and that it can be killed."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from families import mark_rest_slow
from healing_case import Stops
from small_search import make

from nas.certification.run import CertificationRun
from nas.parent.parent import load_parent_model
from nas.pipeline.delivery import Delivery
from nas.pipeline.run import run
from nas.progress import Progress, Silent
from nas.quality.evaluator import choose_evaluator
from nas.request.quantities import Budget
from nas.request.search_request import SearchRequest
from pruning.checkpoint import load
from search_spaces.errors import MissingExtra, UsageError

PLANNED = [(4, 24), (4, 20), (16, 16)]  # steps of the next rung, and of all that are left, rung by rung


def ask(folder: Path, out: str, budget: str = "0.4x", **more: Any) -> SearchRequest:
    return SearchRequest(
        "jetson-orin", Budget.parse(budget), folder / out, model=str(folder / "model"), data=folder / "data", trials=8,
        **more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("healed"))


@pytest.fixture
def exports(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is exported and logged, which takes ten seconds; evaluations are kept from test to test."""
    monkeypatch.setenv("NAS_CACHE", str(folder / "cache"))
    predicted = SimpleNamespace(busy="", budget_ms=1.0)
    monkeypatch.setattr(CertificationRun, "compare_here", lambda self, problem, winner: predicted)
    monkeypatch.setattr("nas.pipeline.run.deliver", lambda delivery: SimpleNamespace(mlflow={}))
    monkeypatch.setattr("nas.pipeline.run.record", lambda result, delivery, progress: replace_result(result, delivery))


def replace_result(result: Any, delivery: Delivery) -> Any:
    result.delivery = delivery
    return result


def search(request: SearchRequest, progress: Progress | None = None) -> Delivery:
    """What a search would have delivered."""
    found: Any = run(request, progress or Silent())
    delivery: Delivery = found.delivery
    return delivery


def plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the rungs have the steps of `PLANNED`, whatever the pace."""
    monkeypatch.setattr("nas.healing.tournament.plan_steps", lambda sizes, rung, *_: PLANNED[rung])


@pytest.mark.parametrize("what", ["projections+norms", "lora", "all"])
def test_the_finalist_with_the_lowest_loss_after_healing_is_delivered(
    what: str, folder: Path, exports: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan(monkeypatch)
    delivery = search(ask(folder, f"out-{what}", heal_s=600.0, heal_train=what))
    finalists, healed = delivery.finalists, delivery.healed
    assert healed is not None
    assert 3 <= len(finalists) <= 4
    compensated = [each.compensated for each in finalists]
    assert compensated == sorted(compensated)
    best = min(finalists, key=lambda each: each.healed)
    assert best.healed < best.compensated
    assert delivery.outcome.winner.architecture == best.architecture
    assert sorted(len(each.rungs) for each in finalists)[-2:] == [2, 3]
    evaluator = delivery.context.cached_evaluator.evaluator
    assert delivery.winner is healed.model
    assert evaluator.evaluate(delivery.winner).loss == pytest.approx(best.healed, rel=1e-2)
    assert delivery.outcome.winner.quality.loss == healed.validated.loss
    assert delivery.get_tested(delivery.outcome.winner).loss == evaluator.evaluate(delivery.winner, "test").loss
    assert healed.summary["rungs"] == [4, 8, 24]
    assert healed.summary["train"] == what
    assert 4 <= healed.summary["steps"] <= 24
    assert set(healed.curves) == {each.architecture for each in finalists}
    parent = delivery.context.parent.model
    assert not {id(each) for each in parent.parameters()} & {
        id(each) for name, each in delivery.winner.named_parameters() if "output" in name
    }


@pytest.mark.parametrize("stop", mark_rest_slow([1, 9, 21], [9]))
def test_a_search_that_was_killed_while_it_healed_ends_as_one_that_was_not(
    stop: int, folder: Path, exports: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan(monkeypatch)
    straight = search(ask(folder, "straight", heal_s=600.0))
    request = ask(folder, f"killed-{stop}", heal_s=600.0)
    with pytest.raises(KeyboardInterrupt):
        search(request, Stops(stop))
    resumed = search(SearchRequest.load(request.out))
    assert [each.to_json() for each in resumed.finalists] == [each.to_json() for each in straight.finalists]
    states = [each.winner.state_dict() for each in (resumed, straight)]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
    again = search(SearchRequest.load(request.out), Stops(0))  # which ends the process at the first step
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in again.winner.state_dict().items())


def test_without_healing_finalists_are_compared_as_dropped_and_compensated(folder: Path, exports: None) -> None:
    delivery = search(ask(folder, "plain"))
    parent = delivery.context.parent.model
    assert delivery.healed is None
    for finalist in delivery.finalists:
        pruned = delivery.prune(finalist.architecture)
        assert finalist.as_dropped == pytest.approx(choose_evaluator(parent, delivery.context.parent.dataset).evaluate(
            pruned).loss)  # fmt: skip
        assert finalist.as_dropped != finalist.compensated
        assert (finalist.rungs, finalist.healed) == ((), None)
    assert delivery.finalists[0].architecture == delivery.outcome.winner.architecture


def test_without_compensation_the_losses_are_those_as_dropped(folder: Path, exports: None) -> None:
    delivery = search(ask(folder, "dropped", compensate="off"))
    assert [each.compensated for each in delivery.finalists] == [None] * len(delivery.finalists)
    assert delivery.finalists[0].as_dropped == delivery.outcome.winner.quality.loss


def test_where_the_parent_wins_nothing_is_healed(folder: Path, exports: None) -> None:
    told = Stops(10**9)
    delivery = search(ask(folder, "whole", budget="1x", heal_s=600.0), told)
    assert delivery.healed is None
    assert not delivery.outcome.winner.architecture.choices
    assert any("is the parent itself" in line for line in told.told)


def test_a_package_that_is_missing_is_named_before_the_search(
    folder: Path, exports: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nas.healing.devices.find_spec", lambda name: None if name == "peft" else name)
    with pytest.raises(MissingExtra, match=r"needs peft; install with: pip install 'nas\[heal\]'"):
        search(ask(folder, "missing", heal_s=600.0, heal_train="lora"))
    assert not (folder / "missing" / "study.db").exists()


def test_adapters_of_weights_of_fewer_bits_are_refused_before_the_search(folder: Path, exports: None) -> None:
    for request in (ask(folder, "bits", units=("attention", "mlp-bits")), ask(folder, "bits", precision="int8")):
        with pytest.raises(UsageError, match=r"--heal-train lora and weights of fewer bits: .* --precision fp32"):
            search(replace(request, heal_s=600.0, heal_train="lora"))
    assert not (folder / "bits").exists()


@pytest.fixture(scope="module")
def written(folder: Path) -> tuple[SearchRequest, dict[str, Any]]:
    """A finished search, healed for six seconds."""
    request = ask(folder, "written", heal_s=6.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NAS_CACHE", str(folder / "cache"))
        run(request, Silent())
    return request, json.loads((request.out / "result.json").read_text())


@pytest.mark.slow
def test_the_delivered_folder_and_file_have_the_healed_weights(written: tuple[SearchRequest, dict[str, Any]]) -> None:
    request, result = written
    winner, parent = result["winner"], load_parent_model(request.model, request.data)
    evaluator, model = choose_evaluator(parent.model, parent.dataset), load(request.out / "winner", torch.float32)
    assert evaluator.evaluate(model, "test").loss == pytest.approx(winner["quality"]["loss"], rel=1e-5)
    assert winner["quality"]["loss"] < winner["compensated"]["loss"] != winner["as_dropped"]["loss"]
    pixels = parent.dataset.test.inputs["pixel_values"][:4]
    session = onnxruntime.InferenceSession(str(request.out / "winner" / "model.onnx"))
    with torch.inference_mode():
        expected = model(pixel_values=pixels).logits.numpy()
    np.testing.assert_allclose(session.run(None, {"pixel_values": pixels.numpy()})[0], expected, atol=1e-4)


@pytest.mark.slow
def test_what_it_took_is_told_and_within_the_time(written: tuple[SearchRequest, dict[str, Any]]) -> None:
    request, result = written
    healing = result["winner"]["healing"]
    assert healing == json.loads((request.out / "winner" / "healing.json").read_text())
    assert healing["asked_minutes"] == pytest.approx(0.1)
    assert 0 < healing["minutes"] <= 0.11
    assert 0 < healing["steps"] <= healing["rungs"][-1]
    assert 0 < healing["tokens_seen"] < healing["tokens_seen_by_all"]
    card, page = (request.out / "winner" / "README.md").read_text(), (request.out / "report.html").read_text()
    for text in (card, page):
        assert f"{result['finalists'][0]['as_dropped']:.4f} (" in text
        assert f"{min(each['healed'] for each in result['finalists']):.4f} (1)" in text
        assert "compensation" in text
    assert f"healing for {healing['rungs'][0]} steps" in card


@pytest.mark.slow
def test_the_curves_of_all_finalists_are_logged(written: tuple[SearchRequest, dict[str, Any]]) -> None:
    from mlflow.tracking import MlflowClient

    _, result = written
    client, run_id = MlflowClient(result["mlflow"]["tracking_uri"]), result["mlflow"]["run_id"]
    steps = {len(client.get_metric_history(run_id, name)) for name in ("heal.training_loss", "heal.learning_rate")}
    assert steps == {result["winner"]["healing"]["steps"]}
    children = client.search_runs([client.get_run(run_id).info.experiment_id], f"tags.mlflow.parentRunId = '{run_id}'")
    trained = {each.data.tags["nas.arch_hash"] for each in children if "heal.training_loss" in each.data.metrics}
    assert len(trained) == len(result["finalists"])

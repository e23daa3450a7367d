"""Healing the winner in a result folder: what it leaves, how it goes on, and what it refuses."""

import json
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from eight_bits import saturates
from families import build, example
from healing_case import Stops, classifier, decoder, encoder, vision_language
from typer.testing import CliRunner

from nas.cli.app import app
from nas.healing.devices import open_accelerator
from nas.healing.heal import heal
from nas.healing.recipe import Recipe
from nas.healing.train import Pace
from nas.parent.parent import compute_weights_digest, load_parent_model
from nas.progress import Silent
from nas.quality.evaluator import choose_evaluator
from nas.request.search_request import SearchRequest
from pruning.checkpoint import load
from search_spaces import Architecture
from search_spaces.errors import Interrupted, ModelError, UsageError

WHOLE = "w8" if saturates() else "int8"
FEW = Recipe(steps=4, evaluate_every=2, batch_items=2, accumulation=1, save_every=1)


@pytest.fixture(autouse=True)
def no_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing MLflow takes seconds; `test_mlflow_model.py` and `test_healing_curves.py` are about it."""
    monkeypatch.setattr("nas.healing.heal.write_mlmodel", lambda folder: (folder / "MLmodel").write_text("loader"))
    monkeypatch.setattr("nas.healing.heal.log_search", lambda run, uri, out: {"tracking_uri": uri, "run_id": run.verb})


def healed_loss(folder: Path) -> float:
    """On the test split, of what is read back from the folder."""
    request = SearchRequest.load(folder)
    parent = load_parent_model(request.model, request.data)
    return choose_evaluator(parent.model, parent.dataset).evaluate(load(folder / "healed", torch.float32), "test").loss


@pytest.mark.parametrize("made", [decoder, encoder, classifier, vision_language], ids=lambda made: made.__name__)
def test_the_folder_holds_the_model_that_the_record_is_about(made: Callable[[Path], Path], tmp_path: Path) -> None:
    folder = made(tmp_path)
    winner = {path.name: path.read_bytes() for path in (folder / "winner").iterdir() if path.is_file()}
    healed = heal(folder, FEW, Silent())
    document = json.loads((folder / "healed" / "healing.json").read_text())
    assert document == json.loads(json.dumps(healed.to_json()))
    assert document["quality"]["healed"]["loss"] == pytest.approx(healed_loss(folder), rel=1e-5, abs=1e-9)
    assert document["quality"]["as_dropped"]["loss"] > 0
    assert document["quality"]["compensated"] is None
    assert (document["steps"], document["planned_steps"], document["history"][0][0]) == (4, 4, 0)
    assert document["history"][-1][1] <= document["history"][0][1]
    assert healed.best_step > 0
    assert healed.tokens_seen > 0
    assert healed.winner == compute_weights_digest(load(folder / "winner", torch.float32))
    assert not (folder / "healed" / "training.pt").exists()
    assert {"README.md", "MLmodel", "architecture.json", "config.json"} <= {
        path.name for path in (folder / "healed").iterdir()
    }
    assert {name for name in winner if name.startswith(("token", "special", "modules"))} <= {
        path.name for path in (folder / "healed").iterdir()
    }
    assert winner == {path.name: path.read_bytes() for path in (folder / "winner").iterdir() if path.is_file()}


def test_calibration_items_alone_are_trained_on(tmp_path: Path) -> None:
    folder = decoder(tmp_path)
    request = SearchRequest.load(folder)
    parent = load_parent_model(request.model, request.data)
    expected = parent.load_more_calibration(4096)
    assert len(expected) > len(parent.dataset.calibration)
    assert heal(folder, FEW, Silent()).data == {"digest": expected.digest, "items": len(expected)}


def test_every_file_that_the_winner_has_is_exported_and_compared(tmp_path: Path) -> None:
    folder = classifier(tmp_path)
    (folder / "winner" / "model.onnx").write_bytes(b"of the winner")
    healed = heal(folder, FEW, Silent())
    assert (folder / "healed" / "model.onnx").stat().st_size > 1000
    assert list(healed.files) == ["model.onnx"]
    assert healed.files["model.onnx"] < 1e-4


def test_weights_of_fewer_bits_are_trained_and_delivered_with_their_products(tmp_path: Path) -> None:
    words = f"attn:bits={WHOLE}+mlp:bits=w4 attn+mlp:bits={WHOLE} attn:bits=w4 mlp:bits=w8"
    folder = decoder(tmp_path, words)
    (folder / "winner" / "model.onnx").write_bytes(b"of the winner")
    healed = heal(folder, FEW, Silent())
    assert healed.best_step > 0
    assert healed.healed.loss == pytest.approx(healed_loss(folder), rel=1e-5)
    given = example(build("llama"), batch=3, tokens=16)["input_ids"]
    session = onnxruntime.InferenceSession(str(folder / "healed" / "model.onnx"))
    positions = torch.arange(16).expand(3, -1)
    inputs = {"input_ids": given, "attention_mask": torch.ones_like(given), "position_ids": positions}
    (actual,) = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
    with torch.inference_mode():
        before, after = (load(folder / name, torch.float32)(**inputs).logits for name in ("winner", "healed"))
    moved, differs = (before - after).abs().max(), (torch.from_numpy(actual) - after).abs().max()
    assert differs < 0.2 * moved
    products = [node.op_type for node in onnx.load(str(folder / "healed" / "model.onnx")).graph.node]
    of_blocks = 3 + 4 + 3
    expected = (0, 4 + 3 + of_blocks) if WHOLE == "w8" else (4 + 3, of_blocks)
    assert (products.count("MatMulInteger"), products.count("MatMulNBits")) == expected


def test_adapters_of_weights_of_fewer_bits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"lora and weights of fewer bits: .* train projections\+norms or all"):
        heal(decoder(tmp_path, "attn+mlp:bits=int8 attn attn mlp"), replace(FEW, trained="lora"), Silent())


def test_what_was_adjusted_is_told_apart_from_what_was_dropped(tmp_path: Path) -> None:
    folder = classifier(tmp_path)
    document = json.loads((folder / "result.json").read_text())
    quality = {
        "metric": "kl", "value": 9.0, "higher_is_better": False, "split": "test", "loss": 9.0, "items": 3,
        "agreement": 0.0,
    }  # fmt: skip
    document["winner"]["as_dropped"] = quality
    (folder / "result.json").write_text(json.dumps(document))
    healed = heal(folder, FEW, Silent())
    assert healed.to_json()["quality"]["as_dropped"] == quality
    assert healed.compensated is not None
    assert healed.compensated.loss != healed.healed.loss
    assert healed.comparison["against"] == "compensated"


def test_a_healing_that_was_killed_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    folders = []
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
        folders.append(classifier(tmp_path / name))
    whole = heal(folders[0], FEW, Silent())
    with pytest.raises(KeyboardInterrupt):
        heal(folders[1], FEW, Stops(2))
    assert not (folders[1] / "healed" / "healing.json").exists()
    with pytest.raises(UsageError, match="another recipe, winner or data"):
        heal(folders[1], Recipe(steps=7), Silent())
    again = Stops(10**9)
    continued = heal(folders[1], None, again)
    assert "healing goes on at step 3 of 4" in again.told
    assert (continued.recipe, continued.history) == (whole.recipe, whole.history)
    states = [load(folder / "healed", torch.float32).state_dict() for folder in folders]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def test_what_is_healed_already_is_said_and_not_done_again(tmp_path: Path) -> None:
    folder = classifier(tmp_path)
    first = heal(folder, FEW, Silent())
    reported = Stops(0)  # which ends the process at the first step
    assert heal(folder, None, reported) == heal(folder, FEW, reported) == first
    assert any("is healed already; delete it to heal again" in line for line in reported.told)
    with pytest.raises(UsageError, match="healed already by another recipe"):
        heal(folder, Recipe(steps=5), Silent())


def test_it_trains_where_it_is_told_to(tmp_path: Path) -> None:
    folder = classifier(tmp_path)
    with pytest.raises(UsageError, match=r"device cuda:99: torch finds . CUDA devices here; take auto, or cpu"):
        heal(folder, replace(FEW, device="cuda:99"), Silent())
    assert open_accelerator(replace(FEW, device="cpu")).device == torch.device("cpu")
    answer = CliRunner().invoke(app, ["heal", str(folder), "--steps", "2", "--device", "cpu", "--json"])
    assert answer.exit_code == 0, answer.stderr
    assert json.loads(answer.stdout)["recipe"]["device"] == "cpu"
    refused = CliRunner().invoke(app, ["heal", str(folder), "--device", "tpu"])
    assert isinstance(refused.exception, UsageError)


def test_minutes_are_kept_as_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = classifier(tmp_path)
    monkeypatch.setattr("nas.healing.heal.measure_pace", lambda training: Pace(step=60.0, evaluation=0.0))
    healed = heal(folder, Recipe(minutes=2.0, batch_items=2), Silent())
    assert (healed.steps, healed.planned_steps, healed.recipe.minutes) == (2, 2, 2.0)


def test_a_folder_without_a_result_is_refused(tmp_path: Path) -> None:
    answer = CliRunner().invoke(app, ["heal", str(tmp_path)])
    assert isinstance(answer.exception, UsageError)
    assert "holds no result.json; give the result folder of a search" in str(answer.exception)
    assert not list(tmp_path.iterdir())


def test_a_winner_that_is_the_parent_is_refused(tmp_path: Path) -> None:
    folder = classifier(tmp_path)
    (folder / "winner" / "architecture.json").write_text(json.dumps(Architecture(4).to_json()))
    with pytest.raises(UsageError, match="is the parent itself"):
        heal(folder, FEW, Silent())


def test_another_parent_is_refused(tmp_path: Path) -> None:
    folder = classifier(tmp_path)
    build("vit", seed=1).save_pretrained(tmp_path / "model")
    with pytest.raises(ModelError, match="other weights than the parent of the search"):
        heal(folder, FEW, Silent())


def test_the_command_says_how_to_go_on_and_prints_one_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = classifier(tmp_path)
    command = ["heal", str(folder), "--steps", "3", "--learning-rate", "0.01", "--json"]
    with monkeypatch.context() as patch:
        patch.setattr("nas.cli.console.begin", lambda work: Stops(1))
        stopped = CliRunner().invoke(app, command)
    assert isinstance(stopped.exception, Interrupted)
    again = shlex.split(stopped.exception.resume_command or "")
    assert again == ["nas", *command[:-1]]
    done = CliRunner().invoke(app, [*again[1:], "--json"])
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert (document["schema_version"], document["steps"], document["recipe"]["learning_rate"]) == (1, 3, 0.01)
    shown = CliRunner().invoke(app, ["heal", str(folder)]).stdout
    assert "as dropped   kl" in shown
    assert "compared     with as dropped: the loss differs by" in shown
    assert str(folder / "healed") in shown


@pytest.mark.slow
def test_the_winner_of_a_search_is_healed(tmp_path: Path) -> None:
    """From the search on: adjusted in closed form, exported, healed, exported again and judged as `evaluate` does."""
    from command_line import nas
    from small_search import make, search_arguments

    make(tmp_path)
    out = tmp_path / "out"
    more = ("--target", "jetson-orin", "--budget", "0.7x", "--trials", "3", "--workload", "forward:batch=1,seq=10")
    found = nas(*search_arguments(tmp_path, out, *more))
    assert found.returncode == 0, found.stderr
    done = nas("heal", str(out), "--steps", "20", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert set(document["files"]) >= {"model.onnx", "model.tensorrt.onnx"}
    assert document["quality"]["healed"]["loss"] <= document["quality"]["as_dropped"]["loss"]
    model, data = str(tmp_path / "model"), str(tmp_path / "data")
    judged = nas("evaluate", str(out / "healed"), "--parent", model, "--data", data, "--json")
    assert json.loads(judged.stdout)["candidate"]["loss"] == pytest.approx(document["quality"]["healed"]["loss"])

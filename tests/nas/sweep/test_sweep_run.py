"""Sweeps on a real local Ray cluster: with searches that are played, and with tiny ones from the command line."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from itertools import combinations, pairwise
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState
from small_search import NAS
from test_cli import tiny  # noqa: F401  (a fixture)

from latency_models.runner.plan import ENTRY, PROFILE
from nas.execution.device_node import Node
from nas.progress import Silent
from nas.request.quantities import Budget
from nas.request.search_request import SearchRequest
from nas.sweep.outcome import Outcome, read_outcome
from nas.sweep.request import Sweep, create_sweep
from nas.sweep.run import run_sweep

SECONDS = 0.3


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    import ray
    import ray.cloudpickle

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test
    ray.init(address="local", num_cpus=2, resources={"jetson-orin": 1}, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()
    ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Callable[[Path], Outcome]], None]:
    """Play the searches of the workers, and a kit that every search for jetson-orin runs on the node that is one."""
    kit = tmp_path / "kit.zip"
    with zipfile.ZipFile(kit, "w") as packed:
        packed.writestr(ENTRY, f"from pathlib import Path; Path({PROFILE!r}).write_text('{{}}')")

    def played(search: Callable[[Path], Outcome]) -> None:
        def run_cell(folder: Path, device: str | None) -> Outcome:
            known = read_outcome(folder)
            if known is not None:
                return known
            began = time.time()
            if device is not None:
                assert Node(device).run(kit, Silent()) == b"{}", "a trial's own place must not hold it back"
            outcome = search(folder)
            (folder / "span.json").write_text(json.dumps([began, time.time()]))
            outcome.save(folder)
            return outcome

        monkeypatch.setattr("nas.sweep.run.run_cell", run_cell)

    return played


def started(out: Path, models: list[str], targets: list[str], **how) -> Sweep:
    sweep = create_sweep(out, models, targets, [Budget.parse("0.5x")], [0], **how)
    sweep.save(SearchRequest(targets[0], Budget.parse("0.5x"), sweep.out))
    return sweep


def spans(sweep: Sweep) -> list[tuple[str, str, float, float]]:
    """(model, target, began, ended) of every cell that ran."""
    found = [(cell, sweep.get_folder(cell) / "span.json") for cell in sweep.cells]
    return [(c.model, c.target, *json.loads(path.read_text())) for c, path in found if path.exists()]


def reported(sweep: Sweep) -> list[optuna.trial.FrozenTrial]:
    storage, name = sweep.study
    return optuna.load_study(study_name=name, storage=storage).trials


def nas(*arguments: str, **options) -> subprocess.CompletedProcess:
    """In a process of its own, which has a cluster of its own."""
    return subprocess.run([*NAS, *arguments], capture_output=True, text=True, timeout=900, check=False, **options)


def nothing_fits(folder: Path) -> Outcome:
    time.sleep(SECONDS)
    return Outcome("infeasible", SECONDS, "the closest takes 12.00 ms", 10.0, 12.0)


def test_pilots_go_ahead_and_failures_stop_nothing(cluster: None, play, tmp_path: Path) -> None:
    def search(folder: Path) -> Outcome:
        outcome = nothing_fits(folder)
        return Outcome("failed", SECONDS, "it has no such phase") if "l4" in folder.name else outcome

    play(search)
    sweep = started(tmp_path / "s", ["digits-vit", "python-lm"], ["jetson-orin", "l4"])
    result = run_sweep(sweep, Silent())
    assert [(row.outcome.state, row.pilot) for row in result.rows] == [("infeasible", True), ("failed", False)] * 2
    assert result.rows[1].outcome.reason == "it has no such phase"
    assert result.exit_code == 1
    for model in ("digits-vit", "python-lm"):
        (pilot_ended,) = [end for m, target, _, end in spans(sweep) if (m, target) == (model, "jetson-orin")]
        assert all(begin >= pilot_ended for m, target, begin, _ in spans(sweep) if (m, target) == (model, "l4"))
    trials = {trial.user_attrs["cell"]: trial for trial in reported(sweep)}
    assert set(trials) == {cell.name for cell in sweep.cells}
    assert {trial.state for trial in trials.values()} == {TrialState.FAIL}
    assert [trials[cell.name].constraints for cell in sweep.cells] == [{"latency_ms": 2.0}, {}] * 2
    assert [trials[cell.name].params for cell in sweep.cells] == [cell.params for cell in sweep.cells]
    rerun = run_sweep(Sweep.load(sweep.out), Silent())
    assert [row.outcome for row in rerun.rows] == [row.outcome for row in result.rows]
    assert len(reported(sweep)) == len(sweep.cells)


def test_nothing_runs_beside_a_search_that_measures_this_machine(cluster: None, play, tmp_path: Path) -> None:
    def search(folder: Path) -> Outcome:
        if "l4" in folder.name:
            (folder.parent / f"{folder.name}.began").touch()
            for _ in range(300):  # a second worker of a busy machine takes seconds to start
                if len(list(folder.parent.glob("*.began"))) >= 2:
                    break
                time.sleep(0.1)
        return nothing_fits(folder)

    play(search)
    sweep = started(tmp_path / "s", ["digits-vit", "python-lm", "minilm"], ["l4", "host"])
    run_sweep(sweep, Silent())
    found = spans(sweep)
    assert len(found) == 6
    overlapping = [pair for pair in combinations(found, 2) if max(s[2] for s in pair) < min(s[3] for s in pair)]
    assert overlapping, "two CPUs hold two searches of data-sheet targets"
    assert all("host" not in (one[1], other[1]) for one, other in overlapping)


def test_at_most_as_many_at_once_as_asked_for(cluster: None, play, tmp_path: Path) -> None:
    play(nothing_fits)
    sweep = started(tmp_path / "s", ["digits-vit", "python-lm"], ["l4", "t4"], concurrent=1)
    run_sweep(sweep, Silent())
    ordered = sorted(spans(sweep), key=lambda span: span[2])
    assert all(one[3] <= other[2] for one, other in pairwise(ordered))


@pytest.mark.slow
def test_a_worker_that_dies_is_replaced_and_one_that_always_does_is_told(cluster: None, play, tmp_path: Path) -> None:
    def search(folder: Path) -> Outcome:
        deaths = len(list(folder.glob("death*")))
        if "python-lm-l4" in folder.name or ("digits-vit-t4" in folder.name and not deaths):
            (folder / f"death{deaths}").touch()
            os._exit(1)
        return nothing_fits(folder)

    play(search)
    sweep = started(tmp_path / "s", ["digits-vit", "python-lm"], ["l4", "t4"])
    result = run_sweep(sweep, Silent())
    assert [row.outcome.state for row in result.rows] == ["infeasible", "infeasible", "failed", "infeasible"]
    assert "its worker died" in result.rows[2].outcome.reason
    assert [len(list(sweep.get_folder(cell).glob("death*"))) for cell in sweep.cells] == [0, 1, 3, 0]
    play(nothing_fits)
    again = run_sweep(Sweep.load(sweep.out), Silent())
    assert [row.outcome.state for row in again.rows] == ["infeasible"] * 4


# From the command line, with searches of a tiny classifier.


def arguments(tiny: Path, *more: str) -> list[str]:  # noqa: F811
    return ["sweep", "--targets", "jetson-orin,l4", "--data", str(tiny / "data"), "--trials", "4", *more]


@pytest.mark.slow
def test_a_sweep_from_the_request_to_the_table(tiny: Path, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "broken").mkdir()
    names = f"{tiny / 'model'},{tmp_path / 'broken'}"
    out, own = tmp_path / "out", {**os.environ, "NAS_CACHE": str(tmp_path / "cache")}
    done = nas(*arguments(tiny, "--models", names, "--budgets", "0.7x", "--out", str(out), "--json"), env=own)
    assert done.returncode == 1, done.stderr
    document = json.loads(done.stdout)
    assert document == json.loads((out / "sweep.json").read_text())
    pilot, second, *broken = document["cells"]
    assert [cell["state"] for cell in broken] == ["failed", "failed"]
    assert "broken" in broken[0]["reason"]
    assert (pilot["pilot"], second["pilot"]) == (True, False)
    for cell in (pilot, second):
        found = json.loads((Path(cell["folder"]) / "result.json").read_text())
        assert cell["winner"]["predicted_ms"] == found["winner"]["predicted_ms"] <= cell["budget_ms"]
        assert cell["winner"]["value"] == found["winner"]["quality"]["accuracy"]
        assert cell["parent_ms"] == found["parent"]["predicted_ms"]
        assert cell["data"] == found["model"]["data"]["test"]
        assert cell["run_id"] == found["mlflow"]["run_id"]
    assert second["evaluations"] < pilot["evaluations"]
    assert [answer["comparable"] for answer in document["right_sizing"]] == [True, True]
    assert (out / "sweep.png").stat().st_size > 5000
    runs = sqlite3.connect(out / "mlflow.db").execute("select run_uuid from runs").fetchall()
    assert {(pilot["run_id"],), (second["run_id"],), (document["mlflow"]["run_id"],)} <= set(runs)
    assert "1 of 4" in done.stderr
    assert "ray" not in done.stdout.split('"cells"')[0]
    again = nas("sweep", "--resume", str(out))
    assert again.returncode == 1
    assert "Right-sizing" in again.stdout


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_sweep_that_is_stopped_goes_on_where_it_was(how: signal.Signals, tiny: Path, tmp_path: Path) -> None:  # noqa: F811
    out, own = tmp_path / "out", {**os.environ, "NAS_CACHE": str(tmp_path / "cache")}
    asked = arguments(tiny, "--models", str(tiny / "model"), "--budgets", "0.8x,0.6x", "--out", str(out))
    command = [sys.executable, "-c", "from nas.cli import main; main()", *asked]
    with subprocess.Popen(command, env=own, stderr=subprocess.PIPE, text=True) as driver:
        sweep = _begun(out)
        second = next(folder for folder in map(sweep.get_folder, sweep.cells[1:]) if (folder / "study.db").exists())
        driver.send_signal(how)
        message = driver.communicate()[1]
    assert driver.returncode == (-signal.SIGKILL if how is signal.SIGKILL else 130)
    assert how is signal.SIGKILL or f"nas sweep --resume {out}" in message
    first = (sweep.get_folder(sweep.cells[0]) / "result.json").stat()
    study = (second / "study.db").stat().st_ino
    done = nas("sweep", "--resume", str(out), "--json", env=own)
    assert done.returncode == 0, done.stderr
    assert [cell["state"] for cell in json.loads(done.stdout)["cells"]] == ["winner"] * 4
    assert (sweep.get_folder(sweep.cells[0]) / "result.json").stat() == first
    assert (second / "study.db").stat().st_ino == study
    completed = [trial.params for trial in reported(sweep) if trial.state is TrialState.COMPLETE]
    assert sorted(map(str, completed)) == sorted(str(cell.params) for cell in sweep.cells)


def _begun(out: Path) -> Sweep:
    """The sweep, as soon as its first cell has ended and another has begun to search."""
    for _ in range(2400):
        time.sleep(0.1)
        if (out / "sweep-request.json").exists():
            sweep = Sweep.load(out)
            ended = (sweep.get_folder(sweep.cells[0]) / "cell.json").exists()
            if ended and any((sweep.get_folder(cell) / "study.db").exists() for cell in sweep.cells[1:]):
                return sweep
    raise AssertionError("the sweep did not get so far")

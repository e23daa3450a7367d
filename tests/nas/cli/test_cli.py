"""The command line as a person and another program meet it: exit codes, one line per error, one JSON document."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from command_line import nas
from mlflow.tracking import MlflowClient
from small_search import NAS, finished, make, search_arguments

from nas.storage.result_folder import lock_exclusively


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["search", "--target", "jetson-orin", "--budget", "20"], 2, "budget '20' has no unit"),
        (["search", "--target", "jetson-orin", "--budget", "20lightyears"], 2, "unknown unit"),
        (["search", "--target", "jetson-orrin", "--budget", "20ms"], 2, "nearest: jetson-orin"),
        (["search", "--budget", "20ms"], 2, "--target is missing"),
        (["search", "--target", "host", "--budget", "20ms", "--units", "heads"], 2, "units 'heads'"),
        (["search", "--target", "host", "--budget", "20ms", "--workload", "run"], 2, "phase 'run'"),
        (["search", "--target", "host", "--budget", "20ms", "--time-limit", "5"], 2, "time '5'"),
        (["search", "--target", "host", "--budget", "20ms", "--model", "./nowhere"], 2, "no folder here"),
        (["search", "--target", "jetson-orin", "--budget", "20ms", "--dry-run", "--model", "nowhere"], 2, "no folder"),
        (["search", "--resume", "./nowhere"], 2, "holds no request.json"),
        (["search", "--target", "host", "--budget", "20ms", "--method", "magic"], 2, "method 'magic' is none of nas"),
        (["search", "--target", "host", "--budget", "20ms", "--servable", "vllm"], 2, "none of any, decilm, vanilla"),
        (["search", "--target", "host", "--budget", "20ms", "--evaluate-in", "int8"], 2, "none of auto, fp32, bf16"),
        (["profile", "--target", "jetson-orin"], 2, "cannot be measured from here"),
        (["evaluate", "./nowhere"], 2, "no folder"),
        (["analyze", "--model", "digits-vit", "--data", "./nothing"], 2, "./nothing"),
        (["export", "--architecture", "none.json"], 2, "architecture none.json cannot be read"),
    ],
)  # fmt: skip
def test_wrong_use_is_one_line_and_exit_code_2(arguments: list[str], code: int, says: str, tmp_path: Path) -> None:
    done = nas(*arguments, cwd=tmp_path)
    assert done.returncode == code
    assert done.stdout == ""
    line = done.stderr.strip().splitlines()[-1]
    assert says.removeprefix("./") in line
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "code", "kind", "says"),
    [
        (["search", "--target", "host", "--budget", "20", "--json"], 2, "BadBudget", "budget '20' has no unit"),
        (["search", "--budget", "5ms", "--json"], 2, "UsageError", "--target is missing"),
        (["search", "--nothing", "--json"], 2, "UsageError", "No such option: --nothing"),
        (["search", "--seed", "one", "--json"], 2, "UsageError", "Invalid value for '--seed'"),
        (["serch", "--json"], 2, "UsageError", "Did you mean 'search'"),
        (["evaluate", "./nowhere", "--json"], 2, "ModelError", "no folder here"),
    ],
)  # fmt: skip
def test_with_json_a_failure_is_the_one_document_on_stdout(arguments, code, kind, says, tmp_path: Path) -> None:
    done = nas(*arguments, cwd=tmp_path)
    document = json.loads(done.stdout)
    assert document["schema_version"] == 1
    assert (done.returncode, document["error"]["exit_code"], document["error"]["kind"]) == (code, code, kind)
    assert says in document["error"]["message"]
    assert says.split()[0] in done.stderr  # the person is told as well
    assert done.stdout.count("\n") == 1


def test_a_process_of_its_own_ends_in_the_same_way(tmp_path: Path) -> None:
    """What the others run inside the process of the test."""
    arguments = ["search", "--target", "host", "--budget", "20", "--json"]
    alone = subprocess.run([*NAS, *arguments], capture_output=True, text=True, check=False, cwd=tmp_path)
    inside = nas(*arguments, cwd=tmp_path)
    assert (alone.returncode, alone.stdout, alone.stderr) == (inside.returncode, inside.stdout, inside.stderr)


def broken(instead: str, *arguments: str) -> subprocess.CompletedProcess:
    """Run `nas` with what lists the targets replaced."""
    code = f"import os, latency_models.targets as t; t.list_targets = lambda: {instead}; import nas.cli; nas.cli.main()"
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)


def test_a_defect_shows_where_it_is_and_is_a_document_too() -> None:
    done = broken("1 / 0", "targets", "--json")
    error = {"kind": "ZeroDivisionError", "message": "division by zero", "exit_code": 1}
    assert (done.returncode, json.loads(done.stdout)) == (1, {"schema_version": 1, "error": error})
    assert "Traceback" in done.stderr
    assert broken("1 / 0", "targets").returncode == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_any_verb_can_be_stopped(number: int) -> None:
    done = broken(f"os.kill(os.getpid(), {int(number)})", "targets", "--json")
    error = {"kind": "Interrupted", "message": "interrupted", "exit_code": 130, "resume_command": None}
    assert (done.returncode, json.loads(done.stdout)) == (130, {"schema_version": 1, "error": error})
    assert done.stderr == "nas: interrupted\n"


def test_json_is_indented_on_a_terminal_and_a_line_of_ascii_elsewhere(capsys) -> None:
    from nas.cli.console import emit_json

    text = "Größe\u2028\x85"  # two of these end a line for str.splitlines
    emit_json({"text": text})
    printed = capsys.readouterr().out
    assert json.loads(printed)["text"] == text
    assert printed.isascii()
    assert len(printed.splitlines()) == 1
    ours, theirs = pty.openpty()
    code = f"from nas.cli.console import emit_json; emit_json({{'text': {text!r}}})"
    subprocess.run([sys.executable, "-c", code], stdout=theirs, check=True)
    shown = os.read(ours, 1000).decode()
    assert json.loads(shown)["text"] == text
    assert shown.replace("\r\n", "\n").startswith('{\n  "text": "Größe')


def test_help_and_version() -> None:
    assert "nas search --target jetson-orin --budget 20ms" in nas("--help").stdout
    assert nas("--version").stdout.startswith("nas 0.")
    for verb in ("search", "analyze", "profile", "export", "evaluate", "targets"):
        text = nas(verb, "--help").stdout
        assert text.index("Examples") < text.index("Options")


def test_help_imports_nothing_heavy() -> None:
    code = "import sys, nas.cli; print([m for m in ('torch', 'transformers', 'mlflow', 'optuna') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_targets_as_json() -> None:
    document = json.loads(nas("targets", "--json").stdout)
    names = {target["name"] for target in document["targets"]}
    assert {"host", "jetson-agx-orin-64gb@maxn/fp16", "l4/int8"} <= names
    assert document["aliases"]["jetson-orin"] == "jetson-agx-orin-64gb@maxn/fp16"


def test_a_search_leaves_the_whole_result_folder(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = nas(*search_arguments(tiny, out, "--target", "jetson-orin", "--budget", "0.6x", "--trials", "12", "--json"))
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document == json.loads((out / "result.json").read_text())
    assert set(document) == {
        "schema_version", "model", "target", "workload", "percentile", "budget_ms", "parent", "winner", "pareto",
        "baselines", "comparisons", "finalists", "units", "search", "phases", "mlflow", "versions", "resume_command",
    }  # fmt: skip
    announced = {line.partition(": done in ")[0] for line in done.stderr.splitlines() if ": done in " in line}
    assert announced == set(document["phases"])
    for words in ("redundancy", "searching", "exporting", "measuring", "test split", "recording"):
        assert any(words in phase for phase in announced), words
    assert all(seconds >= 0 for seconds in document["phases"].values())
    assert {unit["unit"].partition(".")[0] for unit in document["units"]} == {"attention", "mlp"}
    assert all(unit["saves_ms"] > 0 and unit["loss"] is not None for unit in document["units"])
    winner = document["winner"]
    assert winner["predicted_ms"] <= document["budget_ms"] < document["parent"]["predicted_ms"]
    assert not winner["certified"]
    assert "predicted, not certified" in winner["verdict"]
    assert winner["quality"]["split"] == "test"
    assert document["target"]["measured"] is False
    compares_without_gaps(document)
    for name in (
        "model.onnx",
        "model.tensorrt.onnx",
        "architecture.json",
        "certificate.json",
        "README.md",
        "config.json",
    ):
        assert (out / "winner" / name).stat().st_size > 50
    for name in ("redundancy.json", "redundancy.png", "pareto.png", "pareto.html", "study.db", "mlflow.db"):
        assert (out / name).exists()
    assert json.loads((out / "winner" / "architecture.json").read_text()) == winner["architecture"]
    losses = [entry["quality"]["loss"] for entry in document["pareto"]]
    latencies = [entry["predicted_ms"] for entry in document["pareto"]]
    assert latencies == sorted(latencies)
    assert losses == sorted(losses, reverse=True) or len(losses) == 1
    assert {entry["quality"]["split"] for entry in document["pareto"]} == {"validation"}
    against = {comparison["against"]: comparison for comparison in document["comparisons"]}
    assert "cosine-joint" in against or document["winner"]["architecture"] in [
        entry["architecture"] for entry in document["baselines"]
    ]
    assert all(c["verdict"] in ("better", "tie", "worse") for c in against.values())
    image = next((tiny / "data").rglob("*.png"))
    tried = json.loads(nas("run", str(out), str(image), "--json").stdout)
    assert [tried[role]["count"] for role in ("model", "parent")] == [1, 1]
    assert "label" in tried["compared"]
    evaluated = nas("evaluate", str(out / "winner"), "--json")  # parent and data are those of the search
    assert json.loads(evaluated.stdout)["candidate"]["loss"] == pytest.approx(winner["quality"]["loss"], rel=1e-4)
    again = nas(*search_arguments(tiny, out, "--target", "jetson-orin", "--budget", "0.5x"))
    assert again.returncode == 2
    assert "holds another search" in again.stderr


def compares_without_gaps(document: dict[str, Any]) -> None:
    """In MLflow the search and all its candidates have the same parameters and metrics; the winner's are the search's.

    Its registered version loads by its name and number, and predicts what its folder's model computes.
    """
    logged, registered = document["mlflow"], document["mlflow"]["registered_model"]
    client = MlflowClient(logged["tracking_uri"], registry_uri=logged["tracking_uri"])
    search = client.get_run(logged["run_id"])
    condition = f"tags.mlflow.parentRunId = '{logged['run_id']}'"
    runs = [search, *client.search_runs([search.info.experiment_id], condition)]
    assert len(runs) > 10
    assert len({frozenset(run.data.metrics) for run in runs}) == len({frozenset(run.data.params) for run in runs}) == 1
    wanted = {
        "kl",
        "accuracy",
        "loss",
        "items",
        "latency.p50_ms",
        "latency.p90_ms",
        "latency.measured",
        "parameters",
        "feasible",
    }
    assert wanted <= search.data.metrics.keys()
    (winner,) = (run for run in runs if run.data.tags["mlflow.runName"] == "winner")
    assert winner.data.metrics == search.data.metrics
    assert winner.data.metrics["items"] == max(run.data.metrics["items"] for run in runs)
    view = client.get_experiment(search.info.experiment_id).tags["mlflow.sharedViewState.candidates"]
    assert json.loads(view)["orderByKey"] == "metrics.`loss`"  # a metric may be of fewer items
    assert search.data.metrics["parameters"] == document["winner"]["parameters"]
    assert float(search.data.tags["nas.test.kl"]) == pytest.approx(document["winner"]["quality"]["value"], rel=1e-4)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("MLFLOW_TRACKING_URI", logged["tracking_uri"])
        model = mlflow.pyfunc.load_model(f"models:/{registered['name']}/{registered['version']}")
    assert model.predict(np.zeros((2, 12, 12, 3), dtype=np.uint8)).shape == (2, 5)


def test_a_published_method_in_place_of_the_search(tiny: Path, tmp_path: Path) -> None:
    arguments = search_arguments(tiny, tmp_path / "out", "--target", "jetson-orin", "--budget", "0.6x")
    done = nas(*arguments, "--method", "finercut-per-ms+add-back", "--servable", "decilm", "--verify-cache", "--json")
    assert done.returncode == 0, done.stderr
    winner = json.loads(done.stdout)["winner"]
    assert winner["method"] == "finercut-per-ms+add-back"
    assert "attention.0" not in winner["architecture"]["dropped"]
    assert winner["predicted_ms"] <= json.loads(done.stdout)["budget_ms"]


def test_a_front_is_consistent(tiny: Path, tmp_path: Path) -> None:
    arguments = search_arguments(tiny, tmp_path / "out", "--target", "jetson-orin", "--budget", "0.7x", "--trials", "8")
    done = nas(*arguments, "--pareto", "--json")
    assert done.returncode == 0, done.stderr
    front = json.loads(done.stdout)["pareto"]
    ms = [entry["predicted_ms"] for entry in front]
    losses = [entry["quality"]["loss"] for entry in front]
    assert len(front) >= 4
    assert ms == sorted(ms)
    assert losses == sorted(losses, reverse=True)
    assert len({entry["quality"]["items"] for entry in front}) == 1  # all judged on everything


def test_this_machine_certifies_or_says_why_not(tiny: Path, tmp_path: Path) -> None:
    """Other tests run meanwhile, so it may end in any of the three ways; a busy machine is waited for five seconds."""
    profiled = nas("profile", "--model", str(tiny / "model"), "--seconds", "2", "--out", str(tmp_path / "profile"))
    assert profiled.returncode == 0, profiled.stderr
    asked = ("--target", "host", "--budget", "0.8x", "--trials", "10", "--time-limit", "5s")
    done = nas(*search_arguments(tiny, tmp_path / "out", *asked))
    assert "using the profile measured before" in done.stderr
    assert done.returncode in (0, 1, 3), done.stderr
    if done.returncode == 3:
        assert "closest" in done.stderr
        return
    certificate = json.loads((tmp_path / "out" / "winner" / "certificate.json").read_text())
    if done.returncode == 1:
        assert "this machine is too busy to certify" in done.stderr
        assert certificate["verdict"] == "predicted, not certified"
        assert json.loads((tmp_path / "out" / "result.json").read_text())["winner"]["certified"] is False
    else:
        assert certificate["verdict"] == "certified"
        assert certificate["ratio_to_parent"] <= 0.8
        assert len(certificate["measured"]["winner"]["samples"]) >= 44


def test_nothing_feasible_is_exit_code_3(tiny: Path, tmp_path: Path) -> None:
    arguments = search_arguments(
        tiny, tmp_path / "out", "--target", "jetson-orin", "--budget", "0.01x", "--trials", "6"
    )
    done = nas(*arguments, "--json")
    assert done.returncode == 3
    assert "no candidate meets" in done.stderr
    assert "closest takes" in done.stderr
    error = json.loads(done.stdout)["error"]
    assert (error["kind"], error["exit_code"]) == ("NoFeasibleCandidate", 3)
    assert error["message"] in done.stderr
    assert error["closest_ms"] > error["budget_ms"] > 0


def test_a_dry_run_writes_nothing(tiny: Path, tmp_path: Path) -> None:
    arguments = search_arguments(tiny, tmp_path / "out", "--target", "jetson-orin", "--budget", "20ms", "--dry-run")
    done = nas(*arguments, "--json")
    document = json.loads(done.stdout)
    assert document["architectures"] == 2**8
    assert sum(document["items"].values()) == 60
    assert set(document["items"]) == {"calibration", "validation", "test"}
    assert document["judging_seconds"] >= 0
    assert document["memory_mib"]["states_here_at_most"] == 1024
    assert None not in document.values()
    message = nas(*arguments)
    assert "None" not in message.stdout
    assert "items              calibration " in message.stdout
    assert "to evaluate candidates here" in message.stdout
    assert not (tmp_path / "out").exists()


def test_every_verb_says_at_once_what_it_does(tmp_path: Path) -> None:
    """Before it loads what takes seconds to load; all of them in one process, where there is nothing to load."""
    code = (
        "import contextlib, shlex, sys; sys.modules['torch'] = None; from nas.cli import main\n"
        "for line in sys.stdin:\n"
        "    sys.argv[1:] = shlex.split(line)\n"
        "    with contextlib.suppress(SystemExit): main()\n"
        "    print(f'{sys.argv[1]} ends', file=sys.stderr)"
    )
    verbs = ["search --target host --budget 0.5x", "analyze", "evaluate ./nowhere", "export"]
    done = subprocess.run(
        [sys.executable, "-c", code], input="\n".join(verbs), capture_output=True, text=True, timeout=120, check=False,
        cwd=tmp_path,
    )  # fmt: skip
    left = done.stderr
    for verb in (each.split()[0] for each in verbs):
        assert left.startswith(f"{verb}: loading the libraries\n"), left[:300]
        left = left.partition(f"{verb} ends\n")[2]


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_stopping_prints_the_resume_command_and_resuming_finishes(number: int, tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = search_arguments(tiny, out, "--target", "jetson-orin", "--budget", "0.5x", "--trials", "5000", "--json")
    process = subprocess.Popen([*NAS, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    for _ in range(1800):
        time.sleep(0.1)
        if (out / "study.db").exists() and finished(out) >= 3:
            break
    process.send_signal(number)
    log, _ = process.communicate(timeout=180)
    assert process.returncode == 130, log
    person, program = log.splitlines()[-2:]
    assert person == f"nas: interrupted; continue with: nas search --resume {out}"
    error = json.loads(program)["error"]
    assert (error["exit_code"], error["resume_command"]) == (130, f"nas search --resume {out}")
    before = finished(out)
    assert before >= 3
    request = json.loads((out / "request.json").read_text())
    (out / "request.json").write_text(json.dumps({**request, "trials": before + 4}))
    done = nas("search", "--resume", str(out), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["search"]["trials"] == before + 4


def test_an_unreachable_tracker_does_not_stop_a_search(tiny: Path, tmp_path: Path) -> None:
    arguments = search_arguments(tiny, tmp_path / "out", "--target", "jetson-orin", "--budget", "0.7x", "--trials", "6")
    environment = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    done = nas(*arguments, "--tracking-uri", "http://127.0.0.1:9", "--json", env=environment)
    assert done.returncode == 0
    assert "not logged to MLflow" in json.loads(done.stdout)["mlflow"]["problem"]
    assert "not logged to MLflow" in done.stderr


def test_two_processes_never_search_in_one_folder(tmp_path: Path) -> None:
    with lock_exclusively(tmp_path):
        code = (
            "import sys; from pathlib import Path; from nas.storage.result_folder import lock_exclusively\n"
            "with lock_exclusively(Path(sys.argv[1])): print('in')"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False, timeout=60
        )
        assert "another process searches there" in done.stderr
        assert not done.stdout
    with lock_exclusively(tmp_path):  # once it has ended, the next may
        pass

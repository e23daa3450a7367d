"""The runner of a kit in real processes: whole, killed, resumed, refused."""

import ast
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from chains import INPUTS, chain

import latency_models.runner
from latency_models.measurement import Measurement
from latency_models.profile import Profile
from latency_models.run_plan import PORTABLE, measure_files, write_folder
from latency_models.runner.failure import MeasuringFailed
from latency_models.runner.plan import Plan
from latency_models.runner.process import run_tied
from latency_models.runtime_ort import read_environment
from latency_models.shape import ModelShape
from latency_models.workload import Workload
from search_spaces import Architecture
from search_spaces.errors import MeasurementError
from search_spaces.kinds import Kind
from search_spaces.unit import Unit

HERE = Workload.parse("forward:batch=1,seq=64")
DEPTH = 4
SHAPE = ModelShape(DEPTH, 192, 4, 4, 48, 192, False, 0, False, False, 0, (None,) * DEPTH)
WHOLE = Architecture.parent(DEPTH)
CHOSEN = [WHOLE, *(WHOLE.drop(Unit(layer, Kind.ATTENTION)) for layer in range(DEPTH))]
ALONE = 3 << 30  # bytes of weights: the sentinel and one other are measured side by side, four groups


def kit(folder: Path, seconds: float = 0.2, weight_bytes: int = 1, **changes: object) -> Path:
    """A kit of five chains; the parent has the most work."""
    for position, architecture in enumerate(CHOSEN):
        chain(folder / f"models/{architecture.digest}.onnx", 2 if position else 16)
    candidates = [
        {"name": a.digest, "file": f"models/{a.digest}.onnx", "weight_bytes": weight_bytes,
         "architecture": a.to_json()} for a in CHOSEN
    ]  # fmt: skip
    plan = {
        "target": "some-board", "precision": "fp32", "model": "abc", "shape": SHAPE.to_json(), "workload": str(HERE),
        "sentinel": WHOLE.digest, "seconds": seconds, "sittings": 2, "threads": 1, "least_rounds": 6,
        "candidates": candidates,
    }  # fmt: skip
    write_folder(folder, plan | changes, INPUTS)
    return folder


def run(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "run.py", "--provider", "cpu", *options]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


def groups(folder: Path, session: int) -> list[dict]:
    return json.loads((folder / f"session-{session}.json").read_text())["groups"]


def edit(path: Path, change: Callable[[dict], object]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def wait_for(what: Callable[[], object], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "never happened"
        time.sleep(0.02)


def alive(word: str) -> list[int]:
    """Processes that have a word in their command line."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if word in (entry / "cmdline").read_text() and "State:\tZ" not in (entry / "status").read_text():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    folder = kit(tmp_path_factory.mktemp("kit"))
    return folder, run(folder, "--json")


def test_the_profile_it_writes_is_one_of_ours(measured) -> None:
    folder, done = measured
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    profile = Profile.load(folder / "profile.json")
    assert [record.architecture for record in profile.records] == CHOSEN
    assert (profile.target, profile.model, profile.shape, profile.workload) == ("some-board", "abc", SHAPE, HERE)
    assert profile.key == read_environment(1)
    assert len(profile.conditions) == 2
    parent, *others = (record.measurement for record in profile.records)
    assert parent.compute_ratio() == 1.0
    assert all(other.compute_ratio() < 0.6 for other in others)  # 2 of 16 products, and what every run costs
    assert all(len(other.sessions) == 2 and min(other.sessions) >= 3 for other in others)


def test_its_lines_tell_how_far_it_is(measured) -> None:
    lines = [json.loads(line) for line in measured[1].stdout.splitlines()]
    shares = [line["share"] for line in lines]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0.0, 1.0)
    assert lines[0]["message"].startswith("session 1 of 2, group 1 of 1: loading")


def test_every_session_is_a_process_that_a_person_can_run_too(tmp_path: Path) -> None:
    done = run(kit(tmp_path), "--session", "2")
    assert done.returncode == 0, done.stderr
    assert "100%  group 1 of 1: done" in done.stdout
    assert {path.name for path in tmp_path.glob("*.json")} == {"plan.json", "session-2.json"}


def test_after_kill_9_it_goes_on_where_it_was(tmp_path: Path) -> None:
    folder = kit(tmp_path, seconds=3.0, weight_bytes=ALONE)
    kept = folder / "session-1.json"
    command = [sys.executable, "run.py", "--provider", "cpu"]
    child = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
    wait_for(kept.exists)
    child.kill()
    child.wait()
    wait_for(lambda: not alive(str(folder)))  # the session does not outlive the runner
    before = groups(folder, 1)
    assert 1 <= len(before) < 4
    assert run(folder).returncode == 0
    assert groups(folder, 1)[: len(before)] == before
    profile = Profile.load(folder / "profile.json")
    assert [record.architecture for record in profile.records] == CHOSEN
    times = {path.name: path.stat().st_mtime_ns for path in folder.glob("session-*.json")}
    assert run(folder).returncode == 0  # all is there: nothing is measured
    assert {path.name: path.stat().st_mtime_ns for path in folder.glob("session-*.json")} == times


def test_a_session_that_is_not_planned_is_refused(tmp_path: Path) -> None:
    done = run(kit(tmp_path), "--session", "3")
    assert done.returncode == 1
    assert done.stderr == "error: session 3 is not planned; the sessions are 1 to 2\n"


def test_what_libraries_print_between_the_lines_does_no_harm(tmp_path: Path) -> None:
    message: list[dict] = []
    text = "print('[W] a library'); print('{\"share\": 1.0}'); print(5)"
    run_tied([sys.executable, "-c", text], tmp_path, tmp_path / "log", message.append)
    assert message == [{"share": 1.0}]
    with pytest.raises(MeasuringFailed, match="ended by signal 9 without a reason; what was measured is kept"):
        run_tied(["sh", "-c", "kill -9 $$"], tmp_path, tmp_path / "log", message.append)
    with pytest.raises(MeasuringFailed, match=r"^no room$"):
        run_tied(["sh", "-c", "echo noise >&2; echo error: no room >&2; echo more >&2; exit 1"], tmp_path,
                 tmp_path / "log", message.append)  # fmt: skip


def test_a_damaged_session_is_measured_again_and_the_others_are_not(tmp_path: Path) -> None:
    folder = kit(tmp_path)
    assert run(folder).returncode == 0
    first, second = ((folder / f"session-{number}.json") for number in (1, 2))
    whole = second.read_text()
    first.write_text(first.read_text()[:200])
    assert run(folder).returncode == 0
    assert len(groups(folder, 1)) == 1
    assert second.read_text() == whole


@pytest.mark.parametrize(
    ("name", "then"), [("power_mode", "MAXN"), ("device", "another"), ("runtime", "onnxruntime 1"), ("threads", "8")]
)
def test_what_was_measured_under_another_key_is_not_mixed(name: str, then: str, tmp_path: Path, measured) -> None:
    folder = kit(tmp_path)
    (folder / "session-1.json").write_text((measured[0] / "session-1.json").read_text())
    edit(folder / "session-1.json", lambda document: document["key"].update({name: then}))
    done = run(folder)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert f"session 1 was measured under another key: {name} was {then!r} and is" in done.stderr
    assert "set it back and run again" in done.stderr


def test_a_session_of_another_plan_is_not_overwritten(tmp_path: Path, measured) -> None:
    folder = kit(tmp_path, seconds=0.3)
    text = (measured[0] / "session-1.json").read_text()
    (folder / "session-1.json").write_text(text)
    done = run(folder)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "session-1.json belongs to another plan; move it away" in done.stderr
    assert (folder / "session-1.json").read_text() == text


def test_what_fails_mid_run_is_one_line_and_loses_nothing(tmp_path: Path) -> None:
    folder = kit(tmp_path, weight_bytes=ALONE)
    last = Plan.read(folder).group_candidates(1)[-1][-1].file
    whole = last.read_bytes()
    last.write_bytes(whole[:100])
    done = run(folder)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert done.stderr.startswith("error: ")
    assert f"{last.name} cannot be loaded by ONNX Runtime" in done.stderr
    before = groups(folder, 1)
    assert len(before) == 3
    last.write_bytes(whole)
    assert run(folder).returncode == 0
    assert groups(folder, 1)[:3] == before


@pytest.mark.parametrize("change", [
    lambda folder: (folder / "plan.json").unlink(),
    lambda folder: (folder / "plan.json").write_text("{"),
    lambda folder: edit(folder / "plan.json", lambda plan: plan.update(schema_version=9)),
    lambda folder: edit(folder / "plan.json", lambda plan: plan.update(sentinel="nobody")),
    lambda folder: edit(folder / "plan.json", lambda plan: plan.update(sittings=0)),
    lambda folder: (folder / f"models/{WHOLE.digest}.onnx").unlink(),
    lambda folder: (folder / "inputs.npz").write_bytes(b"PK"),
    lambda folder: (folder / "inputs.npz").write_bytes((folder / "inputs.npz").read_bytes()[:1000]),
])  # fmt: skip
def test_a_damaged_kit_is_one_line(change: Callable[[Path], object], tmp_path: Path) -> None:
    folder = kit(tmp_path)
    change(folder)
    done = run(folder)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done.stderr
    assert done.stderr.startswith("error: ")
    assert "unpack" in done.stderr


def test_files_are_measured_in_two_processes_and_only_the_answer_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"short": chain(tmp_path / "short.onnx", 4), "long": chain(tmp_path / "long.onnx", 48)}
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    shares: list[float] = []
    taken = measure_files(
        files, INPUTS, HERE, sentinel="long", seconds=0.2, threads=1, min_rounds=20, on_round=shares.append
    ).of
    assert isinstance(taken["short"], Measurement)
    assert taken["short"].compute_ratio() < 0.5 < taken["long"].compute_ratio() == 1.0
    assert len(taken["short"].sessions) == 2
    assert min(taken["short"].sessions) >= 10
    assert (shares, shares[-1]) == (sorted(shares), 1.0)
    for inputs in ({}, {"x": INPUTS["x"][:, :5]}):
        with pytest.raises(MeasurementError, match=r"^long cannot be run"):
            measure_files({"long": files["long"]}, inputs, HERE, sentinel="long", seconds=0.1)
    with pytest.raises(KeyError, match="sentinel"):
        measure_files(files, INPUTS, HERE, sentinel="other", seconds=0.1)
    assert not list((tmp_path / "scratch").iterdir())


INTERRUPTED = """
import signal, sys, tempfile
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background inherits that it is ignored
from pathlib import Path
import numpy as np
from latency_models.run_plan import measure_files
from latency_models.workload import Workload
tempfile.tempdir = sys.argv[1]
inputs = dict(np.load(sys.argv[3]))
measure_files({"a": Path(sys.argv[2])}, inputs, Workload.parse("forward"), sentinel="a", seconds=60.0,
              on_round=lambda share: print(share, flush=True))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_ending_the_one_who_asked_ends_all_processes(number: int, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", **INPUTS)
    (tmp_path / "scratch").mkdir()
    command = [sys.executable, "-c", INTERRUPTED, str(tmp_path / "scratch"),
               str(chain(tmp_path / "a.onnx", 16)), str(tmp_path / "in.npz")]  # fmt: skip
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ, text=True)
    for _ in range(4):
        child.stdout.readline()  # a session runs
    assert len(alive(str(tmp_path))) >= 2
    child.send_signal(number)
    child.communicate(timeout=120)  # prompt where nothing else runs
    wait_for(lambda: not alive(str(tmp_path)), seconds=20)
    if number == signal.SIGINT:
        assert child.returncode != 0
        assert not list((tmp_path / "scratch").iterdir())


def test_the_runner_needs_python_3_9_numpy_and_a_runtime_only() -> None:
    allowed = set(sys.stdlib_module_names) | {"numpy", "onnxruntime"}
    folder = Path(latency_models.runner.__file__).parent
    assert {"__init__.py", "main.py", "measure.py"} <= set(PORTABLE)
    for name in PORTABLE:
        for node in ast.walk(ast.parse((folder / name).read_text(), feature_version=(3, 9))):
            if isinstance(node, ast.ImportFrom):
                assert node.level == 1 or node.module.split(".")[0] in allowed, (name, node.module)
                assert node.level < 2
            elif isinstance(node, ast.Import):
                assert {alias.name.split(".")[0] for alias in node.names} <= allowed, name

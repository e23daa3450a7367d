"""The contract of what runs searches, which processes of this machine and a Ray cluster keep alike."""

import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from serving_kit import COMMAND, ENDLESS, QUICK, STUBBORN, WRONG, until

from nas.api.errors import Refusal
from nas.api.jobs import Job, Jobs, State, cut, read_last_words
from nas.api.local_jobs import LocalJobs
from nas.api.ray_jobs import RayJobs

HEAD = """
import sys
from ray.cluster_utils import Cluster
dashboard, agent = map(int, sys.argv[1:])
ports = {"dashboard_port": dashboard, "dashboard_agent_listen_port": agent}
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": True, **ports})
print(cluster.webui_url, flush=True)
sys.stdin.read()
cluster.shutdown()
"""


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


@pytest.fixture(scope="module")
def dashboard() -> Iterator[str]:
    """The address of a cluster of this test's own, which lets in those with its token only."""
    from ray._private.authentication_test_utils import reset_auth_token_state

    with pytest.MonkeyPatch.context() as patch:
        for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN_PATH"):
            patch.delenv(name, raising=False)
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", uuid.uuid4().hex)
        patch.setenv("RAY_API_SERVER_ADDRESS", "")  # so that it is as it was when the test has ended
        reset_auth_token_state()
        command = [sys.executable, "-c", HEAD, free_port(), free_port()]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as head:
            assert head.stdout is not None
            yield "http://" + head.stdout.readline().strip().removeprefix("http://")
            head.communicate(timeout=60)
    reset_auth_token_state()


@pytest.fixture(
    params=["local", pytest.param("ray", marks=pytest.mark.slow)],
)
def jobs(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Jobs]:
    made: Jobs
    if request.param == "local":
        made = LocalJobs(tmp_path / "jobs", COMMAND, running=2, grace_s=3.0)
    else:
        made = RayJobs(request.getfixturevalue("dashboard"), COMMAND, grace_s=3.0)
    yield made
    made.close()


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """Ids are never used twice, on a cluster neither."""
    return f"{request.node.name[:20].replace('[', '-').replace(']', '')}-{time.time_ns()}"


def arguments(out: Path, seed: int, budget: str = "20ms") -> list[str]:
    return ["search", "--json", f"--out={out}", f"--budget={budget}", f"--seed={seed}"]


def ended(jobs: Jobs, id: str, seconds: float = 60) -> Job:
    until(lambda: jobs.get(id).state.ended, seconds)
    return jobs.get(id)


def lines(jobs: Jobs, id: str, offset: int = 0) -> list[str]:
    found = []
    while (part := jobs.read_log(id, offset)).lines:
        found += [line for line, _ in part.lines]
        offset = part.offset
    return found


def test_a_job_runs_and_tells_what_it_wrote(jobs: Jobs, name: str, tmp_path: Path) -> None:
    jobs.check()
    jobs.submit(name, arguments(tmp_path / "out dir", QUICK, "it's 'quoted' $HOME"), {"nas.owner": "somebody"})
    job = ended(jobs, name)
    assert (job.state, job.exit_code, job.message) == (State.SUCCEEDED, 0, None)
    assert job.started is not None
    assert job.ended is not None
    assert abs(time.time() - job.ended) < 60
    assert job.started <= job.ended
    reported = lines(jobs, name)
    assert "searching for it's 'quoted' $HOME ä" in reported
    assert [line for line in reported if line.startswith("trial")] == ["trial 0", "trial 1", "trial 2"]
    assert (tmp_path / "out dir" / "result.json").exists()
    assert name in {known.id for known in jobs.list_all()}


def test_a_log_can_be_read_from_any_line_on(jobs: Jobs, name: str, tmp_path: Path) -> None:
    jobs.submit(name, arguments(tmp_path / "out", QUICK), {})
    ended(jobs, name)
    whole = jobs.read_log(name, 0)
    for position, (_, after) in enumerate(whole.lines):
        assert jobs.read_log(name, after).lines == whole.lines[position + 1 :]
    assert whole.offset == whole.lines[-1][1]
    assert jobs.read_log(name, whole.offset).lines == ()
    assert jobs.read_log(name, 10**12).lines == ()


def test_a_job_that_fails_says_how(jobs: Jobs, name: str, tmp_path: Path) -> None:
    jobs.submit(name, arguments(tmp_path / "out", WRONG), {})
    job = ended(jobs, name)
    assert (job.state, job.exit_code) == (State.FAILED, 2)
    assert job.message is not None
    assert "nothing like it" in job.message


@pytest.mark.parametrize("seed", [ENDLESS, STUBBORN])
def test_a_job_is_cancelled_even_if_it_does_not_listen(jobs: Jobs, name: str, seed: int, tmp_path: Path) -> None:
    jobs.submit(name, arguments(tmp_path / "out", seed), {})
    until(lambda: "still at it" in lines(jobs, name), 60)
    assert jobs.get(name).state is State.RUNNING
    jobs.cancel(name)
    assert ended(jobs, name).state is State.CANCELLED
    assert ("asked to stop" in lines(jobs, name)) == (seed == ENDLESS)
    jobs.cancel(name)  # once more does nothing
    assert jobs.get(name).state is State.CANCELLED


def test_what_is_not_known_is_not_known(jobs: Jobs, name: str) -> None:
    for ask in (jobs.get, jobs.cancel, lambda id: jobs.read_log(id, 0)):
        with pytest.raises(KeyError):
            ask(name)


def test_an_id_is_used_once(jobs: Jobs, name: str, tmp_path: Path) -> None:
    jobs.submit(name, arguments(tmp_path / "out", QUICK), {})
    with pytest.raises(Refusal):
        jobs.submit(name, arguments(tmp_path / "other", QUICK), {})
    ended(jobs, name)
    assert not (tmp_path / "other").exists()


# What only processes of this machine have: a queue, and a folder that outlives the server.


def local(folder: Path, **options: object) -> LocalJobs:
    return LocalJobs(folder / "jobs", COMMAND, **{"grace_s": 3.0, **options})  # type: ignore[arg-type]


def test_one_at_a_time_and_first_come_first_served(tmp_path: Path) -> None:
    jobs = local(tmp_path, running=1, queued=2)
    jobs.submit("a", arguments(tmp_path / "a", ENDLESS), {})
    jobs.submit("b", arguments(tmp_path / "b", QUICK), {})
    jobs.submit("c", arguments(tmp_path / "c", QUICK), {})
    assert [jobs.get(id).state for id in "abc"] == [State.RUNNING, State.QUEUED, State.QUEUED]
    with pytest.raises(Refusal, match="wait already") as refused:
        jobs.submit("d", arguments(tmp_path / "d", QUICK), {})
    assert (refused.value.status, refused.value.code) == (429, "queue_full")
    jobs.cancel("b")
    assert jobs.get("b").state is State.CANCELLED
    jobs.cancel("a")
    assert ended(jobs, "c").state is State.SUCCEEDED
    assert not (tmp_path / "b").exists()
    a, c = jobs.get("a"), jobs.get("c")
    assert a.ended is not None
    assert c.started is not None
    assert a.ended <= c.started


def test_closing_ends_what_runs_and_keeps_what_waits(tmp_path: Path) -> None:
    jobs = local(tmp_path, running=1)
    jobs.submit("runs", arguments(tmp_path / "runs", ENDLESS), {})
    jobs.submit("waits", arguments(tmp_path / "waits", QUICK), {})
    until(lambda: "still at it" in lines(jobs, "runs"))
    jobs.close()
    assert jobs.get("runs").state is State.INTERRUPTED
    again = local(tmp_path, running=1)
    assert again.get("runs").state is State.INTERRUPTED
    assert ended(again, "waits").state is State.SUCCEEDED


SERVER = """
import sys, time
from pathlib import Path
from nas.api.local_jobs import LocalJobs
jobs = LocalJobs(Path(sys.argv[1]) / "jobs", sys.argv[2:], running=2, grace_s=3.0)
for id, seed in (("runs", 1), ("done", 0), ("waits", 0)):
    jobs.submit(id, ["search", f"--out={sys.argv[1]}/{id}", "--budget=20ms", f"--seed={seed}"], {})
    time.sleep(0.5)
print("ready", flush=True)
time.sleep(60)
"""


def test_a_server_that_was_killed_is_followed_by_one_that_finds_every_job_again(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SERVER, str(tmp_path), *COMMAND]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        server.kill()
    jobs = local(tmp_path, running=2)
    assert jobs.get("done").state is State.SUCCEEDED
    assert jobs.get("runs").state is State.RUNNING  # its process goes on, and is watched over again
    before = len(lines(jobs, "runs"))
    until(lambda: len(lines(jobs, "runs")) > before)
    jobs.cancel("runs")
    job = ended(jobs, "runs")
    assert (job.state, job.exit_code) == (State.CANCELLED, 130)
    assert ended(jobs, "waits").state is State.SUCCEEDED


def test_a_process_that_was_killed_while_no_server_was_there_is_interrupted(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SERVER, str(tmp_path), *COMMAND]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as server:
        assert server.stdout is not None
        server.stdout.readline()
        server.kill()
    import json

    pid = json.loads((tmp_path / "jobs" / "runs" / "job.json").read_text())["pid"]
    os.killpg(pid, signal.SIGKILL)
    jobs = local(tmp_path)
    assert ended(jobs, "runs").state is State.INTERRUPTED


def test_a_number_that_another_process_got_is_not_ours(tmp_path: Path) -> None:
    import json

    folder = tmp_path / "jobs" / "old"
    folder.mkdir(parents=True)
    with subprocess.Popen(["sleep", "30"], start_new_session=True) as other:
        record = {
            "id": "old", "arguments": [], "metadata": {}, "submitted": 0.0, "state": "running", "started": 0.0,
            "ended": None, "exit_code": None, "message": None, "pid": other.pid, "born": "1", "cancelled": False,
        }  # fmt: skip
        (folder / "job.json").write_text(json.dumps(record))
        jobs = local(tmp_path)
        assert ended(jobs, "old").state is State.INTERRUPTED
        jobs.close()
        assert other.poll() is None
        other.kill()


def test_a_full_disk_refuses_a_search_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = local(tmp_path)

    def full(self: Path, text: str) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(Refusal, match="No space left"):
        jobs.submit("a", arguments(tmp_path / "a", QUICK), {})
    assert jobs.list_all() == ()


def test_lines_are_cut_at_their_ends_and_long_ones_in_pieces() -> None:
    part = cut("eins\nzwä\r\nrest".encode(), 7, ended=False)
    assert part.lines == (("eins", 12), ("zwä", 18))
    assert part.offset == 18
    assert cut(b"rest", 18, ended=True).lines == (("rest", 22),)
    long = cut(b"x" * 200_000, 0, ended=False)
    assert [len(line) for line, _ in long.lines] == [65536, 65536, 65536]
    assert long.offset == 3 * 65536
    assert cut(b"", 5, ended=True).lines == ()


@pytest.mark.parametrize(
    ("log", "words"),
    [
        ('begin\n{"schema_version":1,"error":{"message":"nothing met it"}}\n', "nothing met it"),
        ("begin\nKilled\n\n", "Killed"),
        ("{}\n", "{}"),
        ("", None),
    ],
)
def test_the_last_words_of_a_job(log: str, words: str | None) -> None:
    assert read_last_words(log) == words


def test_a_cluster_that_does_not_answer_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "")
    jobs = RayJobs("http://127.0.0.1:9")
    asks: tuple[Callable[[], object], ...] = (jobs.check, jobs.list_all, lambda: jobs.submit("a", [], {}))
    for ask in asks:
        with pytest.raises(Refusal, match="Ray cluster") as refused:
            ask()
        assert refused.value.status == 503


@pytest.mark.slow
def test_a_cluster_lets_nobody_in_without_its_token(dashboard: str) -> None:
    from ray._private.authentication_test_utils import reset_auth_token_state

    RayJobs(dashboard).check()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_TOKEN", "another")
        reset_auth_token_state()
        with pytest.raises(Refusal, match="does not do it"):
            RayJobs(dashboard).check()
    reset_auth_token_state()
    RayJobs(dashboard).check()

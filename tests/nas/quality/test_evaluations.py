"""Memories of evaluations: one contract for every kind, and searches, disks and deaths that they outlive."""

import errno
import json
import logging
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState, create_trial

from nas.quality.evaluations import Evaluations, FileEvaluations, Key, base, open_evaluations
from nas.quality.evaluations.stored import ENTRY, StoredEvaluations
from nas.quality.precision import Precision
from nas.quality.quality import Quality
from nas.storage.open_storage import open_storage
from search_spaces import Architecture, Kind, Unit
from search_spaces.architecture import make_stage_choice
from search_spaces.schedule import Stage

PARENT = Architecture.parent(4)
UNITS = [Unit(layer, kind) for layer in range(4) for kind in (Kind.ATTENTION, Kind.MLP)]
Open = Callable[[str], Evaluations]


def key(number: int, items: int = 4, precision: Precision = Precision.FP32) -> Key:
    """One of 256 architectures by the bits of its number."""
    return PARENT.drop(*(unit for bit, unit in enumerate(UNITS) if number >> bit & 1)), items, precision


def quality(loss: float, items: int = 4) -> Quality:
    return Quality("kl", loss, False, "validation", loss, {"perplexity": 1 + loss}, items, (loss,) * items)


@pytest.fixture(params=["file", "sqlite", "log", "postgres"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """Opens the same place again and again, as searches of several processes do."""
    if request.param == "file":
        return lambda content: FileEvaluations(tmp_path / "e.jsonl", content)
    urls = {"sqlite": f"sqlite:///{tmp_path}/study.db", "log": f"journal://{tmp_path}/study.log"}
    url = urls.get(request.param) or request.getfixturevalue("postgres").database()
    return lambda content: StoredEvaluations(open_storage(url), content)


def test_what_one_search_finds_another_knows_at_once_and_after(opened: Open) -> None:
    first, second = opened("a"), opened("a")
    assert key(1) not in second
    first.add(key(1), quality(0.5))
    first.add(key(1, 9), quality(0.25, 9))
    second.add(key(2), quality(0.125))
    for each in (first, second, opened("a")):
        assert key(1) in each and key(2) in each and key(3) not in each  # noqa: PT018
        assert (each[key(1)], each[key(1)].per_item) == (quality(0.5), (0.5,) * 4)
        assert each[key(1, 9)].per_item == (0.25,) * 9
        assert [each.find_fewer(key(1, items)) for items in (3, 4, 5, 9, 10)] == [0, 0, 4, 4, 9]
        assert each.find_fewer(key(1, 9, Precision.BF16)) == 0
        assert len(each) == 3


def test_contents_never_mix(opened: Open) -> None:
    """Two models that are searched at once, in one place."""
    first, second = opened("a"), opened("b")
    for number in range(3):
        first.add(key(number), quality(0.5))
        second.add(key(number), quality(0.25))
    for content, loss in (("a", 0.5), ("b", 0.25)):
        again = opened(content)
        assert len(again) == 3
        assert {again[key(number)].loss for number in range(3)} == {loss}


def test_token_schedules_that_meant_something_else_are_judged_anew(opened: Open, monkeypatch) -> None:
    with_tokens = (PARENT.drop(make_stage_choice(Stage(1, 500))), 4, Precision.FP32)
    earlier = opened("a")
    earlier.add(with_tokens, quality(0.5))
    earlier.add(key(1), quality(0.25))
    assert with_tokens in opened("a")
    monkeypatch.setattr(base, "TOKENS_REVISION", base.TOKENS_REVISION + 1)
    later = opened("a")
    assert key(1) in later
    assert with_tokens not in later
    later.add(with_tokens, quality(0.75))
    assert opened("a")[with_tokens].loss == 0.75


def test_what_is_damaged_is_passed_over_and_said(opened: Open, caplog) -> None:
    known = opened("a")
    known.add(key(1), quality(0.5))
    for damage in ({}, {"architecture": 3}, {"quality": None, "per_item": None}, {**entry(7), "asked": "many"}):
        insert(known, damage)
    known.add(key(2), quality(0.25))
    caplog.clear()
    again = opened("a")
    assert len(again) == 2
    assert key(2) in again
    assert "4 of the evaluations kept there do not match their digest" in caplog.text


def test_a_changed_figure_is_evaluated_again_and_replaced(opened: Open, caplog) -> None:
    """What made another candidate the winner: one digit of a loss, everything else in order."""
    known = opened("a")
    known.add(key(1), quality(0.5))
    insert(known, {**entry(3), "quality": {**quality(0.5).to_json(), "loss": 0.05}})
    insert(known, {**entry(4), "per_item": [0.5, 0.5, 0.5, 0.05]})
    insert(known, {("digesu" if name == "digest" else name): value for name, value in entry(5).items()})
    search = opened("a")
    assert not any(key(number) in search for number in (3, 4, 5))
    assert "3 of the evaluations" in caplog.text
    search.add(key(3), quality(0.5))
    caplog.clear()
    later = opened("a")
    assert later[key(3)] == quality(0.5)
    assert "3 of the evaluations" in caplog.text  # nothing is rewritten


def test_entries_of_versions_without_a_digest_are_read(opened: Open, caplog) -> None:
    known = opened("a")
    known.add(key(1), quality(0.5))
    insert(known, {name: value for name, value in entry(3).items() if name != "digest"})
    later = opened("a")
    assert (later[key(3)], later[key(3)].per_item) == (quality(0.5), (0.5,) * 4)
    assert not caplog.records


def test_no_flipped_bit_is_taken_for_a_value(tmp_path: Path, caplog) -> None:
    position = tmp_path / "e.jsonl"
    truth = {number: quality(0.1 * number) for number in (1, 2)}
    first = FileEvaluations(position, "a")
    for number, found in truth.items():
        first.add(key(number), found)
    whole = position.read_bytes()
    for bit in range(0, 8 * (len(whole) - 1), 7):  # every byte, every bit of a byte
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        position.write_bytes(flipped)
        caplog.clear()
        known = FileEvaluations(position, "a")
        read = {number for number in truth if key(number) in known}
        assert len(known) == len(read)
        assert all(known[key(number)] == truth[number] for number in read), bytes(flipped)
        assert read == set(truth) or caplog.records, bytes(flipped)


def entry(number: int) -> dict[str, object]:
    return base.encode_entry(key(number), quality(0.5))


def insert(known: Evaluations, damage: dict[str, object]) -> None:
    if isinstance(known, FileEvaluations):
        with known._path.open("a") as file:
            file.write(json.dumps(damage) + "\n")
    else:
        trial = create_trial(state=TrialState.COMPLETE, value=0.0, user_attrs={ENTRY: damage})
        known._study.add_trial(trial)


def test_a_loss_that_is_no_number_is_kept(opened: Open) -> None:
    opened("a").add(key(1), quality(float("nan")))
    assert key(1) in opened("a")


ACTIONS = st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["add", "in"]), st.integers(0, 5)), max_size=30)


@pytest.mark.parametrize("kind", ["file", "stored"])
@settings(deadline=None, max_examples=60)
@given(actions=ACTIONS)
def test_any_order_of_writers_and_readers_gives_what_a_dictionary_gives(kind: str, actions) -> None:
    """Three searches at once; the first to keep a key decides for all, and nobody's answer ever changes."""
    with tempfile.TemporaryDirectory() as folder:
        storage = optuna.storages.InMemoryStorage()

        def opened() -> Evaluations:
            if kind == "stored":
                return StoredEvaluations(storage, "a")
            return FileEvaluations(Path(folder) / "deeper" / "e.jsonl", "a")

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        searches, truth = [opened() for _ in range(3)], {}
        for time, (who, what, number) in enumerate(actions):
            if what == "add":
                searches[who].add(key(number), quality(float(time)))
                truth.setdefault(key(number), float(time))
            else:
                assert (key(number) in searches[who]) == (key(number) in truth)
        for each in (*searches, opened()):
            assert {known: each[known].loss for known in map(key, range(6)) if known in each} == truth
            assert len(each) == len(truth)


WRITER = """
import sys
from pathlib import Path
from test_evaluations import *
place, first, last = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
known = open_evaluations(Path(place), "a", sys.argv[4] or None)
print("ready", flush=True)
sys.stdin.readline()
for number in range(first, last):
    known.add(key(number % 256), quality(float(number), 400))
    print(number, flush=True)
"""


def writer(position: Path, first: int, last: int, storage: str = "") -> "subprocess.Popen[str]":
    """Another process that waits for a line and then adds evaluations, and says which it has added."""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(position), str(first), str(last), storage],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("kind", ["file", "log"])
def test_processes_that_write_at_once_lose_nothing_and_write_nothing_twice(kind: str, tmp_path: Path) -> None:
    position, storage = tmp_path / "e.jsonl", f"journal://{tmp_path}/study.log" if kind == "log" else ""
    processes = [writer(position, first, first + 40, storage) for first in (0, 20)]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [process.wait(60) for process in processes] == [0, 0]
    known = open_evaluations(position, "a", storage or None)
    assert len(known) == 60
    assert all(key(number) in known for number in range(60))
    if kind == "file":
        lines = position.read_text().splitlines()
        assert len(lines) == 61
        assert all(json.loads(line) for line in lines)


def test_a_writer_that_is_killed_loses_nothing_that_it_had_finished(tmp_path: Path) -> None:
    position = tmp_path / "e.jsonl"
    process = writer(position, 0, 10_000)
    process.stdin.write("go\n")
    process.stdin.flush()
    message = [int(process.stdout.readline()) for _ in range(20)]
    process.send_signal(signal.SIGKILL)
    message += [int(line) for line in process.stdout if line.endswith("\n")]
    process.wait()
    known = FileEvaluations(position, "a")
    assert all(key(number) in known for number in message[:256])
    known.add(key(255, 9), quality(0.5, 9))
    assert key(255, 9) in FileEvaluations(position, "a")


@settings(deadline=None, max_examples=60)
@given(share=st.floats(0, 1))
def test_a_file_that_was_cut_off_anywhere_costs_what_was_cut_off(share: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        position = Path(folder) / "e.jsonl"
        first = FileEvaluations(position, "a")
        for number in range(3):
            first.add(key(number), quality(0.5))
        whole = position.read_bytes()
        left = whole[: round(share * len(whole))]
        position.write_bytes(left)
        second = FileEvaluations(position, "a")
        assert len(second) == max(0, left.count(b"\n") - 1)
        second.add(key(9), quality(0.25))
        assert len(FileEvaluations(position, "a")) == len(second) == max(0, left.count(b"\n") - 1) + 1
        assert all(json.loads(line) for line in position.read_text().splitlines())


def test_a_search_goes_on_when_its_file_is_removed(tmp_path: Path) -> None:
    position = tmp_path / "e.jsonl"
    known = FileEvaluations(position, "a")
    known.add(key(1), quality(0.5))
    position.unlink()
    known.add(key(2), quality(0.25))
    assert key(1) in known
    assert len(FileEvaluations(position, "a")) == 1


def test_a_full_disk_is_said_once_and_what_it_took_no_room_for_is_written_later(tmp_path: Path, caplog) -> None:
    position, soft_hard = tmp_path / "e.jsonl", resource.getrlimit(resource.RLIMIT_FSIZE)
    known = FileEvaluations(position, "a")
    known.add(key(0), quality(0.5))
    before = position.read_bytes()
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 100, soft_hard[1]))  # a line has more than 100 bytes
    try:
        for number in range(1, 4):
            known.add(key(number), quality(0.25))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, soft_hard)
    assert position.read_bytes() == before
    assert len(known) == 4
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "evaluations stay in memory until it can" in caplog.text
    known.add(key(4), quality(0.125))
    again = FileEvaluations(position, "a")
    assert len(again) == 5
    assert position.read_bytes().startswith(before)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EIO])
def test_whatever_a_disk_refuses_costs_no_search(error: int, tmp_path: Path, monkeypatch, caplog) -> None:
    def refuse(file: int, data: bytes) -> int:
        raise OSError(error, os.strerror(error))

    known, real = FileEvaluations(tmp_path / "e.jsonl", "a"), os.write
    monkeypatch.setattr(os, "write", refuse)
    known.add(key(1), quality(0.5))
    monkeypatch.setattr(os, "write", real)
    assert known[key(1)].loss == 0.5
    assert os.strerror(error) in caplog.text
    known.add(key(2), quality(0.25))
    assert len(FileEvaluations(tmp_path / "e.jsonl", "a")) == 2


def test_a_cache_that_cannot_be_made_costs_no_search(tmp_path: Path, caplog) -> None:
    (tmp_path / "file").write_text("in the way")
    known = FileEvaluations(tmp_path / "file" / "e.jsonl", "a")
    for number in range(3):
        known.add(key(number), quality(0.5))
    assert len(known) == 3
    assert len(caplog.records) == 1


def test_evaluations_are_kept_where_machines_share_them(tmp_path: Path) -> None:
    position, log = tmp_path / "e.jsonl", f"journal://{tmp_path}/study.log"
    assert isinstance(open_evaluations(position, "a", None), FileEvaluations)
    assert isinstance(open_evaluations(position, "a", f"sqlite:///{tmp_path}/study.db"), FileEvaluations)
    open_evaluations(position, "a", log).add(key(1), quality(0.5))
    assert key(1) in open_evaluations(tmp_path / "elsewhere", "a", log)
    assert not position.exists()

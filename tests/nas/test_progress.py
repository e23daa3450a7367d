"""What a person is told while they wait: each phase by its name when it begins, and no guess of the time left."""

import re
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from nas.certification.run import CertificationRun
from nas.cli import console
from nas.cli.console import LineProgress, estimate_time_left
from nas.progress import Phases, Silent, Timed, track_items

PAGE = Path(__file__).parents[2] / "nas" / "api" / "static" / "page.js"


def test_a_phase_is_announced_when_it_begins_and_told_when_nothing_ends(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "_SECONDS_OF_SILENCE", 0.05)
    with LineProgress().open_stage("exporting the parent"):
        assert capsys.readouterr().err == "exporting the parent: begins\n"
        time.sleep(0.3)
        assert re.match(r"exporting the parent: still running, \d+ s so far\n", capsys.readouterr().err)
    assert re.fullmatch(r"(.*still running.*\n)*exporting the parent: done in 0\.\d s\n", capsys.readouterr().err)
    time.sleep(0.2)
    assert capsys.readouterr().err == ""  # nobody speaks of what has ended


def test_a_phase_that_begins_again_is_a_stage_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    with Phases(LineProgress()) as phases:
        for done in (0, 1, 2, 0, 1):
            phases.report("evaluating", done, 3)
    assert re.fullmatch(r"(evaluating: begins\nevaluating: done in 0\.\d s\n){2}", capsys.readouterr().err)


def test_a_phase_that_fails_is_not_said_to_be_done(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="broken"), LineProgress().open_stage("exporting"):
        raise ValueError("broken")
    assert capsys.readouterr().err == "exporting: begins\n"


@pytest.mark.parametrize(
    ("elapsed", "done", "total", "message"),
    [
        (60.0, 5, 10, "about 60 s left"),
        (300.0, 9, 10, "about 33 s left"),
        (3000.0, 9, 10, "about 6 min left"),  # the last of ten takes long: what is left grows
        (60.0, 0, 10, ""),
        (1.0, 1, 48, ""),  # too few to know the pace
        (60.0, 10, 10, ""),
        (60.0, 5, None, ""),
    ],
)
def test_the_time_left_follows_the_pace_or_is_not_said(
    elapsed: float, done: float, total: float | None, message: str
) -> None:
    assert estimate_time_left(elapsed, done, total) == message


def test_the_service_s_page_reads_the_lines_of_the_log(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (pattern,) = re.findall(r"const PHASE = /(.*)/;", PAGE.read_text())
    monkeypatch.setattr(console, "_SECONDS_BETWEEN_LINES", 0.0)
    with LineProgress().open_stage("searching: evaluating candidates", total=4) as stage:
        time.sleep(0.01)
        stage.advance(2, "best loss so far 0.5000, p90 19.78 ms")
    first, second, last = (re.fullmatch(pattern, line) for line in capsys.readouterr().err.splitlines())
    assert first is not None
    assert second is not None
    assert last is not None
    assert {each[1] for each in (first, second, last)} == {"searching: evaluating candidates"}
    assert first[2] == "begins"
    assert second[5] == "50"
    assert second[6] == "about 0 s left"
    assert second[7] == "best loss so far 0.5000, p90 19.78 ms"
    assert last[3].endswith(" s")
    assert re.fullmatch(pattern, "exporting the parent: still running, 40 s so far")[4] == "40 s"
    assert re.fullmatch(pattern, "model: budget 20.00 ms") is None


def test_every_second_is_of_one_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is in another takes its seconds from it."""
    clock = iter([0.0, 2.0, 5.0, 6.0, 10.0, 11.0, 11.0, 12.0])
    monkeypatch.setattr("nas.progress.time", SimpleNamespace(monotonic=lambda: next(clock)))
    timed = Timed(Silent())
    with timed.open_stage("measuring"), timed.open_stage("exporting"):  # 0 to 6, and in it 2 to 5
        pass
    with timed.open_stage("measuring"):  # 10 to 11
        pass
    assert list(track_items(timed, "reading", [1, 2, 3])) == [1, 2, 3]
    assert timed.phases == {"measuring": 4.0, "exporting": 3.0, "reading": 1.0}


class Noted:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def show_message(self, text: str) -> None:
        self.said.append(text)

    def open_stage(self, title: str, total: float | None = None) -> "Noted":
        self.said.append(f"{title} of {total:g}")
        return self

    def __enter__(self) -> "Noted":
        return self

    def __exit__(self, *_: object) -> None:
        self.said.append("end")

    def advance(self, amount: float = 1, note: str = "") -> None:
        self.said.append(f"+{amount:g} {note}".strip())


def test_work_that_names_its_phases_is_shown_as_one_after_another() -> None:
    noted = Noted()
    with Phases(noted) as phases:
        phases.report("scoring", 1, 3)
        phases.report("scoring", 3, 3)
        phases.report("trying", 4, 48, "best 0.5")
    assert noted.said == ["scoring of 3", "+1", "+2", "end", "trying of 48", "+4 best 0.5", "end"]


def test_a_search_says_what_it_does_before_its_trials(tmp_path: Path) -> None:
    from test_search import Landscape, problem

    noted = Noted()
    certification = CertificationRun(None, noted)
    certification.search(problem(tmp_path, Landscape(0), 9.0, trials=20))
    begun = [message.partition(" of ")[0] for message in noted.said if message.startswith("searching: ")]
    assert begun == [
        "searching: scoring each part alone", "searching: dropping one part after another",
        "searching: evaluating candidates", "searching: evaluating the best on all items",
    ]  # fmt: skip


def test_what_is_judged_to_choose_what_is_measured_is_a_stage_where_it_is_not_known_yet(tmp_path: Path) -> None:
    from test_search import Landscape, problem

    noted, asked = Noted(), problem(tmp_path, Landscape(0), 9.0, trials=20)
    outcome = CertificationRun(None, Silent()).search(asked)
    open_to = [candidate for candidate in outcome.candidates if not candidate.full]
    judged = CertificationRun(None, noted).judge(asked, [*outcome.ranked, *open_to])
    assert [c.architecture for c in judged] == [c.architecture for c in [*outcome.ranked, *open_to]]
    assert all(candidate.full for candidate in judged)
    stage = "choosing: evaluating the best on all items"
    assert noted.said[0].partition(" of ")[0] == stage
    assert CertificationRun(None, noted).judge(asked, outcome.ranked) == list(outcome.ranked)
    assert sum(message.startswith(stage) for message in noted.said) == 1

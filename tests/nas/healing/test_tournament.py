"""Halving of finalists whose curves are known: who goes on, how long, and that one that was killed ends alike."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from nas.healing.rungs import list_rung_sizes
from nas.healing.state import TrainingState
from nas.healing.state_files import StateFiles
from nas.healing.tournament import Leg, Standing, Tournament
from nas.healing.tournament_record import TournamentRecord
from nas.progress import Silent
from search_spaces import Architecture
from search_spaces.errors import UsageError

ARCHITECTURES = tuple(Architecture.from_words(words) for words in ("attn mlp", "mlp attn", "mlp mlp", "attn attn"))
CURVES = (lambda s: 1.0 - s / 500, lambda s: 1.2 - s / 60, lambda s: 1.1 - s / 100, lambda s: 0.9)


@dataclass
class Known:
    """A trainer whose finalists' losses are functions of their steps; a step takes `step_s`."""

    files: StateFiles
    step_s: float = 1.0
    killed_at: float = math.inf  # legs
    legs: list[tuple[int, int, int]] = field(default_factory=list)  # the finalist, its steps before and after

    def restore(self, member: int) -> TrainingState:
        return self.files.restore(member)

    def keep(self, member: int, state: TrainingState) -> None:
        self.files.keep(member, state)

    def measure_step(self) -> float:
        return self.step_s

    def run(self, legs: Sequence[Leg]) -> list[TrainingState]:
        return [self._run(leg) for leg in legs]

    def _run(self, leg: Leg) -> TrainingState:
        if len(self.legs) >= self.killed_at:
            raise KeyboardInterrupt
        state, before = leg.state, leg.state.done
        while state.done < leg.until and state.seconds < leg.limit_s:
            state.done, state.seconds = state.done + 1, state.seconds + self.step_s
        loss = CURVES[leg.member](state.done)
        if state.done > before:
            state.history.append((state.done, loss))
        if loss < state.best_loss:
            state.best_loss, state.best_step = loss, state.done
        self.legs.append((leg.member, before, state.done))
        self.keep(leg.member, state)
        return state


def begin(folder: Path, seconds: float = 100.0, finalists: int = 4, **trainer: float) -> tuple[Tournament, Known]:
    files = StateFiles(folder, {"who": 1}, ARCHITECTURES[:finalists])
    known = Known(files, **trainer)
    record = TournamentRecord.load(folder) or TournamentRecord({"who": 1}, ARCHITECTURES[:finalists])
    return Tournament(record, folder, seconds, known, Silent()), known


def summary(standing: Standing) -> list[object]:
    return [standing.rungs, [(s.done, s.seconds, s.best_loss, s.history) for s in standing.states]]


def test_the_better_half_goes_on_where_it_was_and_the_last_has_the_rest(tmp_path: Path) -> None:
    """15 s for each early rung: 3 steps of four, 7 of two; then the last. By then the second overtakes the first."""
    tournament, known = begin(tmp_path)
    standing = tournament.run()
    assert known.legs == [(0, 0, 3), (1, 0, 3), (2, 0, 3), (3, 0, 3), (0, 3, 10), (3, 3, 10), (3, 10, 81)]
    assert [rung.members for rung in standing.rungs] == [(0, 1, 2, 3), (0, 3), (3,)]
    assert standing.rungs[0].losses == {m: pytest.approx(CURVES[m](3)) for m in range(4)}
    assert sum(state.seconds for state in standing.states) <= 100
    assert standing.order[0] == 3
    assert all(not state.weights and not state.optimiser for state in standing.states)


def test_one_that_was_left_behind_wins_where_the_last_does_not_get_better_than_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    curves = (lambda s: 1.0, lambda s: 0.5 if s < 5 else 2.0, lambda s: 0.6, lambda s: 0.9)
    monkeypatch.setattr(f"{__name__}.CURVES", curves)
    standing = begin(tmp_path)[0].run()
    assert standing.rungs[1].members == (1, 2)
    assert standing.rungs[2].members == (2,)
    assert standing.order == (1, 2, 3, 0)  # its weights of the first rung are the best of all


@pytest.mark.parametrize("killed_at", range(7))
def test_a_tournament_that_was_killed_ends_as_one_that_was_not(killed_at: int, tmp_path: Path) -> None:
    straight = begin(tmp_path / "straight")[0].run()
    tournament, known = begin(tmp_path / "killed", killed_at=killed_at)
    with pytest.raises(KeyboardInterrupt):
        tournament.run()
    again, more = begin(tmp_path / "killed")
    assert summary(again.run()) == summary(straight)
    assert len(known.legs) + len([leg for leg in more.legs if leg[1] < leg[2]]) == 7
    finished, none = begin(tmp_path / "killed")
    assert summary(finished.run()) == summary(straight)
    assert not none.legs


@pytest.mark.parametrize("step_s", [0.3, 1.7, 40.0])
def test_all_of_it_ends_within_the_time_by_one_step_of_each(step_s: float, tmp_path: Path) -> None:
    tournament, known = begin(tmp_path, step_s=step_s)
    standing = tournament.run()
    assert sum(state.seconds for state in standing.states) <= 100 + step_s * sum(list_rung_sizes(4))
    assert len(known.legs) == 7


def test_a_machine_that_becomes_slower_is_given_fewer_steps(tmp_path: Path) -> None:
    tournament, known = begin(tmp_path)
    known.measure_step = lambda: 0.1  # type: ignore[method-assign]
    standing = tournament.run()
    assert known.legs[0] == (
        0,
        0,
        13,
    )  # of 36 planned: half of the time, so 12.5 s for each, is all that a rung may take
    assert sum(state.seconds for state in standing.states) <= 101


@pytest.mark.parametrize("finalists", [1, 2, 3])
def test_fewer_finalists_have_fewer_rungs(finalists: int, tmp_path: Path) -> None:
    standing = begin(tmp_path, finalists=finalists)[0].run()
    assert tuple(len(rung.members) for rung in standing.rungs) == list_rung_sizes(finalists)


def test_states_of_another_training_are_not_continued(tmp_path: Path) -> None:
    files = StateFiles(tmp_path, {"who": 1}, ARCHITECTURES)
    files.keep(0, TrainingState(5, done=3))
    assert files.restore(0).done == 3
    assert StateFiles(tmp_path, {"who": 2}, ARCHITECTURES).restore(0).done == 0
    assert not files.get_path(0).exists()
    assert files.restore(1).done == 0


def test_a_damaged_record_is_refused(tmp_path: Path) -> None:
    assert TournamentRecord.load(tmp_path) is None
    (tmp_path / "tournament.json").write_text("{}")
    with pytest.raises(UsageError, match=r"tournament\.json cannot be read .*; delete"):
        TournamentRecord.load(tmp_path)

"""Healing several finalists of a search by successive halving on validation loss, in a way that can be killed."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from nas.healing.rungs import MOST, Rung, list_rung_sizes, plan_steps
from nas.healing.state import TrainingState
from nas.healing.tournament_record import TournamentRecord
from nas.progress import Progress


@dataclass(frozen=True)
class Leg:
    """A stretch of one finalist's training.

    Attributes:
        member: the finalist's number, from 0.
        state: where it goes on, or begins; changed while it is trained.
        until: how many steps it has made at the end.
        limit_s: seconds of training, those before included, after which it ends in any case.
    """

    member: int
    state: TrainingState
    until: int
    limit_s: float


class Trainer(Protocol):
    """Trains finalists, here or elsewhere, and keeps their states."""

    def restore(self, member: int) -> TrainingState:
        """A finalist's state as it was kept last; else one that begins."""

    def keep(self, member: int, state: TrainingState) -> None:
        """Keep a state."""

    def measure_step(self) -> float:
        """Seconds that a step takes, without evaluations."""

    def run(self, legs: Sequence[Leg]) -> list[TrainingState]:
        """Train each, and keep its state."""


@dataclass(frozen=True)
class Standing:
    """A finished tournament.

    Attributes:
        rungs: with their losses.
        states: of the finalists, each with the weights of its lowest loss.
    """

    rungs: tuple[Rung, ...]
    states: tuple[TrainingState, ...]

    @property
    def order(self) -> tuple[int, ...]:
        """The finalists by number, the lowest loss first."""
        return tuple(sorted(range(len(self.states)), key=lambda member: self.states[member].best_loss))


@dataclass
class Tournament:
    """Finalists that are trained, fewer and fewer of them, within one time.

    Attributes:
        record: of the tournament as far as it is.
        folder: of the record.
        seconds: of training, of all finalists together.
        trainer: of the record's finalists.
    """

    record: TournamentRecord
    folder: Path
    seconds: float
    trainer: Trainer
    progress: Progress
    _states: list[TrainingState] = field(default_factory=list, init=False)

    def run(self) -> Standing:
        """Train until one finalist is left and its time is up; what an earlier process did is not done again."""
        finalists = len(self.record.architectures)
        self._states = [self.trainer.restore(member) for member in range(finalists)]
        sizes = list_rung_sizes(finalists)
        for number in range(len(sizes)):
            if number == len(self.record.rungs):
                self._note(number, self._plan(sizes, number))
            if self.record.rungs[number].losses is None:
                self._note(number, self._train(self.record.rungs[number]))
        for member, state in enumerate(self._states):
            state.weights, state.optimiser = {}, {}  # what it would take to go on
            self.trainer.keep(member, state)
        return Standing(self.record.rungs, tuple(self._states))

    def _note(self, number: int, rung: Rung) -> None:
        self.record = replace(self.record, rungs=(*self.record.rungs[:number], rung))
        self.record.save(self.folder)

    def _plan(self, sizes: tuple[int, ...], number: int) -> Rung:
        """The next rung, by the pace of those before it."""
        used, done = sum(state.seconds for state in self._states), sum(state.done for state in self._states)
        members, before = tuple(range(sizes[0])), 0
        if number > 0:
            last = self.record.rungs[-1]
            members, before = last.list_best(sizes[number]), last.until
        with self.progress.open_stage("timing a step"):
            step_s = used / done if done else self.trainer.measure_step()
        more, planned = plan_steps(sizes, number, self.seconds, self.seconds - used, step_s)
        share = 1.0 if number == len(sizes) - 1 else MOST
        limit_s = share * (self.seconds - used) / len(members)
        limits = {member: self._states[member].seconds + limit_s for member in members}
        return Rung(before + more, before + planned, limits)

    def _train(self, rung: Rung) -> Rung:
        """The rung with the losses at its end."""
        legs = []
        for member, limit_s in sorted(rung.limits.items()):
            self._states[member].steps = rung.planned
            legs.append(Leg(member, self._states[member], rung.until, limit_s))
        names = ", ".join(str(member + 1) for member in rung.members)
        self.progress.show_message(f"healing finalists {names} until step {rung.until}")
        for leg, state in zip(legs, self.trainer.run(legs), strict=True):
            self._states[leg.member] = state
        losses = {member: self._states[member].history[-1][1] for member in rung.members}
        said = "; ".join(f"{member + 1}: {losses[member]:.4f}" for member in rung.members)
        self.progress.show_message(f"validation loss of finalists after step {rung.until}: {said}")
        return replace(rung, losses=losses)

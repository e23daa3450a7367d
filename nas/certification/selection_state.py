"""How far a choice by measurement has come: what was measured, and what of it is inside the budget."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from latency_models.measurement import Measurement
from latency_models.profile import Profile, Record
from nas.certification.latency_budget import LatencyBudget
from nas.results.certificate import Certificate
from nas.search import Candidate, Problem, SearchOutcome
from nas.search.halving import find_statistically_tied
from search_spaces.architecture import Architecture

MEASURED = 4  # candidates measured together in a round
MATTERS = 0.01  # of the best measured loss: what a candidate has to be better by to be worth measuring,
MIN_GAIN = 0.001  # and in the loss's own units (nats of divergence, mostly), where the best loses next to nothing
NARROW = 0.03  # half of a candidate's interval over its middle: one across the limit is measured again until then
Judge = Callable[[Problem, Iterable[Candidate]], list[Candidate]]  # on all items
_TAIL = 90  # the percentile that a measurement must have samples for to be one, where a fraction is asked for


@dataclass(frozen=True)
class SelectionState:
    """How far the choice has come.

    Attributes:
        problem: with the latency model as corrected so far; its budget is what the search aims at.
        budget: what it keeps to.
        relative: a fraction of the parent was asked for, so that ratios are judged.
        set_aside: certificates that were not given.
        beside: what was measured since the profile, all of it joined.
        turns: how often candidates were measured or a certificate was judged, on a quiet machine.
        looks: how often samples were judged for a certificate.
        profiles: how often the target was profiled again.
        slow: whether a winner was above the budget by what the machine was slower than when it was profiled.
        slower: candidates that measured slower than the parent that they lack parts of; believed the second time.
    """

    problem: Problem
    outcome: SearchOutcome
    budget: LatencyBudget
    relative: bool
    set_aside: tuple[Certificate, ...] = ()
    beside: Mapping[Architecture, Measurement] = field(default_factory=dict)
    turns: int = 0
    looks: int = 0
    profiles: int = 0
    slow: bool = False
    slower: frozenset[Architecture] = frozenset()

    def compute_bounds_ms(self, architecture: Architecture) -> tuple[float, float] | None:
        """What a measured architecture takes at least and at most (99 % each), in the parent's time as profiled.

        Of a fraction the ratio is bounded, of milliseconds the percentile. None where it was not measured, or too
        briefly for a bound.
        """
        model, percentile = self.problem.latency, self.problem.percentile
        known = get_profile(self.problem).find_measurement(architecture)
        if known is None or known.compute_upper_bound(min(percentile, _TAIL) if self.relative else percentile) is None:
            return None
        if self.relative:
            bounds, unit = known.compute_ratio_bounds(), model.predict(self.problem.space.parent, percentile).ms
        else:
            bounds = known.compute_lower_bound(percentile), known.compute_upper_bound(percentile)
            unit = model.predict(architecture, 50).ms / known.p50
        low, high = bounds
        return None if low is None or high is None else (low * unit, high * unit)

    def is_inside(self, architecture: Architecture) -> bool:
        """Whether it was measured inside what is accepted, keeps the limits and was not set aside."""
        bounds = self.compute_bounds_ms(architecture)
        return self.open_to(architecture) and bounds is not None and bounds[1] <= self.budget.accepted_ms

    def open_to(self, architecture: Architecture) -> bool:
        """Whether it keeps the limits and was not set aside."""
        aside = {certificate.architecture for certificate in self.set_aside}
        return architecture not in aside and is_allowed(self.problem, architecture)

    def can_meet(self, architecture: Architecture) -> bool:
        """Whether measuring it, or measuring it longer, may show that it is inside what is accepted."""
        if architecture == self.problem.space.parent or not self.open_to(architecture):
            return False
        bounds = self.compute_bounds_ms(architecture)
        if bounds is None:
            return self.problem.latency.predict(architecture, self.problem.percentile).low_ms <= self.budget.accepted_ms
        low, high = bounds
        return low <= self.budget.accepted_ms < high and high - low > NARROW * (high + low)

    def add_measured(self, measured: Profile) -> "SelectionState":
        """With these in the latency model, joined to what was measured of them since the profile.

        The parent's record stays that of the profile.

        Raises:
            ProfileMismatch: they were not measured as the profile was.
        """
        model, beside = self.problem.latency, dict(self.beside)
        for record in measured.records:
            if record.architecture != self.problem.space.parent:
                earlier = beside.get(record.architecture)
                beside[record.architecture] = record.measurement if earlier is None else earlier.join(
                    record.measurement
                )  # fmt: skip
        renewed = tuple(
            Record(r.architecture, beside[r.architecture]) for r in measured.records if r.architecture in beside
        )
        merged = get_profile(self.problem).merge(replace(measured, records=renewed))
        return replace(self, problem=replace(self.problem, latency=model.refit(merged)), beside=beside)

    def exclude(self, certificate: Certificate) -> "SelectionState":
        """With the winner of a certificate that was not given set aside."""
        return replace(self, set_aside=(*self.set_aside, certificate))

    def narrow(self, share: float) -> "SelectionState":
        """With only that share of what was accepted accepted."""
        return replace(self, budget=self.budget.narrow(share))


def list_candidates_to_measure(state: SelectionState, best: Candidate | None, judge: Judge) -> list[Architecture]:
    """The candidates that may meet the budget and are better than the best measured one, best first.

    May meet: the lower end of the interval at the asked percentile does. Better: by a difference that is worth an
    export, which may take a minute, and measuring it.
    """
    problem = state.problem
    may = sorted((c for c in state.outcome.candidates if state.can_meet(c.architecture)), key=get_loss)
    judged = judge(problem, find_statistically_tied(problem, may, MEASURED))
    enough = float("inf") if best is None else get_loss(best) - max(MATTERS * get_loss(best), MIN_GAIN)
    return [c.architecture for c in sorted(judged, key=get_loss) if get_loss(c) < enough][:MEASURED]


def find_best_measured(state: SelectionState, judge: Judge) -> Candidate | None:
    """The best candidate that was measured inside the budget, was not set aside, and is worth its pruning."""
    problem, candidates = state.problem, state.outcome.candidates
    among = [c.architecture for c in candidates if is_allowed(problem, c.architecture)]
    profile = get_profile(problem)
    measured = [
        candidate
        for candidate in candidates
        if state.is_inside(candidate.architecture)
        and find_faster_less_pruned(profile, candidate.architecture, among) is None
    ]
    judged = judge(problem, find_statistically_tied(problem, sorted(measured, key=get_loss), MEASURED))
    return min(judged, key=get_loss, default=None)


def list_better(state: SelectionState, winner: Candidate) -> list[Candidate]:
    """Candidates that lose less than the winner and may be inside the budget that was asked for, best first."""
    enough = get_loss(winner) - max(MATTERS * get_loss(winner), MIN_GAIN)
    problem = state.problem
    better = [
        candidate
        for candidate in state.outcome.candidates
        if get_loss(candidate) < enough
        and candidate.architecture != problem.space.parent
        and is_allowed(problem, candidate.architecture)
        and problem.predict_ms(candidate.architecture) <= state.budget.asked_ms
    ]
    return sorted(better, key=get_loss)


def find_faster_less_pruned(
    profile: Profile, architecture: Architecture, among: Sequence[Architecture]
) -> Architecture | None:
    """A measured one of these that drops less and is at least as fast: pruning that far buys nothing."""
    mine = profile.find_measurement(architecture)
    if mine is None:
        return None
    less = [(other, profile.find_measurement(other)) for other in among if _drops_less(other, architecture)]
    return next((other for other, its in less if its is not None and its.compute_ratio() <= mine.compute_ratio()), None)


def get_profile(problem: Problem) -> Profile:
    """What the problem's latency model was fitted to: wherever the target can be measured, it was."""
    profile = problem.latency.profile
    assert profile is not None
    return profile


def is_allowed(problem: Problem, architecture: Architecture) -> bool:
    """Whether it keeps every limit besides the budget."""
    return all(limit.is_met(architecture) for limit in problem.limits)


def get_loss(candidate: Candidate) -> float:
    """What candidates are compared by."""
    return candidate.quality.loss


def _drops_less(one: Architecture, other: Architecture) -> bool:
    return one != other and all(other.drops(choice) for choice in one.choices)

"""Choosing a winner by measurement: measure, correct the latency model, choose again, certify.

The budget is kept by measurement, not by prediction: the best of many predictions is one that erred on the fast side.
Whatever is better than the best measured candidate, by a difference that matters, and might meet the budget (the lower
end of its interval does) is measured, the fit is corrected, the search chooses again. When nothing such is left, or
this has gone on for long enough, the best is certified: measured anew and judged on the upper bound of the asked
percentile. A refusal narrows what is accepted and the search goes on.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from latency_models.fit import CalibratedModel
from latency_models.profile import Profile
from nas.certificate import Certificate
from nas.search import Candidate, Problem, SearchOutcome
from nas.search.halving import undecided
from nas.search.outcome import in_full
from search_spaces.architecture import Architecture
from search_spaces.errors import NoFeasibleCandidate

MEASURED = 4  # contenders measured together in a round
ROUNDS = 12  # of measuring contenders or certifying one
LAST = 4  # of them, that are left for certifying what was measured inside the budget, whoever else might be better
MORE_TRIALS = 12
MATTERS = 0.01  # of the best measured loss: what a contender has to be better by to be worth measuring,
LEAST = 0.001  # and in the loss's own units (nats of divergence, mostly), where the best loses next to nothing
AIM = 0.97  # of what is accepted: the bound of a percentile lies a few per cent above the percentile
_MARGIN = 0.995  # a refusal narrows by its overshoot and as much,
_MOST = 0.9  # and at most to this share: a bound that is far above tells of a disturbed machine


@dataclass(frozen=True)
class Steps:
    """What the choice asks of the world.

    Attributes:
        search: solves a problem; what an earlier call found out is not computed again.
        measure: the parent and these architectures, on the target.
        certify: measures one anew, in fresh processes, and judges it.
        say: tells the person.
        relative: the budget is a fraction of the parent beside the winner, so that what the machine does to the tail
            of both counts for neither.
    """

    search: Callable[[Problem], SearchOutcome]
    measure: Callable[[list[Architecture]], Profile]
    certify: Callable[[Problem, Architecture], Certificate]
    say: Callable[[str], None]
    relative: bool = False


@dataclass(frozen=True)
class Standing:
    """How far the choice has come.

    Attributes:
        problem: with the latency model as corrected so far; its budget is what the search aims at.
        accepted_ms: what the bound of a measured candidate must not exceed.
        refused: certificates that were not given.
        tails: of what was measured since the profile, the parent's percentile over its median beside it, where the
            budget is relative.
    """

    problem: Problem
    outcome: SearchOutcome
    accepted_ms: float
    refused: tuple[Certificate, ...] = ()
    tails: Mapping[Architecture, float] = field(default_factory=dict)

    def bound_ms(self, architecture: Architecture) -> float | None:
        """The upper bound of a measured architecture's percentile, with the change since the profile taken out.

        None where it was not measured, or too briefly for a bound.
        """
        model, percentile = calibrated(self.problem), self.problem.percentile
        known = model.profile.of(architecture)
        bound = None if known is None else known.upper_bound(percentile)
        if known is None or bound is None:
            return None
        parent = model.profile.of(self.problem.space.parent)
        assert parent is not None
        tail = parent.percentile(percentile) / parent.p50
        change = self.tails.get(architecture, tail) / tail
        return bound / known.p50 * model.predict(architecture, 50).ms / change


def choose_winner(steps: Steps, problem: Problem) -> tuple[SearchOutcome, Problem, Certificate]:
    """Search until a winner is certified.

    Returns:
        The outcome, the problem with the corrected latency model, and the winner's certificate.

    Raises:
        NoFeasibleCandidate: nothing that was measured meets the budget; the closest is reported.
    """
    refused: tuple[Certificate, ...] = ()
    if problem.feasible(problem.space.start):
        outcome, certificate = steps.search(problem), steps.certify(problem, problem.space.start)
        if certificate.certified:
            return outcome, problem, certificate
        refused = (certificate,)
    standing = _begun(steps, problem, refused)
    for turn in range(ROUNDS):
        best = best_measured(standing)
        unknown = contenders(standing, best) if best is None or turn < ROUNDS - LAST else []
        if unknown:
            standing = _again(steps, _corrected(steps, standing, unknown))
        elif best is None:
            standing = _lower(steps, standing, standing.problem.budget_ms * AIM)
        else:
            certificate = steps.certify(standing.problem, best.architecture)
            if certificate.certified:
                return _led_by(standing, best), standing.problem, certificate
            standing = _refuse(steps, standing, certificate)
    words, closest_ms = _closest(standing)
    said = f"no measured candidate meets {problem.budget_ms:.2f} ms (p{problem.percentile}){words}; raise the budget"
    raise NoFeasibleCandidate(said, problem.budget_ms, closest_ms)


def _begun(steps: Steps, problem: Problem, refused: tuple[Certificate, ...]) -> Standing:
    """The first search: a little below the budget, and at the budget where nothing reaches below."""
    aimed = replace(problem, budget_ms=AIM * problem.budget_ms)
    try:
        return Standing(aimed, steps.search(aimed), problem.budget_ms, refused)
    except NoFeasibleCandidate:
        return Standing(problem, steps.search(problem), problem.budget_ms, refused)


def contenders(standing: Standing, best: Candidate | None) -> list[Architecture]:
    """The unmeasured candidates that may meet the budget and are better than the best measured one, best first.

    May meet: the lower end of the interval at the asked percentile does. Better: by a difference that is worth an
    export, which may take a minute, and measuring it.
    """
    problem = standing.problem
    may = sorted((c for c in standing.outcome.candidates if _may_meet(standing, c)), key=_loss)
    judged = in_full(problem, undecided(problem, may, MEASURED))
    enough = float("inf") if best is None else _loss(best) - max(MATTERS * _loss(best), LEAST)
    return [c.architecture for c in sorted(judged, key=_loss) if _loss(c) < enough][:MEASURED]


def best_measured(standing: Standing) -> Candidate | None:
    """The best candidate that was measured inside the budget, was not refused, and is worth its pruning."""
    problem, candidates = standing.problem, standing.outcome.candidates
    allowed = [c.architecture for c in candidates if _allowed(problem, c.architecture)]
    profile = calibrated(problem).profile
    measured = [
        candidate
        for candidate in candidates
        if _inside(standing, candidate.architecture)
        and faster_less_pruned(profile, candidate.architecture, allowed) is None
    ]
    judged = in_full(problem, undecided(problem, sorted(measured, key=_loss), MEASURED))
    return min(judged, key=_loss, default=None)


def faster_less_pruned(
    profile: Profile, architecture: Architecture, among: Sequence[Architecture]
) -> Architecture | None:
    """A measured one of these that drops less and is at least as fast: pruning that far buys nothing."""
    mine = profile.of(architecture)
    if mine is None:
        return None
    less = [(other, profile.of(other)) for other in among if _drops_less(other, architecture)]
    return next((other for other, its in less if its is not None and its.ratio() <= mine.ratio()), None)


def _drops_less(one: Architecture, other: Architecture) -> bool:
    return one != other and all(other.drops(unit) for unit in one.dropped)


def calibrated(problem: Problem) -> CalibratedModel:
    """The problem's latency model, which rests on measurements wherever the target can be measured."""
    assert isinstance(problem.latency, CalibratedModel)
    return problem.latency


def _may_meet(standing: Standing, candidate: Candidate) -> bool:
    problem, architecture = standing.problem, candidate.architecture
    if architecture == problem.space.parent or not _open(standing, architecture):
        return False
    low_ms = problem.latency.predict(architecture, problem.percentile).low_ms
    return standing.bound_ms(architecture) is None and low_ms <= standing.accepted_ms


def _inside(standing: Standing, architecture: Architecture) -> bool:
    bound = standing.bound_ms(architecture)
    return _open(standing, architecture) and bound is not None and bound <= standing.accepted_ms


def _open(standing: Standing, architecture: Architecture) -> bool:
    """Whether it keeps the limits and was not refused."""
    refused = {certificate.architecture for certificate in standing.refused}
    return architecture not in refused and _allowed(standing.problem, architecture)


def _allowed(problem: Problem, architecture: Architecture) -> bool:
    return all(limit.met(architecture) for limit in problem.limits)


def _loss(candidate: Candidate) -> float:
    return candidate.quality.loss


def _led_by(standing: Standing, winner: Candidate) -> SearchOutcome:
    """The outcome with the certified one first and those that were only predicted to be as good behind it."""
    outcome, winner = standing.outcome, replace(winner, predicted_ms=standing.problem.ms(winner.architecture))
    others = tuple(c for c in outcome.ranked if c.architecture != winner.architecture)
    candidates = tuple(winner if c.architecture == winner.architecture else c for c in outcome.candidates)
    return replace(outcome, ranked=(winner, *others), candidates=candidates)


def _again(steps: Steps, standing: Standing) -> Standing:
    """Choose among what was evaluated; where nothing of it fits the corrected prediction any more, search on."""
    problem, trials = standing.problem, standing.outcome.trials
    if not any(problem.feasible(candidate.architecture) for candidate in standing.outcome.candidates):
        trials += MORE_TRIALS
    return _searched(steps, standing, replace(problem, trials=trials))


def _lower(steps: Steps, standing: Standing, aim_ms: float) -> Standing:
    """Aim lower and search on."""
    problem = replace(standing.problem, budget_ms=aim_ms, trials=standing.outcome.trials + MORE_TRIALS)
    return _searched(steps, standing, problem)


def _searched(steps: Steps, standing: Standing, problem: Problem) -> Standing:
    """Search; where nothing is predicted to reach what is aimed at, what was found before stands."""
    try:
        return replace(standing, problem=problem, outcome=steps.search(problem))
    except NoFeasibleCandidate:
        return replace(standing, problem=problem)


def _refuse(steps: Steps, standing: Standing, certificate: Certificate) -> Standing:
    """What measures above the budget once measured more than was thought by as much as it is above."""
    accepted = standing.accepted_ms * max(_MOST, _MARGIN / max(1.0, _overshoot(certificate)))
    steps.say(f"{certificate.reason}: choosing again with {accepted:.2f} ms")
    standing = replace(standing, accepted_ms=accepted, refused=(*standing.refused, certificate))
    return _lower(steps, standing, min(standing.problem.budget_ms, AIM * accepted))


def _corrected(steps: Steps, standing: Standing, architectures: list[Architecture]) -> Standing:
    """With these measured and in the latency model; the parent's record stays that of the profile.

    Raises:
        ProfileMismatch: they were not measured as the profile was.
    """
    problem, measured = standing.problem, steps.measure(architectures)
    added = tuple(record for record in measured.records if record.architecture != problem.space.parent)
    merged = calibrated(problem).profile.merge(replace(measured, records=added))
    beside = measured.of(problem.space.parent)
    tails = dict(standing.tails)
    if steps.relative and beside is not None:
        tails |= {record.architecture: beside.percentile(problem.percentile) / beside.p50 for record in added}
    return replace(standing, problem=replace(problem, latency=CalibratedModel(merged)), tails=tails)


def _closest(standing: Standing) -> tuple[str, float | None]:
    """What came nearest, in words and ms: of certificates that were not given, else of what was measured."""
    if standing.refused:
        nearest = min(standing.refused, key=_overshoot)
        return f"; the closest: {nearest.reason}", _overshoot(nearest) * nearest.budget_ms
    bounds = [(bound, c) for c in standing.outcome.candidates if (bound := standing.bound_ms(c.architecture))]
    if not bounds:
        return "", None
    bound, candidate = min(bounds, key=lambda pair: pair[0])
    return f"; the closest takes at most {bound:.2f} ms ({candidate.architecture.words})", bound


def _overshoot(certificate: Certificate) -> float:
    assert certificate.winner is not None
    bound = certificate.bound_ms or certificate.winner.percentile(100)
    return bound / certificate.budget_ms

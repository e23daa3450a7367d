"""Choosing a winner by measurement: measure, correct the latency model, choose again, certify.

The budget is kept by measurement, not by prediction: the best of many predictions is one that erred on the fast side.
Whatever is better than the best measured candidate, by a difference that matters, and might meet the budget (the lower
end of its interval does) is measured, the fit is corrected, the search chooses again. When nothing such is left, or
this has gone on for long enough, the best is certified: measured anew and judged by the bounds of what was asked for.

Only a winner that is significantly above the budget narrows what is accepted: then the latency model was wrong. What
other work on the machine does to a measurement never does: it is waited for, and in the end the choice stays a
prediction.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from latency_models.calibrated import CalibratedModel, PairedModel
from latency_models.measurement import Measurement
from latency_models.profile import Profile
from nas.certification.quiet_machine import MOVED, SLOWER, noise, parent_moved, slower_than_parent
from nas.certification.selection_state import Standing, best_measured, better_ones, calibrated, contenders
from nas.request.quantities import Budget
from nas.results.certificate import Certificate, Verdict
from nas.search import Candidate, Problem, SearchOutcome
from search_spaces.architecture import Architecture
from search_spaces.errors import MachineTooBusy, NoFeasibleCandidate

ROUNDS = 12  # of measuring contenders or certifying one
LAST = 4  # of them, that are left for certifying what was measured inside the budget, whoever else might be better
MORE_TRIALS = 12
AIM = 0.97  # of what is accepted: the bound of what is judged lies a few per cent above it
WIDE = 0.02  # half of a certificate's interval over its middle: if it is undecided and wider, the machine is noisy
FAST = 0.9  # of the budget: a winner below it is not delivered without saying so, where better ones might fit
HOPELESS = 10.0  # the least time that a profile predicts, over the budget: no noise explains so much
_MARGIN = 0.995  # a refusal narrows by its overshoot and as much,
_MOST = 0.9  # and at most to this share


@dataclass(frozen=True)
class Steps:
    """What the choice asks of the world.

    Attributes:
        budget: as it was asked for.
        search: solves a problem; what an earlier call found out is not computed again.
        measure: the parent and these architectures, on the target.
        certify: measures one anew, in fresh processes, and judges it; told how often winners were judged before.
        predict: the certificate of one that stays a prediction, for the reason that is given.
        profile: the target, measured again.
        wait: for a quiet machine, told what proves that it is none; raises MachineTooBusy in the end.
        say: tells the person.
    """

    budget: Budget
    search: Callable[[Problem], SearchOutcome]
    measure: Callable[[Problem, list[Architecture]], Profile]
    certify: Callable[[Problem, Architecture, int], Certificate]
    predict: Callable[[Problem, Architecture, str], Certificate]
    profile: Callable[[], Profile]
    wait: Callable[[str], None]
    say: Callable[[str], None]

    @property
    def relative(self) -> bool:
        """Whether ratios to the parent are judged."""
        return self.budget.fraction is not None


def choose_winner(steps: Steps, problem: Problem) -> tuple[SearchOutcome, Problem, Certificate]:
    """Search until a winner is certified, or the machine turns out too busy for that.

    Returns:
        The outcome, the problem with the corrected latency model, and the winner's certificate: a prediction where
        the machine was too busy.

    Raises:
        NoFeasibleCandidate: nothing that was measured meets the budget; the closest is reported.
        MachineTooBusy: by what was measured on a busy machine, nothing does.
    """
    standing = _begun(steps, replace(problem, latency=_judging(steps, problem)))
    try:
        while standing.turns < ROUNDS:
            standing, noisy = _noise_in(steps, standing, calibrated(standing.problem).profile, MOVED)
            best = _start(standing) or best_measured(standing)
            unknown = contenders(standing, best) if best is None or standing.turns < ROUNDS - LAST else []
            if noisy is not None:
                standing = _profiled(steps, standing, noisy)
            elif unknown:
                standing = _measured(steps, standing, unknown)
            elif best is None:
                standing = _lower(steps, standing, standing.problem.budget_ms * AIM)
            else:
                standing, certificate = _certified(steps, standing, best)
                if certificate is not None:
                    outcome = _led_by(standing, best)
                    return outcome, standing.problem, _marked(steps, standing, outcome.winner, certificate)
    except MachineTooBusy as busy:
        outcome = _led_by(standing, best_measured(standing) or standing.outcome.winner)
        return outcome, standing.problem, steps.predict(standing.problem, outcome.winner.architecture, busy.reason)
    raise _nothing(standing)


def _judging(steps: Steps, problem: Problem) -> CalibratedModel:
    """The latency model, by which a fraction is nothing but a ratio."""
    return PairedModel.of(calibrated(problem)) if steps.relative else calibrated(problem)


def _begun(steps: Steps, problem: Problem) -> Standing:
    """The first search: a little below the budget, and at the budget where nothing reaches below.

    Raises:
        NoFeasibleCandidate: nothing reaches the budget, by a profile of a quiet machine, or none comes near it.
        MachineTooBusy: nothing does, and no quiet machine was to be had.
    """
    while True:
        budget_ms = steps.budget.resolve(problem.ms(problem.space.parent))
        try:
            return _searched_from(steps, problem, budget_ms)
        except NoFeasibleCandidate as error:
            parent = calibrated(problem).profile.of(problem.space.parent)
            assert parent is not None
            noisy = noise(parent, _tail(steps, problem))
            if noisy is None or (error.closest_ms or 0.0) > HOPELESS * budget_ms:
                raise
            steps.wait(noisy)
            problem = replace(problem, latency=calibrated(problem).renewed(steps.profile()))


def _searched_from(steps: Steps, problem: Problem, budget_ms: float) -> Standing:
    aimed, asked = (replace(problem, budget_ms=share * budget_ms) for share in (AIM, 1.0))
    try:
        return Standing(aimed, steps.search(aimed), budget_ms, steps.relative)
    except NoFeasibleCandidate:
        return Standing(asked, steps.search(asked), budget_ms, steps.relative)


def _start(standing: Standing) -> Candidate | None:
    """Where the search starts, if that is predicted to meet the budget and was not found to be above it."""
    problem = standing.problem
    start = problem.space.start
    if problem.ms(start) > standing.budget_ms or not standing.open_to(start):
        return None
    return next((c for c in standing.outcome.candidates if c.architecture == start), None)


def _measured(steps: Steps, standing: Standing, architectures: list[Architecture]) -> Standing:
    """With these measured and in the latency model, if the machine was quiet and as it was when it was profiled.

    Raises:
        ProfileMismatch: they were not measured as the profile was.
        MachineTooBusy: no quiet machine was to be had.
    """
    problem = standing.problem
    measured = steps.measure(problem, architectures)
    standing, noisy = _noise_in(steps, standing, measured)
    if noisy is not None:
        steps.wait(noisy)
        return standing
    moved = _moved(problem, measured.of(problem.space.parent))
    if moved is not None:
        return _profiled(steps, standing, moved)
    return _again(steps, standing.with_measured(measured))


def _certified(steps: Steps, standing: Standing, best: Candidate) -> tuple[Standing, Certificate | None]:
    """The best one's certificate; None where it was not given, or nothing can be said of it on this machine."""
    problem = standing.problem
    certificate = steps.certify(problem, best.architecture, standing.looks)
    standing = replace(standing, looks=standing.looks + certificate.looks)
    winner, parent = certificate.winner, certificate.parent
    assert winner is not None
    assert parent is not None
    standing, noisy = _noise(steps, standing, parent, {best.architecture: winner})
    moved = _moved(problem, parent)
    undecided = certificate.verdict is Verdict.UNDECIDED
    if noisy is None and undecided and certificate.spread > WIDE:
        noisy = certificate.reason
    if noisy is not None:
        steps.wait(noisy)
    elif moved is not None:
        standing = _profiled(steps, standing, moved)
    elif certificate.certified:
        return standing, certificate
    elif undecided:
        steps.say(f"{certificate.reason}: the next best")
        standing = replace(standing.without(certificate), turns=standing.turns + 1)
    else:
        standing = _refused(steps, standing, certificate)
    return standing, None


def _refused(steps: Steps, standing: Standing, certificate: Certificate) -> Standing:
    """The budget narrowed by what the winner is above it: it takes more than was thought by as much.

    In milliseconds that may be the machine, slower than when it was profiled: then the same winner is measured again,
    and when that ends as before, the target is profiled again.
    """
    overshoot, then = _overshoot(certificate), certificate.profiled_parent_ms
    assert certificate.parent is not None
    if not standing.relative and then is not None and overshoot * then / certificate.parent.p50 <= 1:
        said = f"the parent took {then:.2f} ms when it was profiled and {certificate.parent.p50:.2f} ms now"
        if standing.slow:
            return _profiled(steps, standing, said)
        steps.say(f"{certificate.reason}; {said}: measuring again")
        return replace(standing, slow=True)
    standing = standing.without(certificate).narrowed(max(_MOST, _MARGIN / overshoot))
    steps.say(f"{certificate.reason}: choosing again with {standing.accepted_ms:.2f} ms")
    return _lower(steps, standing, min(standing.problem.budget_ms, AIM * standing.accepted_ms))


def _profiled(steps: Steps, standing: Standing, reason: str) -> Standing:
    """The choice begun again with a new profile: at once the first time, then after waiting for a quiet machine."""
    if standing.profiles == 0:
        steps.say(f"{reason}: profiling again")
    else:
        steps.wait(reason)
    problem = standing.problem
    begun = _begun(steps, replace(problem, latency=calibrated(problem).renewed(steps.profile())))
    return replace(begun, profiles=standing.profiles + 1, looks=standing.looks, slower=standing.slower)


def _noise_in(steps: Steps, standing: Standing, profile: Profile, most: float = SLOWER) -> tuple[Standing, str | None]:
    """`_noise` of all that was measured together; nothing where the parent was not."""
    beside = profile.of(standing.problem.space.parent)
    others = {r.architecture: r.measurement for r in profile.records if r.architecture != standing.problem.space.parent}
    return (standing, None) if beside is None else _noise(steps, standing, beside, others, most)


def _noise(
    steps: Steps,
    standing: Standing,
    parent: Measurement,
    others: Mapping[Architecture, Measurement],
    most: float = SLOWER,
) -> tuple[Standing, str | None]:
    """What proves that the machine was busy while these were measured, if anything does.

    That a candidate is slower than the parent that it lacks parts of is believed the second time: fusions may be lost.
    """
    noisy = noise(parent, _tail(steps, standing.problem))
    if noisy is not None:
        return standing, noisy
    slower = [a for a in slower_than_parent(others, most) if a not in standing.slower]
    if not slower:
        return standing, None
    said = f"{slower[0].words} measured slower than the parent that it lacks parts of"
    return replace(standing, slower=standing.slower | {*slower}), said


def _moved(problem: Problem, parent: Measurement | None) -> str | None:
    """Whether the parent is another than when it was profiled, in words."""
    then = calibrated(problem).profile.of(problem.space.parent)
    assert then is not None
    return None if parent is None else parent_moved(then, parent)


def _tail(steps: Steps, problem: Problem) -> int | None:
    """The percentile whose tail has to be calm: none where ratios are judged."""
    return None if steps.relative else problem.percentile


def _marked(steps: Steps, standing: Standing, winner: Candidate, certificate: Certificate) -> Certificate:
    """The certificate, which says so where the winner is much faster than asked and better ones might be inside."""
    share, better = certificate.judged_ms / certificate.budget_ms, better_ones(standing, winner)
    if share >= FAST or not better:
        return certificate
    said = (
        f"; it takes {share:.2f} of the budget, and {len(better)} that lose less are predicted inside it and were not "
        f"certified (the best: {better[0].architecture.words}): run it again on a quiet machine"
    )
    steps.say(certificate.reason + said)
    return replace(certificate, reason=certificate.reason + said)


def _led_by(standing: Standing, winner: Candidate) -> SearchOutcome:
    """The outcome with this one first and those that were only predicted to be as good behind it."""
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
    standing = replace(standing, problem=problem, turns=standing.turns + 1)
    try:
        return replace(standing, outcome=steps.search(problem))
    except NoFeasibleCandidate:
        return standing


def _nothing(standing: Standing) -> NoFeasibleCandidate:
    """The error for a budget that nothing measured meets: what came nearest, in words and ms.

    Of certificates that were not given, else of what was measured.
    """
    words, closest_ms = "", None
    if standing.set_aside:
        nearest = min(standing.set_aside, key=_overshoot)
        words, closest_ms = f"; the closest: {nearest.reason}", _overshoot(nearest) * nearest.budget_ms
    else:
        measured = [(b[1], c) for c in standing.outcome.candidates if (b := standing.bounds_ms(c.architecture))]
        if measured:
            closest_ms, candidate = min(measured, key=lambda pair: pair[0])
            words = f"; the closest takes at most {closest_ms:.2f} ms ({candidate.architecture.words})"
    said = f"no measured candidate meets {standing.budget_ms:.2f} ms (p{standing.problem.percentile}){words}"
    return NoFeasibleCandidate(f"{said}; raise the budget", standing.budget_ms, closest_ms)


def _overshoot(certificate: Certificate) -> float:
    return max(1.0, certificate.judged_ms / certificate.budget_ms)

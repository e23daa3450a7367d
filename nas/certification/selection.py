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

from latency_models.calibrated import PairedModel
from latency_models.measurement import Measurement
from latency_models.model import LatencyModel
from latency_models.profile import Profile
from nas.certification.latency_budget import AIM, LatencyBudget
from nas.certification.quiet_machine import MOVED, SLOWER, check_parent_moved, find_noise, find_slower_than_parent
from nas.certification.selection_state import (
    MEASURED,
    Judge,
    SelectionState,
    find_best_measured,
    get_loss,
    get_profile,
    list_better,
    list_candidates_to_measure,
)
from nas.request.quantities import Budget
from nas.results.certificate import Certificate, Verdict
from nas.search import Candidate, Problem, SearchOutcome
from nas.search.outcome import evaluate_in_full
from search_spaces.architecture import Architecture
from search_spaces.errors import MachineTooBusy, NoFeasibleCandidate

ROUNDS = 12  # of measuring candidates or certifying one
LAST = 4  # of them, that are left for certifying what was measured inside the budget, whoever else might be better
MORE_TRIALS = 12
FINALIST_ROUNDS = 2  # of measuring candidates beside the winner, where several are asked for
WIDE = 0.02  # half of a certificate's interval over its middle: if it is undecided and wider, the machine is noisy
FAST = 0.9  # of the budget: a winner below it is not delivered without saying so, where better ones might fit
HOPELESS = 10.0  # the least time that a profile predicts, over the budget: no noise explains so much
_MARGIN = 0.995  # a refusal narrows by its overshoot and as much,
_MAX_SHARE = 0.9  # and at most to this share


@dataclass(frozen=True)
class SelectionCallbacks:
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
        judge: evaluates candidates on all items.
        finalists: how many candidates are to be measured inside the budget, the certified one among them.
    """

    budget: Budget
    search: Callable[[Problem], SearchOutcome]
    measure: Callable[[Problem, list[Architecture]], Profile]
    certify: Callable[[Problem, Architecture, int], Certificate]
    predict: Callable[[Problem, Architecture, str], Certificate]
    profile: Callable[[], Profile]
    wait: Callable[[str], None]
    say: Callable[[str], None]
    judge: Judge = evaluate_in_full
    finalists: int = 1

    @property
    def relative(self) -> bool:
        """Whether ratios to the parent are judged."""
        return self.budget.fraction is not None


def choose_winner(callbacks: SelectionCallbacks, problem: Problem) -> tuple[SearchOutcome, Problem, Certificate]:
    """Search until a winner is certified, or the machine turns out too busy for that.

    Returns:
        The outcome, the problem with the corrected latency model, and the winner's certificate: a prediction where
        the machine was too busy.

    Raises:
        NoFeasibleCandidate: nothing that was measured meets the budget; the closest is reported.
        MachineTooBusy: by what was measured on a busy machine, nothing does.
    """
    state = _begin(callbacks, replace(problem, latency=_choose_judging_model(callbacks, problem)))
    try:
        while state.turns < ROUNDS:
            state, noisy = _find_noise_in(callbacks, state, get_profile(state.problem), MOVED)
            best = _start(state) or find_best_measured(state, callbacks.judge)
            searching = best is None or state.turns < ROUNDS - LAST
            unknown = list_candidates_to_measure(state, best, callbacks.judge) if searching else []
            if noisy is not None:
                state = _profile(callbacks, state, noisy)
            elif unknown:
                state = _measure(callbacks, state, unknown)
            elif best is None:
                state = _aim_lower(callbacks, state, state.budget.aim_ms * AIM)
            else:
                state, certificate = _certify(callbacks, state, best)
                if certificate is not None:
                    state = _measure_finalists(callbacks, state) if callbacks.finalists > 1 else state
                    outcome = _lead_with(state, best)
                    return outcome, state.problem, _mark(callbacks, state, outcome.winner, certificate)
    except MachineTooBusy as busy:
        outcome = _lead_with(state, find_best_measured(state, callbacks.judge) or state.outcome.winner)
        return outcome, state.problem, callbacks.predict(state.problem, outcome.winner.architecture, busy.reason)
    raise _build_nothing_error(state)


def _choose_judging_model(callbacks: SelectionCallbacks, problem: Problem) -> LatencyModel:
    """The latency model, by which a fraction is nothing but a ratio."""
    return PairedModel(get_profile(problem), problem.latency.label) if callbacks.relative else problem.latency


def _begin(callbacks: SelectionCallbacks, problem: Problem) -> SelectionState:
    """The first search: a little below the budget, and at the budget where nothing reaches below.

    Raises:
        NoFeasibleCandidate: nothing reaches the budget, by a profile of a quiet machine, or none comes near it.
        MachineTooBusy: nothing does, and no quiet machine was to be had.
    """
    while True:
        budget = LatencyBudget.aiming_below(callbacks.budget.resolve(problem.predict_ms(problem.space.parent)))
        try:
            return _search_from(callbacks, problem, budget)
        except NoFeasibleCandidate as error:
            parent = get_profile(problem).find_measurement(problem.space.parent)
            assert parent is not None
            noisy = find_noise(parent, _choose_tail(callbacks, problem))
            if noisy is None or (error.closest_ms or 0.0) > HOPELESS * budget.asked_ms:
                raise
            callbacks.wait(noisy)
            problem = replace(problem, latency=problem.latency.refit(callbacks.profile()))


def _search_from(callbacks: SelectionCallbacks, problem: Problem, budget: LatencyBudget) -> SelectionState:
    aimed, asked = (replace(problem, budget_ms=ms) for ms in (budget.aim_ms, budget.asked_ms))
    try:
        return SelectionState(aimed, callbacks.search(aimed), budget, callbacks.relative)
    except NoFeasibleCandidate:
        return SelectionState(asked, callbacks.search(asked), budget.aim_at(budget.asked_ms), callbacks.relative)


def _start(state: SelectionState) -> Candidate | None:
    """Where the search starts, if that is predicted to meet the budget and was not found to be above it."""
    problem = state.problem
    start = problem.space.start
    if problem.predict_ms(start) > state.budget.asked_ms or not state.open_to(start):
        return None
    return next((c for c in state.outcome.candidates if c.architecture == start), None)


def _measure(callbacks: SelectionCallbacks, state: SelectionState, architectures: list[Architecture]) -> SelectionState:
    """With these measured and in the latency model, if the machine was quiet and as it was when it was profiled.

    Raises:
        ProfileMismatch: they were not measured as the profile was.
        MachineTooBusy: no quiet machine was to be had.
    """
    problem = state.problem
    measured = callbacks.measure(problem, architectures)
    state, noisy = _find_noise_in(callbacks, state, measured)
    if noisy is not None:
        callbacks.wait(noisy)
        return state
    moved = _check_parent_moved(problem, measured.find_measurement(problem.space.parent))
    if moved is not None:
        return _profile(callbacks, state, moved)
    return _choose_again(callbacks, state.add_measured(measured))


def _certify(
    callbacks: SelectionCallbacks, state: SelectionState, best: Candidate
) -> tuple[SelectionState, Certificate | None]:
    """The best one's certificate; None where it was not given, or nothing can be said of it on this machine."""
    problem = state.problem
    certificate = callbacks.certify(problem, best.architecture, state.looks)
    state = replace(state, looks=state.looks + certificate.looks)
    winner, parent = certificate.winner, certificate.parent
    assert winner is not None
    assert parent is not None
    state, noisy = _find_noise(callbacks, state, parent, {best.architecture: winner})
    moved = _check_parent_moved(problem, parent)
    undecided = certificate.verdict is Verdict.UNDECIDED
    if noisy is None and undecided and certificate.spread > WIDE:
        noisy = certificate.reason
    if noisy is not None:
        callbacks.wait(noisy)
    elif moved is not None:
        state = _profile(callbacks, state, moved)
    elif certificate.certified:
        return state, certificate
    elif undecided:
        callbacks.say(f"{certificate.reason}: trying the next best")
        state = replace(state.exclude(certificate), turns=state.turns + 1)
    else:
        state = _refuse(callbacks, state, certificate)
    return state, None


def _refuse(callbacks: SelectionCallbacks, state: SelectionState, certificate: Certificate) -> SelectionState:
    """The budget narrowed by what the winner is above it: it takes more than was thought by as much.

    In milliseconds that may be the machine, slower than when it was profiled: then the same winner is measured again,
    and when that ends as before, the target is profiled again.
    """
    overshoot, then = _compute_overshoot(certificate), certificate.profiled_parent_ms
    assert certificate.parent is not None
    if not state.relative and then is not None and overshoot * then / certificate.parent.p50 <= 1:
        reason = f"the parent took {then:.2f} ms when it was profiled and {certificate.parent.p50:.2f} ms now"
        if state.slow:
            return _profile(callbacks, state, reason)
        callbacks.say(f"{certificate.reason}; {reason}: measuring again")
        return replace(state, slow=True)
    state = state.exclude(certificate).narrow(max(_MAX_SHARE, _MARGIN / overshoot))
    callbacks.say(f"{certificate.reason}: choosing again within {state.budget.accepted_ms:.2f} ms")
    return _aim_lower(callbacks, state, min(state.budget.aim_ms, AIM * state.budget.accepted_ms))


def _profile(callbacks: SelectionCallbacks, state: SelectionState, reason: str) -> SelectionState:
    """The choice begun again with a new profile: at once the first time, then after waiting for a quiet machine."""
    if state.profiles == 0:
        callbacks.say(f"{reason}: profiling again")
    else:
        callbacks.wait(reason)
    problem = state.problem
    begun = _begin(callbacks, replace(problem, latency=problem.latency.refit(callbacks.profile())))
    return replace(begun, profiles=state.profiles + 1, looks=state.looks, slower=state.slower)


def _find_noise_in(
    callbacks: SelectionCallbacks, state: SelectionState, profile: Profile, max_excess: float = SLOWER
) -> tuple[SelectionState, str | None]:
    """`_find_noise` of all that was measured together; nothing where the parent was not."""
    beside = profile.find_measurement(state.problem.space.parent)
    others = {r.architecture: r.measurement for r in profile.records if r.architecture != state.problem.space.parent}
    return (state, None) if beside is None else _find_noise(callbacks, state, beside, others, max_excess)


def _find_noise(
    callbacks: SelectionCallbacks,
    state: SelectionState,
    parent: Measurement,
    others: Mapping[Architecture, Measurement],
    max_excess: float = SLOWER,
) -> tuple[SelectionState, str | None]:
    """What proves that the machine was busy while these were measured, if anything does.

    That a candidate is slower than the parent that it lacks parts of is believed the second time: fusions may be lost.
    """
    noisy = find_noise(parent, _choose_tail(callbacks, state.problem))
    if noisy is not None:
        return state, noisy
    slower = [a for a in find_slower_than_parent(others, max_excess) if a not in state.slower]
    if not slower:
        return state, None
    reason = f"{slower[0].words} measured slower than the parent, of which it only lacks parts"
    return replace(state, slower=state.slower | {*slower}), reason


def _check_parent_moved(problem: Problem, parent: Measurement | None) -> str | None:
    """Whether the parent is another than when it was profiled, in words."""
    then = get_profile(problem).find_measurement(problem.space.parent)
    assert then is not None
    return None if parent is None else check_parent_moved(then, parent)


def _choose_tail(callbacks: SelectionCallbacks, problem: Problem) -> int | None:
    """The percentile whose tail has to be calm: none where ratios are judged."""
    return None if callbacks.relative else problem.percentile


def _measure_finalists(callbacks: SelectionCallbacks, state: SelectionState) -> SelectionState:
    """With the next best candidates measured that may be inside the budget, until so many are as are asked for.

    They do not change who is certified. On a busy machine there are fewer.
    """
    for _ in range(FINALIST_ROUNDS):
        ranked = sorted(state.outcome.candidates, key=get_loss)
        inside = [each for each in ranked if state.is_inside(each.architecture)]
        open_to = [c.architecture for c in ranked if c not in inside and state.can_meet(c.architecture)]
        wanted = min(MEASURED, callbacks.finalists - len(inside))
        if wanted <= 0 or not open_to:
            break
        measured = callbacks.measure(state.problem, open_to[:wanted])
        if _find_noise_in(callbacks, state, measured)[1] is not None:
            break
        state = state.add_measured(measured)
    return state


def _mark(
    callbacks: SelectionCallbacks, state: SelectionState, winner: Candidate, certificate: Certificate
) -> Certificate:
    """The certificate, which says so where the winner is much faster than asked and better ones might be inside."""
    share, better = certificate.judged_ms / certificate.budget_ms, list_better(state, winner)
    if share >= FAST or not better:
        return certificate
    reason = (
        f"; it takes {share:.2f} of the budget, and {len(better)} with less loss are predicted within it and were not "
        f"certified (the best: {better[0].architecture.words}): search again on a quiet machine"
    )
    callbacks.say(certificate.reason + reason)
    return replace(certificate, reason=certificate.reason + reason)


def _lead_with(state: SelectionState, winner: Candidate) -> SearchOutcome:
    """The outcome with this one first and those that were only predicted to be as good behind it."""
    outcome, winner = state.outcome, replace(winner, predicted_ms=state.problem.predict_ms(winner.architecture))
    candidates = tuple(winner if c.architecture == winner.architecture else c for c in outcome.candidates)
    measured = tuple(sorted((c for c in candidates if state.is_inside(c.architecture)), key=get_loss))
    return replace(outcome.lead_with(winner), candidates=candidates, measured=measured)


def _choose_again(callbacks: SelectionCallbacks, state: SelectionState) -> SelectionState:
    """Choose among what was evaluated; where nothing of it fits the corrected prediction any more, search on."""
    problem, trials = state.problem, state.outcome.trials
    if not any(problem.is_feasible(candidate.architecture) for candidate in state.outcome.candidates):
        trials += MORE_TRIALS
    return _search(callbacks, state, replace(problem, trials=trials))


def _aim_lower(callbacks: SelectionCallbacks, state: SelectionState, aim_ms: float) -> SelectionState:
    """Aim lower and search on."""
    problem = replace(state.problem, budget_ms=aim_ms, trials=state.outcome.trials + MORE_TRIALS)
    return _search(callbacks, replace(state, budget=state.budget.aim_at(aim_ms)), problem)


def _search(callbacks: SelectionCallbacks, state: SelectionState, problem: Problem) -> SelectionState:
    """Search; where nothing is predicted to reach what is aimed at, what was found before stands."""
    state = replace(state, problem=problem, turns=state.turns + 1)
    try:
        return replace(state, outcome=callbacks.search(problem))
    except NoFeasibleCandidate:
        return state


def _build_nothing_error(state: SelectionState) -> NoFeasibleCandidate:
    """The error for a budget that nothing measured meets: what came nearest, in words and ms.

    Of certificates that were not given, else of what was measured.
    """
    words, closest_ms = "", None
    if state.set_aside:
        nearest = min(state.set_aside, key=_compute_overshoot)
        words, closest_ms = f"; the closest: {nearest.reason}", _compute_overshoot(nearest) * nearest.budget_ms
    else:
        measured = [(b[1], c) for c in state.outcome.candidates if (b := state.compute_bounds_ms(c.architecture))]
        if measured:
            closest_ms, candidate = min(measured, key=lambda pair: pair[0])
            words = f"; the closest takes at most {closest_ms:.2f} ms ({candidate.architecture.words})"
    message = f"no measured candidate meets {state.budget.asked_ms:.2f} ms (p{state.problem.percentile}){words}"
    return NoFeasibleCandidate(f"{message}; raise the budget", state.budget.asked_ms, closest_ms)


def _compute_overshoot(certificate: Certificate) -> float:
    return max(1.0, certificate.judged_ms / certificate.budget_ms)

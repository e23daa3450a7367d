"""TPE over the knobs: what they do to losses, and that the exact solve makes architectures of them."""

import pytest
from test_methods import A0, A2, LOSS, M0, M1, M2, SPACE, problem

from nas.search.knobs import Knobs, propose
from nas.search.surrogate import Surrogate

LIBRARY = {unit.dropped: loss for unit, loss in LOSS.items()}
NEUTRAL = Knobs(attention=1.0, depth=0.0, exponent=1.0, pairs=1.0)


def test_neutral_knobs_bend_nothing() -> None:
    assert NEUTRAL.reweight(LIBRARY, 3) == pytest.approx(LIBRARY)


def test_every_knob_does_what_it_says() -> None:
    assert Knobs(2.0, 0.0, 1.0, 1.0).reweight(LIBRARY, 3)[A0.dropped] == pytest.approx(2 * LOSS[A0])
    assert Knobs(2.0, 0.0, 1.0, 1.0).reweight(LIBRARY, 3)[M0.dropped] == pytest.approx(LOSS[M0])
    deep = Knobs(1.0, 1.0, 1.0, 1.0).reweight(LIBRARY, 3)
    assert deep[M2.dropped] / LOSS[M2] == pytest.approx(2.718281828 * deep[M0.dropped] / LOSS[M0])
    flat = Knobs(1.0, 0.0, 0.5, 1.0).reweight(LIBRARY, 3)
    assert flat[M0.dropped] == pytest.approx(LOSS[M0])  # the largest
    assert flat[A2.dropped] == pytest.approx((LOSS[A2] * LOSS[M0]) ** 0.5)


def test_proposals_meet_the_budget_are_new_and_the_same_again() -> None:
    asked, surrogate = problem(6.5), Surrogate(SPACE.choices, LIBRARY)
    reported, known = [], {SPACE.parent}
    for _ in range(6):
        found = propose(asked, surrogate, 6.5, reported, known)
        if found is None:
            break
        assert found == propose(asked, surrogate, 6.5, reported, known)
        knobs, architecture = found
        assert asked.is_feasible(architecture)
        assert architecture not in known
        known.add(architecture)
        reported.append((knobs, asked.evaluate(architecture, None).loss))
    assert len(reported) >= 2
    assert any(architecture.drops(M1) or architecture.drops(M2) for architecture in known)


def test_nothing_new_is_none() -> None:
    asked, surrogate = problem(9.0), Surrogate(SPACE.choices, LIBRARY)
    everything = {SPACE.decode({unit}) for unit in SPACE.choices}
    everything |= {SPACE.decode({one, other}) for one in SPACE.choices for other in SPACE.choices}
    assert propose(asked, surrogate, 9.0, [], everything) is None

"""Level-switch evolution: other levels for a few units at a time, inside a latency band.

EvoPress (Sieberling et al., 2024) swaps one removed with one kept unit of the same kind, so that the size never
changes. Here units have measured costs, and any moves are allowed that end in a band under the budget. Of many
proposals, and of the exact solutions of the surrogate, the one is tried that the surrogate expects to lose least:
after an architecture with several other drops was accepted, everything around it is scored anew given those drops.
"""

import itertools
import random
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence, Set
from typing import NamedTuple

import numpy as np

from nas.search.greedy_removal import GreedyRemoval
from nas.search.problem import Problem
from nas.search.solve import solve
from nas.search.surrogate import Surrogate
from search_spaces.architecture import Architecture
from search_spaces.encoding import Rows
from search_spaces.space import is_empty
from search_spaces.unit import Choice

BAND = 0.90  # proposals use at least this share of the budget
NEARLY = 1.25  # times the budget
STEPS = 3
SPAN = 2  # times the ratios there are: steps that one switch changes at most
MAX_NEIGHBOURS = 1000  # neighbours looked at in a step
KEPT = 16  # neighbours of every step that may be proposed
ELITE = 3
SOLVED = 1  # solutions of the surrogate among the proposals
ROUNDING = 1e-9  # ms, so that what fits exactly is proposed


class LevelSwitch:
    """Proposes neighbours of the best feasible architectures; deterministic for (seed, trial number)."""

    def __init__(self, problem: Problem, descent: GreedyRemoval, budget_ms: float) -> None:
        """`descent` has the library and what was scored on its path; proposals stay just under `budget_ms`."""
        self._problem, self._descent, self._budget_ms = problem, descent, budget_ms
        self._savings = problem.estimate_savings()
        self._encoding = self._savings.encoding
        self._ms: dict[Architecture, float] = {}

    def propose(
        self, seen: Mapping[Architecture, float], running: Set[Architecture], turns: Sequence[int]
    ) -> list[Architecture]:
        """What the next trials should try.

        Args:
            seen: what was judged, with the losses; the parent included.
            running: what is being judged.
            turns: for each of the trials, how many go before it.
        """
        surrogate, taken = self.fit_surrogate(seen), {*seen, *running}
        starts = list(dict.fromkeys([*self._select_elite(seen), *self._solve(surrogate)]))
        proposed: list[Architecture] = []
        for turn in turns:
            proposed.append(self._propose_one(starts, surrogate, taken.union(proposed), turn))
        return proposed

    def _propose_one(
        self, starts: Sequence[Architecture], surrogate: Surrogate, taken: set[Architecture], turn: int
    ) -> Architecture:
        rng = random.Random(f"{self._problem.seed}/{turn}")
        proposals = [a for start in starts for a in self._climb(start, surrogate, rng)]
        fresh = [a for a in dict.fromkeys(proposals) if a not in taken]
        pool = [a for a in fresh if self._fits(a)] or fresh or [self._problem.space.sample(rng, 0.5)]
        # Mostly the most promising; now and then one of the next, so that the surrogate meets what it does not know.
        return surrogate.rank(pool)[min(len(pool) - 1, int(rng.expovariate(1.5)))]

    def _select_elite(self, seen: Mapping[Architecture, float]) -> list[Architecture]:
        """The best within the budget, and the best of those that are nearly: they need one drop more."""
        ranked = sorted(seen, key=lambda a: seen[a])
        within = [a for a in ranked if self._fits(a)]
        nearly = [a for a in ranked if not self._fits(a) and self._predict_latency(a) <= NEARLY * self._budget_ms]
        return within[:ELITE] + nearly[:1] or [self._problem.space.start]

    def fit_surrogate(self, seen: Mapping[Architecture, float]) -> Surrogate:
        """Fitted to all that was scored, on the items that all of it was scored on."""
        problem = self._problem
        few = {a: problem.evaluate(a, problem.rungs[0]).loss for a in seen if a.choices}
        known, start = list((self._descent.scored | few).items()), problem.start_loss()
        return Surrogate.fit(problem.space.choices, self._descent.library, known, start)

    def _solve(self, surrogate: Surrogate) -> list[Architecture]:
        """The exact solve again, with the pairs that were learned."""
        if not surrogate.pairs:
            return []
        needed = self._predict_latency(self._problem.space.start) - self._budget_ms
        library = self._descent.library
        limits = self._problem.limits
        return solve(self._problem.space, library, self._savings, needed, SOLVED, surrogate.pairs, limits)

    def _climb(self, start: Architecture, surrogate: Surrogate, rng: random.Random) -> list[Architecture]:
        """From a start by the switch that the surrogate likes best, until it likes none; what was best on the way."""
        current, path = start, [start]
        for _ in range(STEPS):
            near = self._find_nearest(current, surrogate, rng)
            path += near
            expected = surrogate.predict([current, *near[:1]])
            if not near or (expected[1] >= expected[0] and self._fits(current)):
                break
            current = near[0]
        return path

    def _find_nearest(self, current: Architecture, surrogate: Surrogate, rng: random.Random) -> list[Architecture]:
        """The neighbours that the surrogate expects to lose least, best first.

        Of a thousand rows the few that are kept become architectures; equals are in the order of their digests.
        """
        rows = self._list_neighbours(current, rng)
        assert surrogate.encoding.columns == self._encoding.columns
        expected = surrogate.predict_rows(rows)
        order = np.argsort(expected, kind="stable")
        kept: list[Architecture] = []
        for _, equals in itertools.groupby(order.tolist(), key=lambda position: expected[position]):
            near = [self._problem.space.decode(chosen) for chosen in self._encoding.decode(rows[list(equals)])]
            fitting = [a for a in near if a != current and not is_empty(a) and self._keeps_limits(a)]
            kept += sorted(fitting, key=lambda a: a.digest)
            if len(kept) >= KEPT:
                break
        return kept[:KEPT]

    def _list_neighbours(self, architecture: Architecture, rng: random.Random) -> Rows:
        """Those that differ by at most two choices out and two in, and whose estimated latency is in the band.

        All of them where there are not too many, else a random choice. The additive estimate around the architecture
        is used: the latency model is asked only about the few that are proposed, not about the thousands before them.
        """
        encoding, savings = self._encoding, self._savings
        row = encoding.encode_rows([architecture])[0]
        before = savings.compute(row[None])[0]
        out, into = self._list_restored(row), self._list_dropped(architecture, row)
        restored = before - savings.compute(row & ~out.sets)
        dropped = savings.compute(row & ~into.clears | into.sets) - before
        order = sorted(range(len(dropped)), key=lambda position: (dropped[position], into.switches[position]))
        ms = dropped[order].tolist()
        slack_ms = self._budget_ms + ROUNDING - self._predict_latency(architecture)
        band = (1 - BAND) * self._budget_ms if not self._problem.limits else self._budget_ms  # another row may bind
        share, neighbours = max(1, MAX_NEIGHBOURS // len(restored)), [row[None][:0]]
        for position, added in enumerate(restored.tolist()):
            first, last = bisect_left(ms, added - slack_ms), bisect_right(ms, added - slack_ms + band)
            positions = range(first, last) if last - first <= share else rng.sample(range(first, last), share)
            chosen = [order[more] for more in positions]
            neighbours.append(row & ~out.sets[position] & ~into.clears[chosen] | into.sets[chosen])
        space = self._problem.space
        rows = encoding.make_canonical(np.concatenate(neighbours), space.merges_blocks, len(space.parts))
        return _remove_duplicates(rows)

    def _list_restored(self, row: Rows) -> "_Switches":
        """Choices to take back, at most two, each with those that imply it."""
        positions = np.flatnonzero(row).tolist()
        return self._list_switches(positions, self._encoding.closure.T[positions] & row)

    def _list_dropped(self, architecture: Architecture, row: Rows) -> "_Switches":
        """Choices to make, at most two, each with those that it implies and in place of the unit's other level."""
        encoding = self._encoding
        other = np.asarray((encoding.alternatives & row).any(axis=1))
        positions = [
            position
            for position, choice in enumerate(encoding.columns)
            if not row[position] and (other[position] or not architecture.drops(choice))
        ]
        return self._list_switches(
            positions, encoding.closure[positions] & ~row, encoding.alternatives[positions] & row
        )

    def _list_switches(self, positions: list[int], changes: Rows, clears: Rows | None = None) -> "_Switches":
        """All pairs of those that do not change too many steps at once, every single one, and none."""
        columns, max_span = self._encoding.columns, max(1, SPAN * self._encoding.level_count)
        chosen = _list_at_most_two([n for n, change in enumerate(changes) if change.sum() <= max_span])
        sets, cleared = (np.zeros((len(chosen), len(columns)), dtype=bool) for _ in range(2))
        for at, which in enumerate(chosen):
            sets[at] = changes[list(which)].any(0)
            if clears is not None:
                cleared[at] = clears[list(which)].any(0)
        return _Switches([tuple(columns[positions[n]] for n in which) for which in chosen], sets, cleared)

    def _predict_latency(self, architecture: Architecture) -> float:
        if architecture not in self._ms:
            self._ms[architecture] = self._problem.predict_ms(architecture)
        return self._ms[architecture]

    def _fits(self, architecture: Architecture) -> bool:
        return self._predict_latency(architecture) <= self._budget_ms and self._keeps_limits(architecture)

    def _keeps_limits(self, architecture: Architecture) -> bool:
        return all(limit.is_met(architecture) for limit in self._problem.limits)


def _remove_duplicates(rows: Rows) -> Rows:
    """Each row once; compared as bits, which is quicker than truth value by truth value."""
    bits = np.packbits(rows, axis=1)
    whole = np.ascontiguousarray(bits).view(np.dtype((np.void, bits.shape[1]))).ravel()
    return rows[np.unique(whole, return_index=True)[1]]


class _Switches(NamedTuple):
    switches: list[tuple[Choice, ...]]
    sets: Rows  # the columns that each of them changes
    clears: Rows  # those that go in return


def _list_at_most_two(positions: Sequence[int]) -> list[tuple[int, ...]]:
    return [(), *((position,) for position in positions), *itertools.combinations(positions, 2)]

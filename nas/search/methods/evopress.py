"""EvoPress (Sieberling et al., 2024): evolution that swaps removed and kept parts of the same kind."""

import random
from dataclasses import dataclass

from nas.search.methods.method import RemovalOrder, compute_loss, is_possible, list_droppable
from nas.search.problem import Problem
from search_spaces.kinds import PARTS, Kind
from search_spaces.unit import Unit

INITIAL = 64
OFFSPRING = 32
SURVIVORS = 2  # of the first selection, on few items
FEW = 1 / 4  # of the items; published: 2,048 of 32,768 tokens, which here would be less than one window
MUTATIONS = 3


@dataclass(frozen=True)
class EvoPress:
    """Exactly k attentions and k MLPs removed, for the least k that meets the budget.

    64 random starts; then k(L - k)/1.5 generations of 32 offspring, each with min(U{1..3}, U{1..3}) swaps, of which
    two are chosen on few items and one, with its parent, on all. No latency in the objective, as published.
    """

    name: str = "evopress"

    def find_removal_order(self, problem: Problem) -> RemovalOrder | None:
        """The best found; what hurts least when it is restored comes first."""
        depth = problem.space.depth
        if len(list_droppable(problem.space, PARTS)) < 2 * depth:
            return None
        for k in range(1, depth + 1):
            first = _list_both(range(k))
            if is_possible(problem.space, first) and problem.is_feasible(problem.space.decode(first)):
                return self._find_order(problem, self._evolve(problem, k))
        return None

    def _evolve(self, problem: Problem, k: int) -> set[Unit]:
        rng, depth = random.Random(f"evopress/{problem.seed}"), problem.space.depth
        starts = [self._draw(rng, problem, k) for _ in range(INITIAL)]
        best = _select_best(problem, starts, FEW)[0]
        for _ in range(round(k * (depth - k) / 1.5)):
            offspring = [self._mutate(rng, problem, best) for _ in range(OFFSPRING)]
            chosen = [set(units) for units in dict.fromkeys(frozenset(units) for units in offspring)]
            survivors = _select_best(problem, chosen, FEW)[:SURVIVORS]
            best = _select_best(problem, [best, *survivors], 1.0)[0]
        return best

    def _draw(self, rng: random.Random, problem: Problem, k: int) -> set[Unit]:
        while True:
            layers = range(problem.space.depth)
            chosen = {Unit(layer, Kind.ATTENTION) for layer in rng.sample(layers, k)}
            chosen |= {Unit(layer, Kind.MLP) for layer in rng.sample(layers, k)}
            if is_possible(problem.space, chosen) and problem.is_feasible(problem.space.decode(chosen)):
                return chosen

    def _mutate(self, rng: random.Random, problem: Problem, parent: set[Unit]) -> set[Unit]:
        child = set(parent)
        for _ in range(min(rng.randint(1, MUTATIONS), rng.randint(1, MUTATIONS))):
            kind = rng.choice(PARTS)
            removed = sorted(unit for unit in child if unit.kind is kind)
            kept = [Unit(layer, kind) for layer in range(problem.space.depth) if Unit(layer, kind) not in child]
            if kept:
                child = child - {rng.choice(removed)} | {rng.choice(kept)}
        fits = is_possible(problem.space, child) and problem.is_feasible(problem.space.decode(child))
        return child if fits else set(parent)

    def _find_order(self, problem: Problem, dropped: set[Unit]) -> RemovalOrder:
        problem.prefetch([(problem.space.decode(dropped - {unit}), problem.fidelity) for unit in sorted(dropped)])
        gains = {unit: compute_loss(problem, dropped - {unit}) for unit in sorted(dropped)}
        return tuple(sorted(gains, key=lambda unit: (-gains[unit], unit)))


def _list_both(layers: range) -> set[Unit]:
    return {Unit(layer, kind) for layer in layers for kind in PARTS}


def _select_best(problem: Problem, candidates: list[set[Unit]], share: float) -> list[set[Unit]]:
    """The candidates by loss on a share of the items, least first."""
    items = problem.fidelity if problem.fidelity is None else max(1, round(share * problem.fidelity))
    problem.prefetch([(problem.space.decode(units), items) for units in candidates])

    def compute_loss(units: set[Unit]) -> float:
        return problem.evaluate(problem.space.decode(units), items).loss

    return sorted(candidates, key=lambda units: (compute_loss(units), sorted(units)))

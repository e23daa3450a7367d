"""The contract of a published method, and how its result is brought to a budget."""

from typing import Protocol

from nas.search.problem import Problem
from search_spaces.architecture import Architecture
from search_spaces.kinds import Kind
from search_spaces.space import Space, is_empty
from search_spaces.unit import Unit

RemovalOrder = tuple[Unit, ...]  # what a method drops, first dropped first


class Method(Protocol):
    """A drop method from the literature, run to a latency budget.

    Example:
        >>> order = METHODS["cosine-block"].find_removal_order(problem)
    """

    @property
    def name(self) -> str:
        """What `--method` calls it."""

    def find_removal_order(self, problem: Problem) -> RemovalOrder | None:
        """The units it drops, in its order; dropping all of them meets the budget. None where it cannot.

        Losses are asked of `problem.evaluate` on `problem.fidelity` items.
        """


class TokenMethod(Protocol):
    """A method from the literature that drops tokens, run to a latency budget.

    Example:
        >>> architecture = TOKEN_METHODS["pyramiddrop"].choose_architecture(problem)
    """

    @property
    def name(self) -> str:
        """What `--method` calls it."""

    def choose_architecture(self, problem: Problem) -> Architecture | None:
        """Its choice, which meets the budget; None where it cannot. Its ratios need not be those of the space."""


class WidthMethod(Protocol):
    """A method from the literature that narrows parts, run to a latency budget.

    Example:
        >>> architecture = WIDTH_METHODS["flap"].choose_architecture(problem)
    """

    @property
    def name(self) -> str:
        """What `--method` calls it."""

    @property
    def criterion(self) -> str:
        """By which what stays of a part is chosen (`pruning.analysis.criteria`)."""

    def choose_architecture(self, problem: Problem) -> Architecture | None:
        """Its choice, which meets the budget; None where it cannot. Its widths need not be those of the space."""


def drop_as_published(problem: Problem, order: RemovalOrder) -> Architecture:
    """Everything the method dropped: the last unit usually overshoots the budget."""
    return problem.space.decode(order)


def add_back(problem: Problem, order: RemovalOrder) -> Architecture:
    """The same, after restoring what still fits, last dropped first."""
    dropped = set(order)
    for unit in reversed(order):
        candidate = problem.space.decode(dropped - {unit})
        if candidate != problem.space.decode(dropped) and problem.is_feasible(candidate):
            dropped.discard(unit)
    return problem.space.decode(dropped)


def find_shortest_feasible(problem: Problem, ranking: RemovalOrder) -> RemovalOrder | None:
    """The shortest beginning of a ranking that meets the budget; None if none does or a unit may not go."""
    space = problem.space
    for end in range(1, len(ranking) + 1):
        architecture = space.decode(set(ranking[:end]))
        if not space.contains(architecture):
            return None
        if problem.is_feasible(architecture):
            return ranking[:end]
    return None


def list_droppable(space: Space, kinds: tuple[Kind, ...]) -> tuple[Unit, ...]:
    """The units of these kinds that the space can drop; a block also where it is its attention and MLP."""
    every = [Unit(layer, kind) for layer in range(space.depth) for kind in kinds]
    return tuple(unit for unit in every if space.contains(space.decode({unit})))


def compute_loss(problem: Problem, dropped: set[Unit]) -> float:
    """Validation loss on as many items as every method is given."""
    architecture = problem.space.decode(dropped)
    return 0.0 if not architecture.choices else problem.evaluate(architecture, problem.fidelity).loss


def is_possible(space: Space, dropped: set[Unit]) -> bool:
    """Whether a model is left, and one that the space has."""
    architecture = space.decode(dropped)
    return not is_empty(architecture) and space.contains(architecture)

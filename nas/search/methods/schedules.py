"""Published token schedules, each with one knob that is turned until the budget is met."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from latency_models.workload import Phase
from nas.search.problem import Problem
from search_spaces.architecture import Architecture
from search_spaces.errors import ArchitectureError, UsageError
from search_spaces.level import THOUSAND, round_to_permille
from search_spaces.presets import build_fastv, build_pyramiddrop, build_tome
from search_spaces.schedule import Schedule, Scorer, Stage
from search_spaces.space import is_empty

CONTROL = "random-tokens"
Family = Callable[[Problem, float], Schedule]  # a share of tokens in (0, 1): the larger, the more are left


@dataclass(frozen=True)
class Swept:
    """A family of schedules: of those that meet the budget the one that leaves most tokens. All parts stay."""

    name: str
    family: Family
    merges: bool = False

    def choose_architecture(self, problem: Problem) -> Architecture | None:
        """The parent with that schedule; None where none fits, or where attention is causal and tokens would merge."""
        return (
            None
            if self.merges and is_causal(problem)
            else find_max_tokens(problem, partial(self.build_schedule, problem))
        )

    def build_schedule(self, problem: Problem, permille: int) -> Schedule | None:
        """The member of the family at a setting; None where there are too few blocks, or ratios round to nothing."""
        try:
            return self.family(problem, permille / THOUSAND)
        except (ArchitectureError, UsageError):
            return None


def find_max_tokens(
    problem: Problem, schedule: Callable[[int], Schedule | None], structure: Architecture | None = None
) -> Architecture | None:
    """The largest setting from 1 to 999 whose schedule meets the budget, by halving; None where none does.

    Args:
        structure: what the schedule comes on top of; all parts by default.
    """
    start = structure or Architecture(problem.space.depth)
    best, low, high = None, 0, THOUSAND
    while high - low > 1:
        middle = (low + high) // 2
        candidate = schedule(middle)
        architecture = None if candidate is None else start.replace_tokens(candidate)
        if architecture is None or problem.is_feasible(architecture):
            best, low = architecture or best, middle
        else:
            high = middle
    return best


def list_published_schedules(problem: Problem, structure: Architecture) -> list[tuple[str, Architecture]]:
    """The published schedules on some structure, with the space's own strategy; as many tokens as meet the budget.

    Their ratios need not be among the space's; they are at the ends of the target's steps.
    """
    reduction = problem.space.reduction
    if reduction is None:
        return []

    def choose_schedule(method: Swept, permille: int) -> Schedule | None:
        schedule = method.build_schedule(problem, permille)
        return None if schedule is None else replace(snap_to_target(problem, schedule), reduction=reduction)

    brought = {
        method.name: find_max_tokens(problem, partial(choose_schedule, method), structure)
        for method in SWEPT
        if method.name != CONTROL
    }
    return [(name, architecture) for name, architecture in brought.items() if architecture is not None]


def fit_to_budget(problem: Problem, architecture: Architecture) -> Architecture | None:
    """An architecture with as many tokens in its stages as meet the budget; None where none do, or without stages.

    Its ratios are raised to one power: below 1 for more tokens, above it for fewer.
    """
    schedule = architecture.tokens
    if not schedule.stages or problem.space.reduction is None:
        return None

    def raise_setting(permille: int) -> Schedule | None:
        power = (THOUSAND - permille) / permille
        ratios = [stage.ratio**power for stage in schedule.stages]
        if min(ratios) * THOUSAND < 1:
            return None
        stages = (Stage(s.block, round_to_permille(ratio)) for s, ratio in zip(schedule.stages, ratios, strict=True))
        return snap_to_target(problem, Schedule(tuple(stages), schedule.reduction))

    return find_max_tokens(problem, raise_setting, architecture.structure)


def exchange_parts_for_tokens(problem: Problem, architecture: Architecture) -> list[Architecture]:
    """Parts for tokens: one part more dropped, or one brought back, and as many tokens as then meet the budget."""
    space, structure = problem.space, architecture.structure
    fewer = [space.make_canonical(architecture.drop(each)) for each in space.structure if not structure.drops(each)]
    more = [architecture.restore(each) for each in sorted(structure.choices)]
    fitted = dict.fromkeys(fit_to_budget(problem, each) for each in (*fewer, *more) if not is_empty(each))
    return [each for each in fitted if each is not None]


def snap_to_target(problem: Problem, schedule: Schedule) -> Schedule:
    """The schedule that leaves most tokens among those that take as long; stages that then drop nothing are gone."""
    stages, min_share = list[Stage](), THOUSAND
    for stage in schedule.stages:
        permille = round_to_permille(problem.snap(stage.ratio))
        if permille < min_share:
            stages.append(Stage(stage.block, permille))
            min_share = permille
    return Schedule(tuple(stages), schedule.reduction)


def is_causal(problem: Problem) -> bool:
    """Whether a decoder reads a prompt: the only phase in which one drops tokens."""
    return problem.latency.workload.phase is not Phase.FORWARD


def _build_pyramid(problem: Problem, share: float) -> Schedule:
    """PyramidDrop (Xing et al. 2025): at the quarter points powers of one ratio, in the paper a half."""
    ratios, scorer = (share, share**2, share**3), problem.reduction.scorer
    return build_pyramiddrop(problem.space.depth, ratios, causal=is_causal(problem), scorer=scorer)


def _build_chance(problem: Problem, share: float) -> Schedule:
    """The control: the same schedule, and chance ranks."""
    schedule = _build_pyramid(problem, share)
    return replace(schedule, reduction=replace(schedule.reduction, scorer=Scorer.RANDOM))


def _build_fastv(problem: Problem, share: float) -> Schedule:
    """FastV (Chen et al. 2024): once, after two blocks."""
    return build_fastv(
        min(2, problem.space.depth - 1), share, causal=is_causal(problem), scorer=problem.reduction.scorer
    )


def _build_tome(problem: Problem, share: float) -> Schedule:
    """ToMe (Bolya et al. 2023): every block merges the same number of tokens, at most half of its own."""
    return build_tome(problem.space.depth, 1 - share)


SWEPT = (
    Swept("pyramiddrop", _build_pyramid),
    Swept(CONTROL, _build_chance),
    Swept("fastv", _build_fastv),
    Swept("tome", _build_tome, merges=True),
)

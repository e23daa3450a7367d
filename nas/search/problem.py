"""What is searched, for what, with how much effort."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from latency_models.model import LatencyModel
from nas.quality.quality import Quality
from nas.search.channels import Channels
from nas.search.limit import Limit
from nas.search.savings import Savings, compute_overlaps
from pruning.analysis.redundancy import Redundancy
from search_spaces.architecture import Architecture
from search_spaces.schedule import Reduction
from search_spaces.space import Space
from search_spaces.unit import Choice

Asked = tuple[Architecture, int | None]  # on the first items, or on all with None
Evaluate = Callable[[Architecture, int | None], Quality]

ENGINE = "nas"  # the method that is none of the published ones
SCORING, REMOVING, IN_FULL = (
    "scoring each part alone",
    "dropping one part after another",
    "evaluating the best on all items",
)


def _ignore_message(trial: int, note: str) -> None:
    """Nobody is told."""


def _ignore_trial(phase: str, done: float, total: float) -> None:
    """Nobody is told."""


def skip_prefetch(asked: Sequence[Asked]) -> None:
    """Each is computed when it is asked for."""


def keep_ratio(ratio: float) -> float:
    """Any share of tokens has a latency of its own."""
    return ratio


@dataclass(frozen=True)
class Problem:
    """One search.

    Attributes:
        evaluate: the validation quality of an architecture on the first items, or on all with None.
        latency: predicts ms; `percentile` is the one that must meet `budget_ms`.
        prefetch: gets what will be asked for next, all of it at once, so that several machines can share the work. What
            is asked for does not depend on whether anybody listens.
        redundancy: of the parent; orders the one-shot baselines.
        rungs: growing numbers of validation items. A candidate that is clearly worse than the best stops at an early
            one, the others at the last but one; the choice among those left is made on the last, all there are.
        storage: URL of the study's database.
        method: `nas`, or the name of a published method (`nas.search.methods`), which is then run instead.
        front: more budgets in ms: the best at each is looked for in the same study.
        limits: what else a feasible architecture keeps to.
        reduction: how tokens are usually chosen in this model, for published schedules.
        flops: the arithmetic of an architecture, for methods that count that.
        snap: the largest share of tokens that takes no longer than a share (`Staircase.snap`), for our own schedules.
        trials: at most, for each budget.
        batch: trials that are proposed together, none knowing how the others end, and evaluated at once. It is not the
            number of machines: the same batch finds the same winner on any number of them.
        patience: trials without a better one, after which a budget is settled; half as many where there are more
            budgets, which learn from each other.
        max_tied: candidates that are judged on all items together, at most, where fewer items do not tell them apart.
        channels: what counts of the parts that can be narrowed, for published methods that narrow.
        removes_blocks: whether a step of greedy removal may be a whole block, too, where the space only has its parts.
        on_trial: told how many trials ended since the last call, and the best so far.
        on_phase: told, of the work before and after the trials, its name, how much of it is done and how much there is.

    Example:
        >>> problem = Problem(space, evaluate, latency, budget_ms, 90, redundancy, "sqlite:///study.db", rungs=(8, 32))
        >>> winner = run_search(problem).winner
    """

    space: Space
    evaluate: Evaluate
    latency: LatencyModel
    budget_ms: float
    percentile: int
    redundancy: Redundancy
    storage: str
    rungs: tuple[int | None, ...] = (None,)
    study: str = "nas"
    method: str = ENGINE
    front: tuple[float, ...] = ()
    limits: tuple[Limit, ...] = ()
    reduction: Reduction = field(default_factory=Reduction)
    flops: Callable[[Architecture], float] | None = None
    snap: Callable[[float], float] = keep_ratio
    trials: int = 48
    batch: int = 1
    patience: int = 12
    time_limit_s: float | None = None
    seed: int = 0
    finalists: int = 4
    max_tied: int = 16
    channels: tuple[Channels, ...] = ()
    removes_blocks: bool = False
    prefetch: Callable[[Sequence[Asked]], None] = skip_prefetch
    on_trial: Callable[[int, str], None] = _ignore_message
    on_phase: Callable[[str, float, float], None] = _ignore_trial
    _ms: dict[Architecture, float] = field(default_factory=dict, init=False, compare=False, repr=False)

    @property
    def fidelity(self) -> int | None:
        """The items on which trials and published methods compare: those of the last rung but one."""
        return self.rungs[max(0, len(self.rungs) - 2)]

    @property
    def settled_after(self) -> int:
        """Trials without a better one, after which a budget is settled."""
        return self.patience // 2 if self.front else self.patience

    def predict_ms(self, architecture: Architecture) -> float:
        """Predicted latency at the asked percentile; asked of the latency model once."""
        if architecture not in self._ms:
            self._ms[architecture] = self.latency.predict(architecture, self.percentile).ms
        return self._ms[architecture]

    def is_feasible(self, architecture: Architecture) -> bool:
        """Whether the prediction meets the budget, and the limits are kept."""
        return self.meets(architecture, self.budget_ms)

    def meets(self, architecture: Architecture, budget_ms: float) -> bool:
        """The same for another budget."""
        return self.predict_ms(architecture) <= budget_ms and all(limit.is_met(architecture) for limit in self.limits)

    def start_loss(self) -> float:
        """The loss, on the first rung, of where the search starts: nothing, but for a schedule that is fixed."""
        return 0.0 if self.space.fixed is None else self.evaluate(self.space.start, self.rungs[0]).loss

    def estimate_savings(self) -> Savings:
        """What choices save from where the search starts, as an estimate at the asked percentile."""
        start = self.space.start
        tail = self.predict_ms(start) / self.latency.predict(start, 50).ms  # the latency model's own are medians
        choices = self.space.choices
        saved = self.latency.predict_savings(choices, self.space.reduction)
        if self.space.fixed is not None:  # parts do less work on fewer tokens
            saved = {
                each: self._predict_median(start) - self._predict_median(self.space.decode({each})) for each in choices
            }
        alone = {each: tail * saved[each] for each in choices}
        return Savings(alone, compute_overlaps(self.space, alone, self.latency))

    def estimate_saved_ms(self) -> dict[Choice, float]:
        """What each choice saves: of a part, made alone; of a cumulative one, beyond those that it implies."""
        return self.estimate_savings().alone

    def _predict_median(self, architecture: Architecture) -> float:
        return self.latency.predict(architecture, 50).ms

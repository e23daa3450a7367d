"""Searches on a synthetic device that other work keeps busy: how many end in a winner that the budget did not ask for.

The choice by measurement is the tool's own, protocol included; only files, models and time are made up. A sample of a
busy machine takes longer by the time slices that other processes get meanwhile, which are as long for a small file as
for a large one: ratios are wrong then, too, and only the spread of the parent's own latency tells.
"""

import itertools
import math
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from torch import nn

from latency.accuracy import format_markdown
from latency_models.calibrated import CalibratedModel
from latency_models.measurement import Measurement
from latency_models.profile import Profile, Record
from latency_models.run_plan import Measured
from latency_models.runner.measure import Clock, measure
from latency_models.shape import ModelShape
from latency_models.targets import find_target
from latency_models.workload import Workload
from nas.certification import run as finalists
from nas.certification.run import CertificationRun
from nas.certification.selection import AIM
from nas.profiling.effort import Effort
from nas.progress import Silent
from nas.quality import Quality
from nas.request.quantities import Budget
from nas.request.search_request import SearchRequest
from nas.search import Candidate, Problem, SearchOutcome
from search_spaces import Architecture, Kind, Space, Unit
from search_spaces.architecture import drop_from_parent
from search_spaces.errors import NasError, NoFeasibleCandidate

DEPTH, SESSIONS, PERCENTILE = 4, 2, 90
HERE = Workload.parse("forward")
KEY = {"device": "synthetic", "runtime": "none", "precision": "fp32", "threads": "1", "power_mode": "one"}
UNITS = tuple(Unit(layer, kind) for layer in range(DEPTH) for kind in (Kind.ATTENTION, Kind.MLP))
EVERY = [drop_from_parent(DEPTH, units) for n in range(len(UNITS)) for units in itertools.combinations(UNITS, n)]
PARENT = Architecture.parent(DEPTH)
SHAPE = ModelShape(DEPTH, 8, 1, 1, 8, 16, False, 0, False, False, 8, (None,) * DEPTH)
FRACTION = 0.5
P90 = 1.2815515655446004
SLICE_MS = 3.0  # that another process gets at a time
EXPORT_S, SEARCH_S, PROFILE_S = 10.0, 30.0, 20.0
BROKEN = 1.02  # of what was asked for
WASTED, LOST = 0.8, 1.1  # a winner below this share of the budget that loses so many times what is possible: a ruin
LOADS = ("idle", "short bursts", "long bursts", "a job of minutes", "from now on")
BURSTS = {"short bursts": (3.0, 1.0), "long bursts": (40.0, 20.0)}  # mean seconds idle and busy


@dataclass
class Machine:
    """Time that passes with every sample, and other work that comes and goes in it.

    Attributes:
        load: one of LOADS; `severity` is how many slices the others get for each of ours.
        busy, until_s: whether others run, and when that changes.
    """

    load: str
    severity: float
    rng: random.Random
    level: float = 1.0
    s: float = 0.0
    busy: bool = False
    until_s: float = math.inf

    def __post_init__(self) -> None:
        if self.load in BURSTS:
            self.until_s = 0.0

    def begin(self) -> None:
        """The search begins, and with it what is no burst."""
        if self.load not in BURSTS:
            self.busy = self.load in LOADS[3:]
            self.until_s = self.s + self.rng.uniform(120, 600) if self.load == LOADS[3] else math.inf

    def pass_time(self, seconds: float) -> None:
        """Time without a sample."""
        self.s += seconds
        self._turn()

    def run(self, ms: float) -> None:
        """One inference."""
        took, elapsed = ms * self.level * math.exp(0.02 * self.rng.gauss(0, 1)), 0.0
        while self.busy and (elapsed := elapsed + self.rng.expovariate(self.severity / SLICE_MS)) < ms:
            took += self.rng.expovariate(1 / SLICE_MS)
        self.pass_time(took / 1e3)

    def _turn(self) -> None:
        while self.s >= self.until_s:
            self.busy = not self.busy
            mean_s = BURSTS[self.load][self.busy] if self.load in BURSTS else math.inf
            self.until_s += self.rng.expovariate(1 / mean_s) if math.isfinite(mean_s) else mean_s


class StandIn(nn.Module):
    """A model without weights that knows which architecture it stands for."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture


@dataclass
class Device:
    """True medians that units do not wholly explain, measured on such a machine."""

    seed: int
    load: str
    median: dict[Architecture, float] = field(init=False)
    loss: dict[Architecture, float] = field(init=False)
    machine: Machine = field(init=False)
    files: dict[Path, Architecture] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rng = random.Random(self.seed)
        saves = {unit: rng.uniform(0.5, 1.5) for unit in UNITS}
        weight = {unit: rng.uniform(0.5, 1.5) for unit in UNITS}
        self.loss = {a: sum(weight[c.unit] for c in a.choices) ** 1.5 * rng.uniform(0.9, 1.1) for a in EVERY}
        self.median = {
            a: (1.5 + sum(ms for unit, ms in saves.items() if not a.drops(unit))) * math.exp(0.04 * rng.gauss(0, 1))
            for a in EVERY
        }
        self.machine = Machine(self.load, rng.uniform(0.5, 3.0), rng)

    def profile(self) -> Profile:
        rng = random.Random(self.seed + 1)
        return self._measure_profile([*rng.sample(EVERY[1:], 18), EVERY[-1]], Effort(PROFILE_S, 10))

    def measure(self, architectures: Sequence[Architecture], effort: Effort) -> Profile:
        return self._measure_profile(architectures, effort)

    def export(self, model: "StandIn", folder: Path) -> Path:
        architecture = model.architecture
        self.machine.pass_time(EXPORT_S)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{architecture.digest}.onnx"
        path.write_bytes(b"")
        self.files[path] = architecture
        return path

    def compare(self, file: Path, effort: Effort) -> Measured:
        taken = self._run_sessions({"parent": PARENT, "winner": self.files[file]}, "parent", effort)
        return Measured(KEY, taken)

    def _measure_profile(self, architectures: Sequence[Architecture], effort: Effort) -> Profile:
        named = {a.digest: a for a in (PARENT, *architectures)}
        taken = self._run_sessions(named, PARENT.digest, effort)
        return Profile(KEY, "digest", SHAPE, HERE, tuple(Record(named[name], taken[name]) for name in named))

    def _run_sessions(
        self, named: Mapping[str, Architecture], sentinel: str, effort: Effort
    ) -> dict[str, Measurement]:  # fmt: skip
        """As the runner does it: the same protocol, each session on a machine of a level of its own."""
        limit, parts = getattr(effort, "limit_s", None), []
        for _ in range(SESSIONS):
            self.machine.level = math.exp(0.03 * self.machine.rng.gauss(0, 1))
            calls = {name: (lambda ms=self.median[a]: self.machine.run(ms)) for name, a in named.items()}
            parts.append(
                measure(
                    calls, sentinel=sentinel, seconds=effort.seconds / SESSIONS,
                    min_rounds=math.ceil(effort.min_rounds / SESSIONS), seed=self.machine.rng.randrange(1 << 30),
                    clock=Clock(self._draw_ns, self._draw_ns),
                    **({} if limit is None else {"limit_s": limit / SESSIONS}),
                )
            )  # fmt: skip
        return {
            name: Measurement(
                tuple(ms for part in parts for ms in part[name].samples_ms), HERE,
                tuple(ms for part in parts for ms in part[name].sentinel_ms),
                tuple(len(part[name].samples_ms) for part in parts),
            )
            for name in named
        }  # fmt: skip

    def _draw_ns(self) -> int:
        return round(1e9 * self.machine.s)

    def search(self, problem: Problem) -> SearchOutcome:
        """All there is, judged."""
        self.machine.pass_time(SEARCH_S)
        candidates = tuple(
            Candidate(
                a, Quality("kl", self.loss[a], False, "validation", self.loss[a]), problem.predict_ms(a), "all", 0, True
            )
            for a in EVERY
        )
        ranked = sorted((c for c in candidates if problem.is_feasible(c.architecture)), key=lambda c: c.quality.loss)
        if not ranked:
            raise NoFeasibleCandidate("none")
        return SearchOutcome(candidates[0], tuple(ranked), candidates, {}, 0, 0.0)


@dataclass(frozen=True)
class Found:
    """How a search ended: certified, predicted, or without a winner.

    Attributes:
        share: of the budget that the winner truly takes; `loss` over the least that is possible within what is aimed
            at: one that takes all but a hundredth cannot be shown to be inside.
        minutes: of measuring, exporting, searching and waiting.
    """

    load: str
    end: str
    share: float
    loss: float
    minutes: float

    @property
    def ruined(self) -> bool:
        return self.end == "certified" and self.share < WASTED and self.loss > LOST

    @property
    def broken(self) -> bool:
        return self.end == "certified" and self.share > BROKEN


def run_search(seed: int, load: str, fraction: bool = True) -> Found:
    """One search for half of the parent, as a fraction or in the milliseconds of the idle machine."""
    device = Device(seed, load)
    tail = math.exp(P90 * 0.02)
    asked_ms = FRACTION * device.median[PARENT] * (1.0 if fraction else 1.03 * tail)  # room for how sessions differ
    true = {a: ms * (1.0 if fraction else tail) for a, ms in device.median.items()}
    model = CalibratedModel(device.profile())
    device.machine.begin()
    began_s = device.machine.s
    with tempfile.TemporaryDirectory() as folder, _replace_models(device):
        budget = Budget.parse(f"{FRACTION}x" if fraction else f"{asked_ms:.6f}ms")
        request = SearchRequest("host", budget, Path(folder), percentile=PERCENTILE)
        parent: Any = SimpleNamespace(model=None, anatomy=None, shape=SHAPE)
        context: Any = SimpleNamespace(
            request=request,
            parent=parent,
            target=find_target("host"),
            workload=HERE,
            device=device,
            builder=SimpleNamespace(build=StandIn),
        )
        certification = CertificationRun(context, Silent())
        certification.wait.now, certification.wait.sleep = (lambda: device.machine.s), device.machine.pass_time
        problem = Problem(
            space=Space.dropping(DEPTH, UNITS),
            evaluate=lambda a, items: Quality("kl", device.loss[a], False, "validation", 0),
            latency=model, budget_ms=budget.resolve(model.predict(PARENT, PERCENTILE).ms), percentile=PERCENTILE,
            redundancy=None, storage="",
        )  # type: ignore[arg-type]  # fmt: skip
        try:
            _, _, certificate = certification.run(problem)
        except NasError as error:
            end = "nothing" if isinstance(error, NoFeasibleCandidate) else "busy, nothing"
            return Found(load, end, math.nan, math.nan, (device.machine.s - began_s) / 60)
    min_loss = min(device.loss[a] for a in EVERY if true[a] <= AIM * asked_ms)
    winner = certificate.architecture
    return Found(
        load, "certified" if certificate.certified else "predicted", true[winner] / asked_ms,
        device.loss[winner] / min_loss, (device.machine.s - began_s) / 60,
    )  # fmt: skip


@contextmanager
def _replace_models(device: Device) -> Iterator[None]:
    """The certification run with architectures in place of models."""
    with (
        patch.object(finalists, "run_search", device.search),
        patch.object(finalists, "list_versions", dict),
    ):
        yield


def run(searches: int, fraction: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Searches under every load in turn."""
    done = []
    for seed in range(searches):
        done.append(run_search(seed, LOADS[seed % len(LOADS)], fraction))
        say(f"{seed + 1} of {searches}: {done[-1]}")
    return {
        "fraction": fraction,
        "searches": [asdict(one) | {"ruined": one.ruined, "broken": one.broken} for one in done],
    }


def format_table(document: dict[str, Any]) -> str:
    """A row for each load, then all together."""
    rows = []
    for load in (*LOADS, "all"):
        searches = [one for one in document["searches"] if load in (one["load"], "all")]
        ends = Counter(one["end"] for one in searches)
        losses = sorted(one["loss"] for one in searches if one["end"] == "certified")
        rows.append((
            load, str(len(searches)), str(ends["certified"]), str(sum(one["ruined"] for one in searches)),
            str(sum(one["broken"] for one in searches)), str(ends["predicted"]),
            str(ends["nothing"] + ends["busy, nothing"]), f"{losses[len(losses) // 2]:.3f}" if losses else "",
            f"{max((one['minutes'] for one in searches), default=0):.1f}",
        ))  # fmt: skip
    header = ("load", "searches", "certified", "ruined", "above the budget", "too busy: predicted", "no winner",
              "median loss over the least", "longest, min")  # fmt: skip
    return format_markdown(header, rows)


def draw_figure(document: dict[str, Any], path: Path) -> None:
    """What certified winners take of their budget, by load."""
    from latency.drawing import draw_bars

    certified = [one for one in document["searches"] if one["end"] == "certified"]
    names = [str(number) for number in range(1, len(certified) + 1)]
    draw_bars(names, {"share": [one["share"] for one in certified]}, "of the budget", "Winners on a busy machine", path)

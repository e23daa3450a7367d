"""Drops and formats searched together against formats alone, drops alone, and one after the other; on this machine.

    python experiments/benchmarks/precision.py run --model python-lm --out python-lm.json
    python experiments/benchmarks/precision.py run --workload decode:batch=1,past=512 --out decode.json
    python experiments/benchmarks/precision.py report python-lm.json [...] [--figure docs/images/precision.png]

Every row chooses, for each fraction of the parent's latency, by the validation split and the latency model of this
machine. What was chosen is measured, which corrects the latency model, and everybody searches and chooses again. That
is judged on the test split, compensated with all calibration items, and measured, all rows interleaved with the
parent. A file is written after each step, so that a run can be continued. On a slow machine --trials, --items,
--calibration and --test make a run shorter, for every row alike; the table says so.

    joint               drops and formats in one search
    drops               drops alone
    drops, then FORMAT  what the search of drops found, in one format throughout (the usual sequence)
    sensitivity         loss of each level alone per millisecond, added up and solved exactly (AutoQuantize's rule, with
                        milliseconds in place of bits, and drops among the levels)
    FORMAT              the parent in one format throughout
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from precision_report import draw, report

from latency_models.measurement import Measurement
from latency_models.profile import Record
from latency_models.workload import Workload
from nas.certification.search_context import SearchContext
from nas.pipeline.prepare import prepare
from nas.pipeline.problem import build_problem
from nas.profiling.effort import Effort
from nas.progress import Silent
from nas.quality import Quality
from nas.request.choices import SEARCH
from nas.request.quantities import Budget
from nas.request.search_request import SearchRequest
from nas.search import Candidate, Problem, run_search
from nas.search.library import score_library
from nas.search.solve import solve
from pruning.analysis.redundancy import measure_redundancy
from pruning.compensation.candidate_builder import CandidateBuilder
from search_spaces.architecture import Architecture
from search_spaces.level import DROP
from search_spaces.space import Space
from search_spaces.unit import Choice, find_kind
from search_spaces.weight_formats import FORMATS

SHARES = (0.75, 0.5, 0.35)
FLAGS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
_AXIS = "bits"
_STEPS = 12  # of a few per cent each, until the exact solve's sum is within the budget by the latency model, too
FIRST = "first "  # of steps before the latency model was corrected
Document = dict[str, Any]
Pools = dict[str, list[Document]]


@dataclass(frozen=True)
class Steps:
    """What was done, in a file that is written after each step."""

    path: Path
    document: Document

    @classmethod
    def open(cls, path: Path) -> "Steps":
        return cls(path, json.loads(path.read_text()) if path.exists() else {})

    def keep(self, key: str, make: Callable[[], Any]) -> Any:
        """What a step made, now or in an earlier run."""
        if key not in self.document:
            self.document[key] = make()
            self.path.write_text(json.dumps(self.document, indent=1) + "\n")
            print(f"{key}: done", file=sys.stderr, flush=True)
        return self.document[key]


@dataclass(frozen=True)
class Bench:
    """A parent on this machine, with everything that the rows choose from."""

    context: SearchContext
    problem: Problem
    shares: tuple[float, ...]

    @property
    def parent_ms(self) -> float:
        return self.problem.predict_ms(self.problem.space.parent)

    @property
    def formats(self) -> list[str]:
        """Those that are fast here."""
        return sorted({name_format(choice) for choice in self.problem.space.choices} - {""})

    @property
    def drops(self) -> Space:
        """Drops alone."""
        space = self.problem.space
        return replace(space, choices=tuple(choice for choice in space.choices if choice.level == DROP))

    def fits(self, architecture: Architecture, share: float) -> bool:
        return self.problem.predict_ms(architecture) <= share * self.parent_ms + 1e-9

    def evaluate_on_test(self, architecture: Architecture, calibration: int | None, items: int | None) -> Quality:
        """The quality on the first items of the test split, adjusted with the first calibration items; None for all."""
        context, plan = self.context, self.context.builder.plan
        assert plan is not None, "what is compared is adjusted"
        few = {name: value[:calibration] for name, value in plan.final.items()}
        builder = CandidateBuilder(context.parent.model, context.parent.anatomy, replace(plan, final=few))
        return context.cached_evaluator.evaluator.evaluate(builder.build(architecture), "test", items)

    def learn(self, measured: list[Document]) -> "Bench":
        """The same with a latency model that knows these measurements, too."""
        latency = self.problem.latency
        assert latency.profile is not None, "this machine was measured"
        records = tuple(
            Record(Architecture.from_words(each["words"]), Measurement.from_json(each["measurement"]))
            for each in measured
        )
        corrected = latency.refit(latency.profile.add_records(records))
        return replace(self, problem=replace(self.problem, latency=corrected))

    def quantise(self, architecture: Architecture, name: str) -> Architecture:
        """Everything that is left of an architecture in one format."""
        found = (choice for choice in self.context.parent.anatomy.choices if name_format(choice) == name)
        left = [each for each in found if architecture.runs(each.layer, each.kind)]
        return architecture.drop(*left)


def name_format(choice: Choice) -> str:
    """The format of a choice; nothing where it chooses none."""
    value = choice.level.get_value(_AXIS)
    return "" if value is None else find_kind(choice.kind, _AXIS).describe(value)


def prepare_bench(options: argparse.Namespace, folder: Path) -> Bench:
    request = SearchRequest(
        "host", Budget.parse(f"{min(options.shares)}x"), folder, model=options.model, data=options.data,
        workload=options.workload and Workload.parse(options.workload), precision=SEARCH, trials=options.trials,
        seed=options.seed,
    )  # fmt: skip
    context = prepare(request, Silent())
    batches = context.parent.dataset.calibration.iterate_batches(4)
    redundancy = measure_redundancy(context.parent.model, batches, context.parent.anatomy)
    problem = build_problem(context, redundancy)
    return Bench(context, replace(problem, evaluate=judge_as_drafted(problem, options.items)), tuple(options.shares))


def judge_as_drafted(problem: Problem, items: int | None) -> Callable[[Architecture, int | None], Quality]:
    """Every row chooses on these items, adjusted with a few calibration items; what is chosen gets all of them."""
    count = items or problem.rungs[-1] or 0

    def evaluate(architecture: Architecture, asked: int | None) -> Quality:
        return problem.evaluate(architecture, count if asked is None else min(asked, count))

    return evaluate


def search(bench: Bench, space: Space) -> list[Candidate]:
    """Everything that one search for all fractions evaluated."""
    with tempfile.TemporaryDirectory() as folder:
        problem = replace(
            bench.problem, space=space, budget_ms=min(bench.shares) * bench.parent_ms,
            front=tuple(share * bench.parent_ms for share in bench.shares), storage=f"sqlite:///{folder}/study.db",
        )  # fmt: skip
        return [each for each in run_search(problem).candidates if each.full]


def find_best(bench: Bench, pool: list[Document], share: float, shape: Callable[[Architecture], Architecture]) -> str:
    """The words of what of a pool loses least and is within a fraction, once it is given a shape; or nothing."""
    ranked = sorted(pool, key=lambda each: float(each["loss"]))
    shaped = (shape(Architecture.from_words(each["words"])) for each in ranked)
    return next((each.words for each in shaped if bench.fits(each, share)), "")


def solve_by_sensitivity(bench: Bench, library: dict[Choice, float], share: float) -> str:
    """What the exact solve takes of losses that add up."""
    savings, needed = bench.problem.estimate_savings(), (1 - share) * bench.parent_ms
    for step in range(_STEPS):
        found = solve(bench.problem.space, library, savings, needed * (1 + 0.02 * step))
        if found and bench.fits(found[0], share):
            return found[0].words
    return ""


def choose(bench: Bench, pools: Pools, losses: dict[str, float]) -> Iterator[tuple[str, str, str]]:
    """(row, fraction, words) of everything that is compared; no words where a row has nothing within a fraction."""
    library = {Choice.parse(name): loss for name, loss in losses.items()}
    for share in bench.shares:
        yield "joint", str(share), find_best(bench, pools["joint"], share, lambda each: each)
        yield "drops", str(share), find_best(bench, pools["drops"], share, lambda each: each)
        for name in bench.formats:
            words = find_best(bench, pools["drops"], share, lambda each, name=name: bench.quantise(each, name))
            yield f"drops, then {name}", str(share), words
        yield "sensitivity", str(share), solve_by_sensitivity(bench, library, share)
    for name in FORMATS:
        yield name, "", bench.quantise(bench.problem.space.parent, name).words


def search_and_choose(bench: Bench, steps: Steps, prefix: str) -> list[list[str]]:
    """What every row chooses, by searches that begin with what earlier ones evaluated."""
    pools = {
        row: steps.keep(prefix + row, lambda space=space: [record(each) for each in search(bench, space)])
        + steps.document[FIRST + row]
        for row, space in (("joint", bench.problem.space), ("drops", bench.drops))
    }
    found = choose(bench, pools, steps.document["library"])
    chosen: list[list[str]] = steps.keep(f"{prefix}chosen", lambda: [list(each) for each in found if each[2]])
    return chosen


def run(options: argparse.Namespace) -> None:
    """All steps that the file does not have yet."""
    steps = Steps.open(options.out)
    with tempfile.TemporaryDirectory() as folder:
        bench = prepare_bench(options, Path(folder))
        steps.keep("facts", lambda: describe(bench, options))
        steps.keep("library", lambda: score(bench))
        first = sorted({words for _, share, words in search_and_choose(bench, steps, FIRST) if share})
        bench = bench.learn(steps.keep(f"{FIRST}measured", lambda: measure(bench, first, options.seconds)))
        chosen = sorted({words for _, _, words in search_and_choose(bench, steps, "")})
        for words in chosen:
            steps.keep(f"test {words}", lambda words=words: judge(bench, Architecture.from_words(words), options))
        steps.keep("measured", lambda: compute_shares(measure(bench, chosen, options.seconds)))


def describe(bench: Bench, options: argparse.Namespace) -> Document:
    return {
        "model": Path(bench.context.parent.id).name, "workload": str(bench.context.workload),
        "formats": bench.formats, "processor": describe_processor(), "shares": list(bench.shares),
        "trials": options.trials, "seed": options.seed, "items": options.items, "calibration": options.calibration,
        "test": options.test,
    }  # fmt: skip


def describe_processor() -> str:
    """What of the processor matters to the speed of formats."""
    flags = Path("/proc/cpuinfo").read_text().split("flags", 1)[-1].split("\n", 1)[0].split()
    return f"{torch.get_num_threads()} threads, {' '.join(name for name in FLAGS if name in flags)}"


def record(candidate: Candidate) -> Document:
    return {
        "words": candidate.architecture.words,
        "loss": candidate.quality.loss,
        "predicted_ms": candidate.predicted_ms,
    }


def score(bench: Bench) -> dict[str, float]:
    """The loss of every level alone."""
    return {str(choice): loss for choice, loss in score_library(bench.problem, bench.problem.rungs[0]).items()}


def judge(bench: Bench, architecture: Architecture, options: argparse.Namespace) -> Document:
    """The test loss, as the architecture would be delivered, or adjusted with fewer calibration items."""
    quality = bench.evaluate_on_test(architecture, options.calibration, options.test)
    per_item = [round(value, 7) for value in quality.per_item]
    return {"loss": quality.loss, "value": quality.value, "others": dict(quality.others), "per_item": per_item}


def measure(bench: Bench, words: list[str], seconds: float) -> list[Document]:
    """Measurements in rounds that all of them and the parent share."""
    device = bench.context.device
    assert device is not None, "this machine is at hand"
    records = device.measure([Architecture.from_words(each) for each in words], Effort(seconds)).records
    return [{"words": each.architecture.words, "measurement": each.measurement.to_json()} for each in records]


def compute_shares(measured: list[Document]) -> dict[str, Document]:
    """Of each the fraction of the parent's latency, with an interval."""
    shares = {}
    for each in measured:
        measurement = Measurement.from_json(each["measurement"])
        share, middle = measurement.compute_ratio(), measurement.p50
        interval = [bound / middle * share for bound in measurement.compute_median_interval()]
        shares[each["words"]] = {"ms": middle, "share": share, "interval": interval}
    return shares


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("verb", choices=("run", "report"))
    parser.add_argument("files", nargs="*", type=Path, help="of report")
    parser.add_argument("--model", default="python-lm")
    parser.add_argument("--data", type=Path, help="data of a model that is no reference model")
    parser.add_argument("--workload", help="default: the model's usual one")
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES, help="of the parent's latency")
    parser.add_argument("--trials", type=int, default=16, help="of a search, for each fraction")
    parser.add_argument("--items", type=int, help="of the validation split; default: all")
    parser.add_argument("--calibration", type=int, help="items that what is judged is adjusted with; default: all")
    parser.add_argument("--test", type=int, help="items of the test split; default: all")
    parser.add_argument("--seconds", type=float, default=60.0, help="of measuring in the end")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--figure", type=Path, help="of report")
    options = parser.parse_args()
    if options.verb == "report":
        documents = [json.loads(file.read_text()) for file in options.files]
        print(report(documents))
        if options.figure is not None:
            draw(documents, options.figure)
    elif options.out is None:
        sys.exit("--out is missing; give the file to write")
    else:
        run(options)


if __name__ == "__main__":
    main()

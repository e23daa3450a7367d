"""Fewer tokens at equal measured latency: our schedules, alone and with the structure, against the published ones.

    python experiments/benchmarks/token_reduction.py search  --case digits-vlm --out vlm.json
    python experiments/benchmarks/token_reduction.py measure --case digits-vlm --out vlm.json
    python experiments/benchmarks/token_reduction.py judge   --case digits-vlm --out vlm.json
    python experiments/benchmarks/token_reduction.py halved  --case digits-vlm --out vlm.json
    python experiments/benchmarks/token_reduction.py parts   --case digits-vlm --out vlm.json
    python experiments/benchmarks/token_reduction.py report vlm.json [...] [--figure out.png]
    python experiments/benchmarks/tokens/accounting.py

`search` finds an architecture for 0.8, 0.65 and 0.5 of the parent's latency by every method, with one latency model
of this machine; ours, as `nas search` does, by measuring what might win, so leave the machine alone (with `--predicted`
as the search ranks them). `measure` measures all of them beside the parent in ONNX Runtime; `judge` gives each its
quality on the test split. A method is compared with ours at the latency that ours was measured at: its quality is
interpolated between its own measured points.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tokens.cases import CASES, Bench, prepare
from tokens.report import write_report

from latency_models.run_plan import measure_files
from latency_models.targets import HOST, find_target
from nas.certification.run import CertificationRun
from nas.certification.search_context import SearchContext
from nas.export.onnx_export import make_workload_inputs
from nas.pipeline.evaluator import list_rungs
from nas.profiling.device import ThisMachine
from nas.progress import Silent
from nas.request.quantities import Budget
from nas.request.search_request import SearchRequest
from nas.search import run_search
from nas.search.methods import TOKEN_METHODS, TokenMethod
from nas.search.methods.schedules import find_max_tokens, fit_to_budget
from nas.search.problem import Problem
from search_spaces.architecture import Architecture
from search_spaces.errors import ExportError, NoFeasibleCandidate
from search_spaces.level import THOUSAND
from search_spaces.presets import build_visionzip
from search_spaces.schedule import Schedule, Stage
from search_spaces.space import Space

BUDGETS = (0.8, 0.65, 0.5)
MEDIAN = 50
SECONDS = 60.0
ROUNDS = 60


def build_spaces(space: Space) -> dict[str, Space]:
    """What each of our three searches may change."""
    tokens = space.steps
    return {
        "structure": replace(space, units=space.structure, reduction=None),
        "tokens": replace(space, units=tokens),
        "joint": space,
    }


def search(bench: Bench, document: dict[str, Any], methods: Sequence[str], predicted: bool, save: Any) -> None:
    """Ours and some published methods at every budget; what the document has already is not done again."""
    for name, space in build_spaces(bench.problem.space).items():
        if f"nas {name}" not in document["found"]:
            document["found"][f"nas {name}"] = search_ours(bench, replace(bench.problem, space=space), predicted)
            save()
    pictures = {"visionzip": VisionZip()} if bench.parent.anatomy.family == "llava" else {}
    for name, method in {**TOKEN_METHODS, **pictures}.items():
        if name in methods and name not in document["found"]:
            document["found"][name] = run_method(bench, method)
            save()


@dataclass(frozen=True)
class VisionZip:
    """Tokens dropped before the language model; the share that it is given is swept."""

    name: str = "visionzip"

    def choose_architecture(self, problem: Problem) -> Architecture | None:
        """The parent with as many tokens as meet the budget."""
        return find_max_tokens(problem, lambda permille: build_visionzip(permille / THOUSAND))


def search_ours(bench: Bench, problem: Problem, predicted: bool) -> dict[str, Any]:
    """The winner at every budget, as a person gets it: chosen by measurement among what one study found.

    What was measured for one budget is known at the next.

    Args:
        predicted: take what the study ranks first instead, as for a target that cannot be measured.
    """
    began, space = time.perf_counter(), problem.space
    min_ms = (
        0.0 if space.structure else problem.predict_ms(space.decode(set(space.choices)))
    )  # fewest tokens, all parts
    levels = {share: share * bench.parent_ms for share in BUDGETS if share * bench.parent_ms >= min_ms}
    cells = {}
    with tempfile.TemporaryDirectory() as folder:
        items = len(bench.evaluator.dataset.validation)
        study = replace(problem, rungs=list_rungs(items), storage=f"sqlite:///{folder}/study.db")
        run_search(replace(study, budget_ms=min(levels.values()), front=tuple(levels.values())))
        for share, budget_ms in levels.items():
            try:
                at = replace(study, budget_ms=budget_ms)
                certified = (
                    (run_search(at), at, None) if predicted else build_certification(bench, share, Path(folder)).run(at)
                )
                outcome, corrected, _ = certified
            except NoFeasibleCandidate as error:
                print(error, file=sys.stderr)
                continue
            study = replace(study, latency=corrected.latency)
            cells[str(share)] = build_cell(bench, outcome.winner.architecture)
    return {"cells": cells, "seconds": round(time.perf_counter() - began, 1)}


def build_certification(bench: Bench, share: float, folder: Path) -> CertificationRun:
    """The certification run of a search for a share of the parent's median on this machine."""
    parent, workload, progress = bench.parent, bench.case.workload, Silent()
    request = SearchRequest(HOST, Budget(f"{share:g}x", fraction=share), folder, percentile=MEDIAN)
    device = ThisMachine(parent, bench.export, workload, progress)
    problem = bench.problem
    return CertificationRun(
        SearchContext(
            request, parent, find_target(HOST), workload, bench.export, device, problem.latency,
            share * bench.parent_ms, problem.space, bench.cached_evaluator,
        ),
        progress,
    )  # fmt: skip


def run_method(bench: Bench, method: TokenMethod) -> dict[str, Any]:
    """A published method at every budget."""
    problems = {s: replace(bench.problem, budget_ms=s * bench.parent_ms) for s in BUDGETS}
    architectures = {share: method.choose_architecture(problem) for share, problem in problems.items()}
    return {"cells": {str(share): build_cell(bench, each) for share, each in architectures.items() if each is not None}}


def build_cell(bench: Bench, architecture: Architecture) -> dict[str, Any]:
    """An architecture and its predicted latency as a share of the parent's."""
    predicted = bench.problem.predict_ms(architecture) / bench.parent_ms
    return {"architecture": architecture.to_json(), "words": architecture.words, "predicted": round(predicted, 4)}


def collect_architectures(document: dict[str, Any]) -> dict[str, Architecture]:
    """All that was found, by digest."""
    every = [cell for done in document["found"].values() for cell in done["cells"].values()]
    read = [Architecture.from_json(cell["architecture"]) for cell in every]
    return {architecture.digest: architecture for architecture in read}


def measure(bench: Bench, document: dict[str, Any]) -> None:
    """Medians of all that was found, as shares of the parent's, measured interleaved in fresh processes."""
    case, chosen = bench.case, collect_architectures(document)
    with tempfile.TemporaryDirectory() as name:
        files = {"parent": bench.export.path}
        for digest, architecture in chosen.items():
            try:
                files[digest] = bench.export.derive(architecture, Path(name) / f"{digest}.onnx")
            except ExportError as error:  # a file that does not compute what the model does is no candidate
                document.setdefault("refused", {})[str(architecture.tokens)] = str(error)
            print(f"file {len(files) - 1} of {len(chosen)}", file=sys.stderr, flush=True)
        measured = measure_files(
            files, make_workload_inputs(bench.parent.model, case.workload), case.workload,
            sentinel="parent", seconds=SECONDS, min_rounds=ROUNDS,
        )  # fmt: skip
    document["parent_ms"] = measured.of["parent"].p50
    document["measured"] = {digest: measured.of[digest].compute_ratio() for digest in chosen if digest in files}
    document["runtime"] = measured.key


def judge(bench: Bench, document: dict[str, Any], items: int | None, save: Any) -> None:
    """Quality of the parent and of all that was found on the test split, or on its first items."""
    parent = bench.problem.space.parent
    for digest, architecture in {"parent": parent, **collect_architectures(document)}.items():
        if digest not in document["tested"]:
            quality = bench.cached_evaluator.evaluate_in_full(architecture, "test", items)
            document["tested"][digest] = {
                "metric": bench.case.metric(quality),
                "loss": quality.loss,
                "others": quality.others,
                "per_item": [round(value, 6) for value in quality.per_item],
            }
            save()


def measure_halved(bench: Bench, document: dict[str, Any]) -> None:
    """A schedule that halves the tokens over all blocks, measured beside the parent."""
    space = bench.problem.space
    assert space.reduction is not None

    shape, sequence = bench.parent.shape, bench.case.workload.sequence
    droppable = shape.count_droppable(sequence)

    def compute_share(schedule: Schedule) -> float:
        kept = sum(sequence - droppable + droppable * one for one in schedule.compute_shares(space.depth))
        return kept / (sequence * space.depth)

    every = (Schedule((Stage(1, permille),), space.reduction) for permille in range(THOUSAND - 1, 0, -1))
    schedule = next(each for each in every if compute_share(each) <= 0.5)
    architecture, model = space.parent.replace_tokens(schedule), bench.parent.model
    document["halved"] = {"schedule": str(schedule), "tokens": compute_share(schedule)}
    with tempfile.TemporaryDirectory() as name:
        files = {"parent": bench.export.path, "halved": bench.export.derive(architecture, Path(name) / "halved.onnx")}
        for batch in (1, 8):
            workload = replace(bench.case.workload, batch=batch)
            measured = measure_files(
                files, make_workload_inputs(model, workload), workload,
                sentinel="parent", seconds=SECONDS / 3, min_rounds=2 * ROUNDS,
            )  # fmt: skip
            medians = {name: one.compute_percentile(50) for name, one in measured.of.items()}
            document["halved"][f"batch {batch}"] = {"faster": medians["parent"] / medians["halved"], **medians}
    print(json.dumps(document["halved"]))


def measure_parts(bench: Bench, document: dict[str, Any]) -> None:
    """What a part is worth beside tokens: dropped, and the time it takes spent on more tokens in the same stages.

    Validation loss on all items at the same predicted latency, of the schedule found alone and of every such exchange.
    """
    document["exchanged"] = {}
    for share, cell in document["found"]["nas tokens"]["cells"].items():
        alone = Architecture.from_json(cell["architecture"])
        problem = replace(bench.problem, budget_ms=bench.problem.predict_ms(alone))
        loss = {"": bench.cached_evaluator(alone).loss}
        for unit in bench.problem.space.structure:
            exchanged = fit_to_budget(problem, alone.drop(unit))
            if exchanged is not None:
                loss[str(unit)] = bench.cached_evaluator(exchanged).loss
        document["exchanged"][share] = dict(sorted(loss.items(), key=lambda pair: pair[1]))
    print(json.dumps(document["exchanged"]))


def run(verbs: Iterable[str], name: str, out: Path, methods: Sequence[str], items: int | None, predicted: bool) -> None:
    """The verbs of one case, in order; the document is written as it grows."""
    document = json.loads(out.read_text()) if out.exists() else {"case": name, "found": {}, "tested": {}}
    bench = prepare(CASES[name], Silent())
    reduction = bench.problem.space.reduction
    assert reduction is not None
    document |= {"workload": str(bench.case.workload), "metric": bench.case.metric_name, "way": reduction.to_json()}

    def save() -> None:
        out.write_text(json.dumps(document) + "\n")

    for verb in verbs:
        match verb:
            case "search":
                search(bench, document, methods, predicted, save)
            case "measure":
                measure(bench, document)
            case "judge":
                judge(bench, document, items, save)
            case "halved":
                measure_halved(bench, document)
            case "parts":
                measure_parts(bench, document)
        save()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("verb", help="search, measure, judge, halved, parts (several with commas), report or prepare")
    parser.add_argument("documents", nargs="*", type=Path)
    parser.add_argument("--case", choices=sorted(CASES))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--methods", default=",".join((*TOKEN_METHODS, VisionZip.name)))
    parser.add_argument("--items", type=int, help="of the test split; all by default")
    parser.add_argument("--predicted", action="store_true", help="ours are not chosen by measuring (saves exports)")
    parser.add_argument("--figure", type=Path)
    arguments = parser.parse_args()
    if arguments.verb == "report":
        print(write_report([json.loads(path.read_text()) for path in arguments.documents], arguments.figure))
    else:
        methods = arguments.methods.split(",")
        verbs, predicted = arguments.verb.split(","), arguments.predicted
        run(verbs, arguments.case, arguments.out, methods, arguments.items, predicted)


if __name__ == "__main__":
    main()

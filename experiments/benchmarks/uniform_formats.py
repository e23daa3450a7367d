"""A model in one format throughout, on this machine: what it loses, and its share of the parent's processor time.

    python experiments/benchmarks/uniform_formats.py --model python-lm --workload decode:batch=1,past=512

Files run with one thread, one after another in rounds, and the processor time of that thread is read: others on the
machine change it little. The loss is that of the candidate as a search would deliver it (compensated, with error
feedback), on items of the test split. More architectures can be given by their words.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from precision import describe_processor, name_format

from latency_models.runtime_ort import open_session
from latency_models.workload import Workload
from nas.export.onnx_export import make_workload_inputs
from nas.export.parent_export import ParentExport
from nas.parent.parent import ParentModel, load_parent_model
from nas.progress import Silent
from nas.quality.evaluator import choose_evaluator
from pruning.compensation.candidate_builder import CandidateBuilder, CompensationPlan
from search_spaces.architecture import Architecture
from search_spaces.weight_formats import FORMATS

SECONDS = 2e-3  # that one reading takes at least


def list_architectures(parent: ParentModel, words: list[str]) -> dict[str, Architecture]:
    """The parent, the parent in every format of ONNX Runtime, head included, and what was asked for."""
    whole = Architecture.parent(parent.anatomy.depth)
    found = {"parent": whole}
    for name in FORMATS:
        found[name] = whole.drop(*(each for each in parent.anatomy.choices if name_format(each) == name))
    return found | {each: Architecture.from_words(each) for each in words}


def time_in_rounds(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Of each call the share of the first one's processor time: the median over rounds in which all run."""
    repeats = {name: max(1, round(SECONDS / max(_time(call, 3), 1e-6))) for name, call in calls.items()}
    first, *_ = calls
    shares: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        took = {name: _time(call, repeats[name]) for name, call in calls.items()}
        for name in calls:
            shares[name].append(took[name] / took[first])
    return {name: statistics.median(values) for name, values in shares.items()}


def _time(call: Callable[[], Any], repeats: int) -> float:
    """Seconds of the thread's processor time, the mean of calls."""
    began = time.thread_time()
    for _ in range(repeats):
        call()
    return (time.thread_time() - began) / repeats


def measure(parent: ParentModel, found: dict[str, Architecture], workload: Workload, rounds: int) -> dict[str, float]:
    """Of every architecture the share of the parent's processor time."""
    export = ParentExport(parent, Silent(), workload.phase)
    given = make_workload_inputs(parent.model, workload)
    calls: dict[str, Callable[[], Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, architecture) in enumerate(found.items()):
            session = open_session(export.derive(architecture, Path(folder) / f"{number}.onnx"), 1)
            inputs = {each.name: given[each.name] for each in session.get_inputs()}
            calls[name] = lambda session=session, inputs=inputs: session.run(None, inputs)
        return time_in_rounds(calls, rounds)


def judge(
    parent: ParentModel, found: dict[str, Architecture], options: argparse.Namespace
) -> Iterator[tuple[str, Any]]:
    """The test quality of each, adjusted with some of the calibration items."""
    evaluator = choose_evaluator(parent.model, parent.dataset)
    given = {name: value[: options.calibration] for name, value in parent.dataset.calibration.inputs.items()}
    builder = CandidateBuilder(parent.model, parent.anatomy, CompensationPlan("auto", given, given))
    for name, architecture in found.items():
        yield name, evaluator.evaluate(builder.build(architecture), "test", options.items)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="python-lm")
    parser.add_argument("--workload", nargs="+", default=["forward:batch=1,seq=256"], help="one or more")
    parser.add_argument("--words", nargs="*", default=[], help="architectures, as a search prints their blocks")
    parser.add_argument("--calibration", type=int, default=12, help="items of the calibration split")
    parser.add_argument("--items", type=int, default=16, help="of the test split")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    parent = load_parent_model(options.model)
    found, workloads = list_architectures(parent, options.words), [Workload.parse(each) for each in options.workload]
    shares = {str(each): measure(parent, found, each, options.rounds) for each in workloads}
    print(f"{options.model}, one thread, processor time ({describe_processor()})\n")
    print(f"| | {' | '.join(shares)} | loss | value |\n|---|{'---:|' * (len(shares) + 2)}")
    for name, quality in judge(parent, found, options):
        row = " | ".join(f"{each[name]:.3f}" for each in shares.values())
        print(f"| {name} | {row} | {quality.loss:.5f} | {quality.value:.4f} |", flush=True)


if __name__ == "__main__":
    main()

"""Searches on a cluster: what driver and Ray cost, what two workers reach, and where more workers stop helping.

    python experiments/benchmarks/scale.py overhead --out overhead.json [--model python-lm] [--rounds 3] [--tasks 24]
    python experiments/benchmarks/scale.py workers  --out workers.json  [--model python-lm] [--rounds 6]
    python experiments/benchmarks/scale.py simulate --out simulate.json [--model python-lm] [--workers 1,8,64,512]
    python experiments/benchmarks/scale.py report overhead.json workers.json simulate.json

Leave the machine alone meanwhile; it starts Ray by itself. Searches are those of `nas search --target jetson-orin
--budget 0.6x` at default settings: data sheet, SQLite, batches, rungs. Every process that evaluates has one thread.

`overhead` searches once for real, then again with another study in which everything is known: that is the driver alone.
Ray is what the same batches take longer on one actor than here, or what tasks take that do nothing, if that is more.
`workers` gives two actors and two plain processes the same tasks, in turns.
`simulate` plays searches on a virtual clock: each evaluation takes what it was recorded to take, less what the states
save that this worker still has; the driver takes what it was measured to take, and hands out one task after another, at
a cost that depends on the tasks on their way. Both are times of a thread: neither other work nor the disk counts.
Evaluations are recorded in a file, so that a repetition is quick; batches may be simulated in several runs.
"""

import argparse
import json
from pathlib import Path

import torch
from scaling.case import prepare
from scaling.overhead import measure_overhead
from scaling.plain import measure_workers
from scaling.report import write_report
from scaling.simulation import simulate

from nas.search.problem import Problem


def parse_numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    for name in ("overhead", "workers", "simulate"):
        verb = verbs.add_parser(name)
        verb.add_argument("--model", default="python-lm")
        verb.add_argument("--out", type=Path, required=True)
        if name != "simulate":
            verb.add_argument("--rounds", type=int, default=6 if name == "workers" else 3)
    verbs.choices["overhead"].add_argument("--tasks", type=int, default=24, help="real ones, in every round")
    verbs.choices["overhead"].add_argument("--trials", type=int, default=Problem.trials)
    verbs.choices["workers"].add_argument("--tasks", type=int, default=12, help="beside those of the score library")
    verb = verbs.choices["simulate"]
    verb.add_argument("--workers", type=parse_numbers, default=[1, 8, 64, 512])
    verb.add_argument("--batches", type=parse_numbers, default=[1, 4, 8, 64, 512])
    verb.add_argument("--trials", type=int, help="at most; default: the default, and at least one whole batch")
    verb.add_argument("--recorded", type=Path, help="file of recorded evaluations; default: in the cache")
    verbs.add_parser("report").add_argument("files", type=Path, nargs="+")
    return parser.parse_args()


def main() -> None:
    asked = parse_arguments()
    if asked.verb == "report":
        print(write_report(asked.files))
        return
    torch.set_num_threads(1)
    case = prepare(asked.model)
    if asked.verb == "overhead":
        result = measure_overhead(case, asked.rounds, asked.tasks, asked.trials)
    elif asked.verb == "workers":
        result = measure_workers(case, asked.rounds, asked.tasks)
    else:
        named = case.parent.cache / f"durations-{case.content.replace('/', '-')}.jsonl"
        result = simulate(case, asked.batches, asked.workers, asked.trials, asked.recorded or named)
    asked.out.write_text(json.dumps(result, indent=1) + "\n")
    print(write_report([asked.out]))


if __name__ == "__main__":
    main()

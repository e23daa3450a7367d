"""What the redundancy analysis costs: time against a plain forward pass, and peak memory against the number of samples.

    python experiments/benchmarks/analysis_cost.py [--model python-lm] [--rounds 15]

Time is measured in one process, interleaved, as the median of ratios; memory in a fresh process per sample count.
The analysis does not run the head, so two ratios are given: to the whole model, and to the trunk alone, which does
the same work as the analysis but for the comparisons.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import torch

from nas.parent.parent import load_parent_model
from pruning.analysis.redundancy import measure_redundancy

SAMPLES = (8, 32, 128)
WINDOW, BATCH = 512, 4


def make_batches(parent, samples: int):  # noqa: ANN001, ANN201
    """`samples` windows made of the calibration text, repeated as often as needed, one batch at a time."""
    windows = parent.dataset.calibration.inputs["input_ids"]
    for start in range(0, samples, BATCH):
        yield {"input_ids": torch.stack([windows[(start + i) % len(windows)] for i in range(BATCH)])}


def run_forward(model, parent, samples: int) -> None:  # noqa: ANN001
    """The plain pass of the whole model or of its trunk."""
    with torch.inference_mode():
        for batch in make_batches(parent, samples):
            model(**batch, use_cache=False)


def analyse(parent, samples: int) -> None:  # noqa: ANN001
    measure_redundancy(parent.model, make_batches(parent, samples), parent.anatomy)


def measure_seconds(work, *arguments) -> float:  # noqa: ANN001
    began = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - began


def measure_peak_mib(model: str, samples: int) -> float:
    command = [sys.executable, __file__, "--model", model, "--peak", str(samples)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="python-lm")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    parent = load_parent_model(arguments.model)
    if arguments.peak:
        analyse(parent, arguments.peak)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    ratios: dict[str, list[float]] = {"model": [], "trunk": []}
    seconds = []
    for warm in range(arguments.rounds + 1):
        plain = measure_seconds(run_forward, parent.model, parent, 8)
        analysis = measure_seconds(analyse, parent, 8)
        trunk = measure_seconds(run_forward, parent.model.base_model, parent, 8)
        if warm:
            ratios["model"].append(analysis / plain)
            ratios["trunk"].append(analysis / trunk)
            seconds.append(plain)
    report = {
        "model": arguments.model,
        **{
            f"time_ratio_to_{name}": {
                "median": round(statistics.median(r), 3),
                "range": [round(min(r), 3), round(max(r), 3)],
            }
            for name, r in ratios.items()
        },
        "plain_forward_s": round(statistics.median(seconds), 3),
        "peak_mib_by_samples": {samples: round(measure_peak_mib(arguments.model, samples)) for samples in SAMPLES},
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()

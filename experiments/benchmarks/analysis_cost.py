"""What the redundancy analysis costs: time against a plain forward pass, and peak memory against the number of samples.

    python experiments/benchmarks/analysis_cost.py [--model python-lm] [--rounds 15]

Time is measured in one process, interleaved, as the median of ratios; memory in a fresh process per sample count.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import torch

from nas.subject import load_subject
from pruning.redundancy import measure_redundancy

SAMPLES = (8, 32, 128)
WINDOW, BATCH = 512, 4


def batches(subject, samples: int):  # noqa: ANN001, ANN201
    """`samples` windows made of the calibration text, repeated as often as needed, one batch at a time."""
    windows = subject.dataset.calibration.inputs["input_ids"]
    for start in range(0, samples, BATCH):
        yield {"input_ids": torch.stack([windows[(start + i) % len(windows)] for i in range(BATCH)])}


def forward(subject, samples: int) -> None:  # noqa: ANN001
    """The plain pass: the trunk and the head, as a model is used."""
    with torch.inference_mode():
        for batch in batches(subject, samples):
            subject.model(**batch, use_cache=False)


def analyse(subject, samples: int) -> None:  # noqa: ANN001
    measure_redundancy(subject.model, batches(subject, samples), subject.anatomy)


def timed(work, *arguments) -> float:  # noqa: ANN001
    began = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - began


def peak_mib(model: str, samples: int) -> float:
    command = [sys.executable, __file__, "--model", model, "--peak", str(samples)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="python-lm")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    subject = load_subject(arguments.model)
    if arguments.peak:
        analyse(subject, arguments.peak)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    ratios, seconds = [], []
    for warm in range(arguments.rounds + 1):
        plain, analysis = timed(forward, subject, 8), timed(analyse, subject, 8)
        if warm:
            ratios.append(analysis / plain)
            seconds.append(plain)
    report = {
        "model": arguments.model,
        "time_ratio_median": round(statistics.median(ratios), 3),
        "time_ratio_range": [round(min(ratios), 3), round(max(ratios), 3)],
        "plain_forward_s": round(statistics.median(seconds), 3),
        "peak_mib_by_samples": {samples: round(peak_mib(arguments.model, samples)) for samples in SAMPLES},
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()

"""One pass of a model in several programs: ours in ONNX Runtime, other exports there, and PyTorch.

    python experiments/benchmarks/export_speed.py --model python-lm --winner OUT/winner --json speed.json
    python experiments/benchmarks/export_speed.py --model minilm --tokens 128 --rounds 40

Every round runs every program of parent and winner once, in random order, on the same inputs; ratios are of the same
round, and what is printed is their median, with quartiles. Outputs are compared with those of PyTorch first. `plain
trace` is what `torch.onnx.export` writes by default, `Transformers` what its own exporter writes, with and without its
fusions for ONNX Runtime; nothing is done to these files. `--compile` takes a minute more.
"""

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latency_models.runtime_ort import open_session
from latency_models.workload import Phase
from nas.export.exporters import ONNX_RUNTIME
from nas.export.onnx_export import Exportable, make_example_inputs
from nas.parent.parent import load_parent_model
from pruning.checkpoint import load

Program = Callable[[], np.ndarray]
OURS = "ours"


def main() -> None:
    """Measure and print a table."""
    asked = parse_arguments()
    torch.set_num_threads(asked.threads)
    models = {"parent": load_parent_model(asked.model).model}
    if asked.winner is not None:
        models["winner"] = load(asked.winner, torch.float32)
    with tempfile.TemporaryDirectory() as name:
        programs = {}
        for label, model in models.items():
            inputs = make_example_inputs(model, asked.batch, asked.tokens, seed=1)
            programs |= {
                (label, each): program
                for each, program in make_programs(model, inputs, Path(name) / label, asked).items()
            }
        times = measure(programs, asked.rounds)
    document = {
        "model": asked.model, "winner": asked.winner and asked.winner.parent.name, "shape": [asked.batch, asked.tokens],
        "threads": asked.threads, "rounds": asked.rounds, "torch": torch.__version__, "load": os.getloadavg()[0],
        "programs": [
            {"of": label, "program": each, **summarise(values, times[label, OURS], times["parent", each])}
            for (label, each), values in times.items()
        ],
    }  # fmt: skip
    if asked.json is not None:
        asked.json.write_text(json.dumps(document, indent=2) + "\n")
    print("\n".join(describe(document)))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="python-lm")
    parser.add_argument("--winner", type=Path, default=None, help="a pruned model's folder, measured beside it")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action="store_true", help="torch.compile, too")
    parser.add_argument("--json", type=Path, default=None)
    return parser.parse_args()


def make_programs(model: Any, inputs: dict[str, Tensor], folder: Path, asked: argparse.Namespace) -> dict[str, Program]:
    """By name, what runs one pass; each gives what PyTorch gives, or is left out with a message."""
    folder.mkdir()
    module = Exportable(model).eval()
    expected = run_torch(module, inputs)()
    made: dict[str, Callable[[], Program]] = {
        OURS: lambda: export_ours(model, inputs, folder / "ours.onnx", asked.threads),
        "plain trace": lambda: export_plain(module, inputs, folder / "plain.onnx", asked.threads),
        "Transformers": lambda: export_transformers(model, inputs, folder / "transformers.onnx", asked.threads, None),
        "Transformers, fused": lambda: export_transformers(
            model, inputs, folder / "fused.onnx", asked.threads, "cpu"
        ),
        "eager": lambda: run_torch(module, inputs),
    }  # fmt: skip
    if asked.compile:
        made["torch.compile"] = lambda: run_torch(torch.compile(module), inputs)
    programs = {}
    for name, make in made.items():
        try:
            program = make()
            difference = float(np.abs(program() - expected).max() / max(1.0, float(np.abs(expected).max())))
        except Exception as error:  # a program fails in its own ways
            print(f"{name}: left out, {type(error).__name__}: {(str(error).splitlines() or [''])[0][:160]}")
            continue
        if difference > 1e-3:
            print(f"{name}: left out, its output differs by {difference:.1e}")
            continue
        programs[name] = program
    return programs


def run_torch(module: Any, inputs: dict[str, Tensor]) -> Program:
    """A pass in PyTorch."""

    def run() -> np.ndarray:
        with torch.inference_mode():
            first: np.ndarray = module(*inputs.values())[0].numpy()
            return first

    return run


def export_ours(model: Any, inputs: dict[str, Tensor], path: Path, threads: int) -> Program:
    """The file that a search delivers."""
    ONNX_RUNTIME.export(model, path, Phase.FORWARD)
    return run_file(path, inputs, threads)


def export_plain(module: Any, inputs: dict[str, Tensor], path: Path, threads: int) -> Program:
    """What `torch.onnx.export` writes of a module if nothing is asked of it."""
    torch.onnx.export(module, tuple(inputs.values()), str(path), input_names=list(inputs), dynamo=True, verbose=False)
    return run_file(path, inputs, threads)


def export_transformers(
    model: Any, inputs: dict[str, Tensor], path: Path, threads: int, fusions: str | None
) -> Program:
    """What the exporter of Transformers writes."""
    from transformers.exporters.exporter_onnx import OnnxConfig, OnnxExporter

    cached = getattr(model.config, "use_cache", None)
    model.config.use_cache = False  # keys and values are no outputs of ours either
    try:
        exported = OnnxExporter().export(model, dict(inputs), config=OnnxConfig(ort_fusions=fusions))
    finally:
        model.config.use_cache = cached
    OnnxExporter.save_program(exported.program, path)
    return run_file(path, inputs, threads)


def run_file(path: Path, inputs: dict[str, Tensor], threads: int) -> Program:
    """A pass of a file in ONNX Runtime."""
    session = open_session(path, threads)
    feed = {node.name: inputs[node.name].numpy() for node in session.get_inputs()}
    output = [session.get_outputs()[0].name]

    def run() -> np.ndarray:
        first: np.ndarray = session.run(output, feed)[0]
        return first

    return run


def measure(programs: dict[Any, Program], rounds: int) -> dict[Any, list[float]]:
    """Seconds of each in every round; the first three rounds are not counted."""
    times: dict[Any, list[float]] = {name: [] for name in programs}
    rng = random.Random(0)
    for turn in range(-3, rounds):
        for name in rng.sample(list(programs), len(programs)):
            began = time.perf_counter()
            programs[name]()
            if turn >= 0:
                times[name].append(time.perf_counter() - began)
    return times


def summarise(times: list[float], ours: list[float], parent: list[float]) -> dict[str, Any]:
    """Milliseconds, and the ratios to ours and to the parent in the same program, each with its quartiles."""
    return {
        "ms": 1e3 * statistics.median(times),
        "to_ours": take_quartiles(times, ours),
        "to_parent": take_quartiles(times, parent),
    }


def take_quartiles(times: list[float], others: list[float]) -> list[float]:
    """25, 50 and 75 % of the ratios of the same rounds."""
    return statistics.quantiles((a / b for a, b in zip(times, others, strict=True)), n=4)


def describe(document: dict[str, Any]) -> list[str]:
    """A table, Markdown."""
    batch, tokens = document["shape"]
    lines = [
        f"{document['model']}, {batch} x {tokens}, {document['threads']} thread, load {document['load']:.1f}", "",
        "| of | program | ms | times ours | times the parent there |", "|---|---|---:|---:|---:|",
    ]  # fmt: skip
    for row in document["programs"]:
        ratios = (f"{middle:.3f} ({low:.3f} to {high:.3f})" for low, middle, high in (row["to_ours"], row["to_parent"]))
        lines.append(f"| {row['of']} | {row['program']} | {row['ms']:.2f} | {' | '.join(ratios)} |")
    return lines


if __name__ == "__main__":
    main()

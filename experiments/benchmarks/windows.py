"""What windows of attention cost in loss and buy in milliseconds, where a past is long.

    python experiments/benchmarks/windows.py loss --model python-lm --length 2048 --items 4 --out loss.json
    python experiments/benchmarks/windows.py ms --random 4 --spread all --batch 8 --past 4096 --out ms.json
    python experiments/benchmarks/windows.py report loss.json ms.json

`loss` is the divergence from the parent on texts of `--length` tokens of the test split, as cut, with the same window
in every block, or in every second one. `ms` is the time of one decoded token, by the files of those models in ONNX
Runtime on one core of this machine, round by round beside the parent's; weights do not matter to it, so `--past` may be
longer than the positions that a model was trained on, and `--random` takes so many blocks of random weights instead.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from compensation import describe_processor
from transformers import LlamaConfig, LlamaForCausalLM

from latency_models.footprint import compute_memory
from latency_models.runner.ort import OnnxRuntime
from latency_models.workload import Phase, Workload
from nas.export.onnx_export import export_onnx, make_workload_inputs
from nas.parent.parent import ParentModel, load_parent_model
from nas.quality.evaluator import choose_evaluator
from pruning.checkpoint import save
from pruning.surgery.prune import prune
from search_spaces.architecture import Architecture
from search_spaces.unit import Choice


def build_random(blocks: int, folder: Path) -> ParentModel:
    """A decoder in the form of Llama with random weights."""
    config = LlamaConfig(
        hidden_size=512, intermediate_size=1536, num_hidden_layers=blocks, num_attention_heads=8,
        num_key_value_heads=4, vocab_size=4096, max_position_embeddings=8192, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    save(LlamaForCausalLM(config).eval(), folder)
    return load_parent_model(str(folder), None)


def list_architectures(depth: int, windows: list[int], spreads: list[str]) -> dict[str, Architecture]:
    """The parent, every window in all blocks, or in every second one."""
    named = {"parent": Architecture.parent(depth)}
    for window in windows:
        for name in spreads:
            layers = range(depth) if name == "all" else range(1, depth, 2)
            chosen = frozenset(Choice.parse(f"attention.{layer}:window={window}") for layer in layers)
            named[f"{window}, {name}"] = Architecture(depth, chosen)
    return named


def measure_loss(parent: ParentModel, options: argparse.Namespace) -> dict[str, float]:
    """Of every architecture on the first items of the test split."""
    evaluator = choose_evaluator(parent.placed, parent.read_dataset(options.length))
    losses = {}
    for name, architecture in list_architectures(parent.anatomy.depth, options.windows, options.spread).items():
        candidate = prune(parent.model, architecture, anatomy=parent.anatomy, share_weights=True)
        losses[name] = evaluator.evaluate(candidate, split="test", items=options.items).loss
        print(name, round(losses[name], 5), flush=True)
    return losses


def measure_ms(parent: ParentModel, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Of every architecture the median milliseconds of a token, the share of the parent's, and bytes of the cache."""
    workload = Workload(Phase.DECODE, options.batch, 1, options.past)
    inputs, runtime = make_workload_inputs(parent.model, workload), OnnxRuntime("fp32", 1, "cpu", Path("unused"))
    calls: dict[str, Callable[[], object]] = {}
    architectures = list_architectures(parent.anatomy.depth, options.windows, options.spread)
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, architecture) in enumerate(architectures.items()):
            candidate = prune(parent.model, architecture, anatomy=parent.anatomy, share_weights=True)
            file = export_onnx(candidate, Path(folder) / f"{number}.onnx", phase=Phase.DECODE)
            calls[name] = runtime.load(file, inputs)
            print("exported", name, flush=True)
        samples = take_samples(calls, options.rounds)
    return {
        name: {
            "ms": statistics.median(samples[name]),
            "share": statistics.median(
                ms / beside for ms, beside in zip(samples[name], samples["parent"], strict=True)
            ),
            "cache": compute_memory(parent.shape, architecture, workload, "fp32").cache,
        }
        for name, architecture in architectures.items()
    }


def take_samples(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of every call, one in each round after a first that does not count."""
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            if number:
                samples[name].append(1000 * (time.perf_counter() - began))
    return samples


def report(files: list[Path]) -> None:
    """Markdown: a row for each architecture."""
    loss, ms = (json.loads(file.read_text()) for file in files)
    print(f"{ms['processor']}; loss: {loss['model']}, ms: {ms['model']}\n")
    print(f"| window | loss | ms | of the parent | cache, MB |\n|{5 * '---|'}")
    for name, row in ms["rows"].items():
        lost = loss["rows"].get(name)
        cells = ("-" if lost is None else f"{lost:.4f}", f"{row['ms']:.2f}", f"{row['share']:.2f}")
        print(f"| {name} | {' | '.join(cells)} | {row['cache'] / 1e6:.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("verb", choices=("loss", "ms", "report"))
    parser.add_argument("files", nargs="*", type=Path, help="of report: those of loss and of ms")
    parser.add_argument("--model", default="python-lm")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--random", type=int, help="blocks of random weights, in place of the model")
    parser.add_argument("--spread", default="all,every second", help="which blocks have the window")
    parser.add_argument("--windows", default="1024,512,256,128,64")
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--items", type=int, default=4)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--past", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.verb == "report":
        report(options.files)
        return
    options.windows = [int(word) for word in options.windows.split(",")]
    options.spread = options.spread.split(",")
    if options.random:
        with tempfile.TemporaryDirectory() as folder:
            measured = measure_ms(build_random(options.random, Path(folder)), options)
        write(options, f"{options.random} blocks of random weights", measured)
        return
    parent = load_parent_model(options.model, options.data)
    rows: dict[str, Any] = {"loss": measure_loss, "ms": measure_ms}[options.verb](parent, options)
    write(options, options.model, rows)


def write(options: argparse.Namespace, model: str, rows: dict[str, Any]) -> None:
    """With what it was measured under."""
    document = {"model": model, "processor": describe_processor(), "rows": rows}
    document |= {name: getattr(options, name) for name in ("length", "items", "batch", "past", "rounds")}
    options.out.write_text(json.dumps(document) + "\n")


if __name__ == "__main__":
    main()

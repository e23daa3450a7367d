"""What fewer experts, and fewer of them for each token, buy in milliseconds and cost in loss.

    python experiments/benchmarks/mixture.py train --out mixture [--steps 400]
    python experiments/benchmarks/mixture.py run mixture --out mixture.json
    python experiments/benchmarks/mixture.py report mixture.json

`train` makes a tiny mixture of experts (Mixtral's form: four blocks, eight experts, two for a token) from nothing, on
the text of `--data`. `run` gives all of its blocks the same level. Losses are divergences from that mixture on the test
split, as cut, without compensation; experts go in the order of REAP. Times are those of the files in ONNX Runtime on
one core of this machine, round by round beside the parent's.
"""

import argparse
import json
import shutil
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from compensation import describe_processor
from torch import Tensor
from transformers import MixtralConfig, MixtralForCausalLM
from windows import take_samples

from latency_models.runner.ort import OnnxRuntime
from latency_models.workload import Workload
from nas.export.onnx_export import export_onnx, make_workload_inputs
from nas.parent.parent import ParentModel, load_parent_model
from nas.quality.evaluator import choose_evaluator
from pruning.analysis import order_channels
from pruning.checkpoint import save
from pruning.surgery.prune import prune
from search_spaces.architecture import Architecture
from search_spaces.unit import Choice

REFERENCE = Path(__file__).parents[1] / "reference" / "python-lm"
LEVELS = ("experts=0.75", "experts=0.5", "experts=0.25", "active=0.5", "active=0.5,experts=0.5", "")
WORKLOADS = ("forward:batch=1,seq=128", "decode:batch=1,past=128")
BATCH, LENGTH, RATE = 8, 128, 3e-3
SIZES = {
    "hidden_size": 96, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "num_local_experts": 8, "num_experts_per_tok": 2, "vocab_size": 4096,
    "max_position_embeddings": 512, "bos_token_id": 1, "eos_token_id": 2, "router_aux_loss_coef": 0.02,
}  # fmt: skip


def train(options: argparse.Namespace) -> None:
    """A mixture that predicts the text, saved as a folder."""
    torch.manual_seed(0)
    model = MixtralForCausalLM(MixtralConfig(**SIZES, output_router_logits=True)).train()
    lines = load_parent_model(str(REFERENCE), options.data).read_dataset(LENGTH).calibration.inputs["input_ids"]
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=options.steps, pct_start=0.1)
    generator = torch.Generator().manual_seed(0)
    for step in range(options.steps):
        ids = lines[torch.randint(len(lines), (BATCH,), generator=generator)]
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
        if step % 50 == 49:
            print(f"{step + 1}: {float(loss.detach()):.3f}", flush=True)
    model.config.output_router_logits = False
    save(model.eval(), options.out)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(REFERENCE / name, options.out / name)


def list_architectures(parent: ParentModel) -> dict[str, Architecture]:
    """The parent, and every level in all blocks; without a level the MLPs are dropped."""
    depth = parent.anatomy.depth
    named = {"parent": Architecture.parent(depth)}
    for words in LEVELS:
        suffix = f":{words}" if words else ""
        chosen = frozenset(Choice.parse(f"mlp.{layer}{suffix}") for layer in range(depth))
        named[words or "dropped"] = Architecture(depth, chosen)
    return named


def run(options: argparse.Namespace) -> None:
    """The table, written as JSON."""
    parent = load_parent_model(str(options.model), options.data)
    items: dict[str, Tensor] = next(iter(parent.read_dataset(LENGTH).calibration.iterate_batches(32)))
    order_channels(parent.placed, parent.anatomy, items)
    evaluator, rows = choose_evaluator(parent.placed, parent.read_dataset(LENGTH)), dict[str, dict[str, Any]]()
    models = {}
    for name, architecture in list_architectures(parent).items():
        models[name] = prune(parent.model, architecture, anatomy=parent.anatomy, share_weights=True)
        quality = evaluator.evaluate(models[name], split="test")
        rows[name] = {"loss": quality.loss, "parameters": models[name].num_parameters()}
        print(name, rows[name], flush=True)
    for text in WORKLOADS:
        for name, ms in measure(parent, models, Workload.parse(text), options.rounds).items():
            rows[name][text] = ms
    document = {"processor": describe_processor(), "rows": rows}
    options.out.write_text(json.dumps(document) + "\n")


def measure(parent: ParentModel, models: dict[str, Any], workload: Workload, rounds: int) -> dict[str, list[float]]:
    """By name the median milliseconds, and the median share of the parent's."""
    inputs, runtime = make_workload_inputs(parent.model, workload), OnnxRuntime("fp32", 1, "cpu", Path("unused"))
    calls = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, model) in enumerate(models.items()):
            file = export_onnx(model, Path(folder) / f"{number}.onnx", phase=workload.phase)
            calls[name] = runtime.load(file, inputs)
            print("exported", workload, name, flush=True)
        samples = take_samples(calls, rounds)
    beside = samples["parent"]
    return {
        name: [statistics.median(own), statistics.median(a / b for a, b in zip(own, beside, strict=True))]
        for name, own in samples.items()
    }


def report(file: Path) -> None:
    """Markdown: a row for each level."""
    document = json.loads(file.read_text())
    print(f"{document['processor']}\n\n| all MLPs | loss | parameters | " + " | ".join(WORKLOADS) + " |")
    print(f"|{(3 + len(WORKLOADS)) * '---|'}")
    for name, row in document["rows"].items():
        times = (f"{row[text][0]:.2f} ms ({row[text][1]:.2f})" for text in WORKLOADS)
        print(f"| {name} | {row['loss']:.4f} | {row['parameters']:,} | {' | '.join(times)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("verb", choices=("train", "run", "report"))
    parser.add_argument("model", nargs="?", type=Path, help="of run: what train wrote; of report: what run wrote")
    parser.add_argument("--data", type=Path, default=REFERENCE / "data")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.verb == "report":
        report(options.model)
    else:
        {"train": train, "run": run}[options.verb](options)


if __name__ == "__main__":
    main()

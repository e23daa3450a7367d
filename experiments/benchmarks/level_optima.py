"""Whether a search over levels finds the true optima: a decoder of four blocks, every combination of levels evaluated.

    python experiments/benchmarks/level_optima.py enumerate --blocks 0,3,7,11 --out losses.npz
    python experiments/benchmarks/level_optima.py search losses.npz [--seeds 0,1,2] --out optima.json

Four blocks of a trained decoder make the parent. Its attentions have a half or a quarter of their heads, its MLPs a
half or a quarter of their neurons, and each may be dropped: four levels of eight units, 65,535 architectures. Their
losses, the divergence from that parent on a few windows, are a table in which the search looks them up. Budgets are
shares of the parent's latency by the data sheet, all in one study.
"""

import argparse
import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from compensation import describe_processor
from torch import Tensor, nn

from latency_models.datasheet_model import DataSheetModel
from latency_models.targets import find_target
from latency_models.workload import Workload
from nas.parent.parent import load_parent_model
from nas.parent.shape import read_shape
from nas.quality import Quality
from nas.search import Problem, run_search
from pruning.anatomy.anatomy import Anatomy, read_anatomy
from pruning.surgery.prune import prune
from search_spaces.architecture import Architecture
from search_spaces.kinds import Kind
from search_spaces.space import Space
from search_spaces.unit import Choice, Unit

DEPTH = 4
BUDGETS = (0.9, 0.8, 0.7, 0.6, 0.5)
LEVELS = {Kind.ATTENTION: (":heads=0.5", ":heads=0.25", ""), Kind.MLP: (":width=0.5", ":width=0.25", "")}
WORKLOAD = Workload.parse("forward:batch=64,seq=64")


def build_parent(options: argparse.Namespace) -> tuple[Any, dict[str, Tensor], Anatomy]:
    """A decoder with four blocks, the windows that it is judged on, and its anatomy."""
    whole = load_parent_model(str(options.model), options.data)
    kept = {int(word) for word in options.blocks.split(",")}
    gone = (Unit(layer, Kind.BLOCK).dropped for layer in range(whole.anatomy.depth) if layer not in kept)
    model = prune(whole.model, Architecture(whole.anatomy.depth, frozenset(gone)), anatomy=whole.anatomy)
    ids = whole.read_dataset(options.length).validation.inputs["input_ids"][: options.items]
    return model, {"input_ids": ids}, read_anatomy(model)


def list_options(layer: int) -> list[tuple[Choice, ...]]:
    """The sixteen combinations of levels of one block."""
    units = [[(), *((Choice.parse(f"{kind}.{layer}{word}"),) for word in words)] for kind, words in LEVELS.items()]
    return [(*one, *other) for one, other in itertools.product(*units)]


@torch.no_grad()
def enumerate_losses(options: argparse.Namespace) -> None:
    """Every combination, depth first: blocks before a change are run once. Written as an array (16, 16, 16, 16)."""
    model, inputs, anatomy = build_parent(options)
    blocks = [[_take_block(model, anatomy, layer, chosen) for chosen in list_options(layer)] for layer in range(DEPTH)]
    seen: list[tuple[Any, Any]] = []
    stack = model.get_submodule(anatomy.stack)
    handle = stack[0].register_forward_pre_hook(
        lambda module, args, kwargs: seen.append((args, kwargs)), with_kwargs=True
    )
    expected = model(**inputs, use_cache=False).logits.log_softmax(-1)
    handle.remove()
    (states, *args), kwargs = seen[0]

    def run(block: nn.Module | None, states: Tensor) -> Tensor:
        output = states if block is None else block(states, *args, **kwargs)
        found: Tensor = output if isinstance(output, Tensor) else output[0]
        return found

    def judge(states: Tensor) -> float:
        logits = model.lm_head(model.transformer.ln_f(states)).log_softmax(-1)
        return float((expected.exp() * (expected - logits)).sum(-1).mean())

    losses, began = np.full((16,) * DEPTH, np.nan), time.perf_counter()
    for place in range(16**2):
        first, second = divmod(place, 16)
        before = run(blocks[1][second], run(blocks[0][first], states))
        for third in range(16):
            after = run(blocks[2][third], before)
            losses[first, second, third] = [judge(run(block, after)) for block in blocks[3]]
        if place % 16 == 15:
            print(f"{place + 1} of 256, {time.perf_counter() - began:.0f} s", flush=True)
    np.savez(options.out, losses=losses)


def _take_block(model: Any, anatomy: Anatomy, layer: int, chosen: tuple[Choice, ...]) -> nn.Module | None:
    """A block with these levels; None where nothing of it is left."""
    if not chosen:
        block: nn.Module = model.get_submodule(anatomy.stack)[layer]
        return block
    if all(choice == choice.unit.dropped for choice in chosen) and len(chosen) == len(LEVELS):
        return None
    candidate = prune(model, Architecture(DEPTH, frozenset(chosen)), anatomy=anatomy, share_weights=True)
    block = candidate.get_submodule(anatomy.stack)[layer]
    return block


def iterate_architectures(space: Space, losses: np.ndarray) -> Iterator[tuple[Architecture, float]]:
    """Every architecture and its loss, but for the one without anything."""
    choices = [list_options(layer) for layer in range(DEPTH)]
    for place in np.ndindex(*losses.shape):
        architecture = space.decode(itertools.chain.from_iterable(choices[layer][at] for layer, at in enumerate(place)))
        if space.contains(architecture):
            yield architecture, max(0.0, float(losses[place]))


def search(options: argparse.Namespace) -> None:
    """The optimum at every budget, what the search finds, and how many architectures it asks for."""
    model, _, anatomy = build_parent(options)
    words = (f"{kind}.{layer}{word}" for kind, some in LEVELS.items() for word in some for layer in range(DEPTH))
    space = Space(DEPTH, tuple(map(Choice.parse, words)))
    latency = DataSheetModel(find_target("jetson-orin"), read_shape(model, anatomy), WORKLOAD)
    known = dict(iterate_architectures(space, np.load(options.table)["losses"]))
    ms = {architecture: latency.predict(architecture, 90).ms for architecture in known}
    whole = ms[space.parent]
    best = {share: min(known[each] for each in known if ms[each] <= share * whole) for share in BUDGETS}
    runs = {}
    for seed in map(int, options.seeds.split(",")):
        asked: set[Architecture] = set()

        def evaluate(architecture: Architecture, items: int | None, asked: set[Architecture] = asked) -> Quality:
            asked.add(architecture)
            return Quality("kl", known[architecture], False, "validation", known[architecture], items=1)

        problem = Problem(
            space, evaluate, latency, min(BUDGETS) * whole, 90, read_redundancy(model, anatomy, options), "sqlite://",
            front=tuple(share * whole for share in BUDGETS), seed=seed,
        )  # fmt: skip
        pool = [each.architecture for each in run_search(problem).candidates if each.full]
        found = {share: min(known[each] for each in pool if ms[each] <= share * whole) for share in BUDGETS}
        runs[seed] = {"evaluations": len(asked), "share": len(asked) / len(known), "found": found}
        print(seed, len(asked), {share: round(found[share] / best[share], 4) for share in BUDGETS}, flush=True)
    document = {"architectures": len(known), "optima": best, "runs": runs, "processor": describe_processor()}
    options.out.write_text(json.dumps(document) + "\n")


def read_redundancy(model: Any, anatomy: Anatomy, options: argparse.Namespace) -> Any:
    """Of the parent, on its own windows."""
    from pruning.analysis.redundancy import measure_redundancy

    _, inputs, _ = build_parent(options)
    return measure_redundancy(model, iter([inputs]), anatomy)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("verb", choices=("enumerate", "search"))
    parser.add_argument("table", nargs="?", type=Path, help="of search: what enumerate wrote")
    benchmarks = Path(__file__).parent
    parser.add_argument("--model", type=Path, default=benchmarks / "decoders" / "gpt2")
    parser.add_argument("--data", type=Path, default=benchmarks.parent / "reference" / "python-lm" / "data")
    parser.add_argument("--blocks", default="0,3,7,11", help="of the model that make the parent")
    parser.add_argument("--length", type=int, default=64, help="tokens of a window")
    parser.add_argument("--items", type=int, default=2)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    {"enumerate": enumerate_losses, "search": search}[options.verb](options)


if __name__ == "__main__":
    main()

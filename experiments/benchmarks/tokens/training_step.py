"""Training with fewer image tokens: operations and time of a step, and what the trained model still answers.

    python experiments/benchmarks/tokens/training_step.py [--schedule 2=0.5,4=0.25,6=0.125] [--steps 80] [--out x.json]

`digits-vlm` goes on training with the recipe's own rows (many turns about one image, each seeing the image and itself
only; the tower frozen), once with all 256 image tokens (the control) and once with the schedule in every step, from the
same weights, on the same batches. In training the words before the answers choose the tokens, in use the last word.

1. Operations of forward and backward, as `torch.utils.flop_counter` counts them with attention as plain products:
   every product of every module, ranking included, no credit for a causal mask. The decoder's and the whole model's.
2. Seconds of a step with its optimizers, the two interleaved in one process on the same batches; medians.
3. Exact answers to the shipped test questions and to fresh ones about the test digits, each model with and without the
   reduction; the differences are of the same questions, with their standard error.
"""

import argparse
import copy
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlavaForConditionalGeneration

from pruning.surgery import prune
from search_spaces.architecture import Architecture
from search_spaces.tokens import Schedule

BENCHMARKS = Path(__file__).parents[1]
MODEL = BENCHMARKS.parent / "reference" / "digits-vlm"
sys.path.append(str(MODEL))  # the recipe

import grids as boards  # noqa: E402
import questions  # noqa: E402
import shipped  # noqa: E402
import stage as stages  # noqa: E402
import tower  # noqa: E402
import turns  # noqa: E402
import vlm  # noqa: E402

ROWS = 16  # grids a step, as in the recipe
FIRST = 2_000_000  # the first step's number: the recipe's own batches have lower ones
WORDS = sum(turns.LENGTHS)
Batch = dict[str, torch.Tensor]
Lines = list[dict[str, str]]


def batch_at(digits: boards.Digits, step: int) -> Batch:
    """The rows of a step as the whole model takes them; the label of a word is the word, where it is learned."""
    made = tower.batch_at(digits, FIRST + step, ROWS, 0)
    rows = turns.turns_of(made, np.random.default_rng([FIRST, step]))
    before = torch.tensor([questions.IDS["<bos>"]] + [questions.IDS["<image>"]] * turns.IMAGE_TOKENS)
    ids = torch.cat([before.expand(ROWS, -1), rows.ids], dim=1)
    labels = torch.full_like(ids, turns.IGNORED)
    labels[:, len(before) + 1 :] = rows.wanted[:, :-1]
    patches = torch.arange(turns.IMAGE_TOKENS).expand(ROWS, -1)
    places = turns.positions(patches, closed=False)
    return {"input_ids": ids, "pixel_values": boards.to_input(made.images), "labels": labels, "position_ids": places}


def apart(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A block's arguments with the mask that keeps turns apart, for as many image tokens as the block still has."""
    hidden = args[0] if args else kwargs["hidden_states"]
    seen = turns.visible(hidden.shape[1] - WORDS - 1)
    return args, {**kwargs, "attention_mask": torch.zeros(()).where(seen, torch.tensor(-1e9))}


@contextmanager
def turns_apart(model: Any) -> Iterator[None]:
    """Every turn sees the image and itself: for training rows. Goes last, after tokens were dropped."""
    handles = [block.register_forward_pre_hook(apart, with_kwargs=True) for block in model.model.language_model.layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def loss_of(model: Any, batch: Batch) -> torch.Tensor:
    """As the recipe computes it: bfloat16 where that is safe."""
    with torch.autocast("cpu", torch.bfloat16):
        loss: torch.Tensor = model(**batch, use_cache=False).loss
    return loss


def operations(model: Any, batch: Batch) -> dict[str, int]:
    """Forward and backward, a multiply-add as two: of the whole model and of its parts."""
    names = ("", ".model.vision_tower", ".model.multi_modal_projector", ".model.language_model", ".lm_head")
    with turns_apart(model), FlopCounterMode(display=False) as counter:
        model(**batch, use_cache=False).loss.backward()
    model.zero_grad(set_to_none=True)
    counts = counter.get_flop_counts()
    found = {(name or ".whole").rpartition(".")[2]: sum(counts[type(model).__name__ + name].values()) for name in names}
    assert found["whole"] == counter.get_total_flops()
    return found


def continued(steps: int) -> stages.Stage:
    """The recipe's last stage again, with its highest rate."""
    return stages.Stage("continued", steps, 5e-4, warmup=min(20, steps), muon=True, report_every=10**9)


def stepper(model: Any) -> Callable[[Batch], None]:
    """A whole training step of a model, as the recipe takes it."""
    optimizers = stages.optimizers_of(model, continued(100))

    def step(batch: Batch) -> None:
        loss_of(model, batch).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return step


def seconds(models: dict[str, Any], digits: boards.Digits, rounds: int) -> dict[str, list[float]]:
    """Of steps of copies of the models, in turn; the first two rounds only warm up."""
    copies = {name: copy.deepcopy(model) for name, model in models.items()}
    steps = {name: stepper(model) for name, model in copies.items()}
    found: dict[str, list[float]] = {name: [] for name in models}
    for number in range(-2, rounds):
        batch = batch_at(digits, number % 8)
        for name, model in copies.items():
            with turns_apart(model):
                began = time.perf_counter()
                steps[name](batch)
                if number >= 0:
                    found[name].append(time.perf_counter() - began)
    return found


def train(model: Any, digits: boards.Digits, steps: int) -> None:
    """Go on training a model in place; nothing is drawn at random but the batches, which the step's number decides."""

    def loss_at(step: int) -> torch.Tensor:
        return loss_of(model, batch_at(digits, step))

    model.train()
    with tempfile.TemporaryDirectory() as folder, turns_apart(model):
        stages.run(continued(steps), model, loss_at, lambda: "", Path(folder))
    model.eval()


def fresh_questions(digits: boards.Digits, count: int) -> tuple[torch.Tensor, Lines]:
    """A question of every kind about each of `count` grids that do not ship; pixels and lines as `shipped.read`'s."""
    rng = np.random.default_rng([FIRST, 1])
    made = boards.make(digits, count, rng)
    places, lines = [], []
    for place, cells in enumerate(made.cells):
        for kind in questions.KINDS:
            asked = turns.ask(cells, kind, rng)
            if asked:
                places.append(place)
                lines.append({"question": asked.text, "answer": asked.answer, "kind": kind})
    return boards.to_input(made.images)[places], lines


def right(model: Any, pixels: torch.Tensor, lines: Lines) -> np.ndarray:
    """(lines,) bool: which are answered exactly, one question a prompt, greedily."""
    said = vlm.answers(model, pixels, [line["question"] for line in lines])
    return np.array([line["answer"] == word for line, word in zip(lines, said, strict=True)])


def shares(answered: np.ndarray, lines: Lines) -> dict[str, float]:
    """Of exact answers: of all and of each kind."""
    kinds = np.array([line["kind"] for line in lines])
    by_kind = {kind: float(answered[kinds == kind].mean()) for kind in questions.KINDS}
    return {name: round(share, 4) for name, share in {"all": float(answered.mean()), **by_kind}.items()}


def between(one: np.ndarray, other: np.ndarray) -> dict[str, float]:
    """How many points (hundredths) the first is above the second on the same questions, and the standard error."""
    points = 100 * (one.astype(float) - other)
    return {"points": round(float(points.mean()), 2), "error": round(float(points.std() / len(points) ** 0.5), 2)}


def judged(models: dict[str, Any], sets: dict[str, tuple[torch.Tensor, Lines]]) -> dict[str, Any]:
    """Exact answers of every model to every set of questions, and the differences that matter."""
    pairs = {
        "trained reduced, used reduced - control": ("reduced, used reduced", "control"),
        "trained reduced, used whole - control": ("reduced, used whole", "control"),
        "shipped, used reduced - shipped": ("shipped, used reduced", "shipped"),
    }
    found: dict[str, Any] = {}
    for name, (pixels, lines) in sets.items():
        answered = {who: right(model, pixels, lines) for who, model in models.items()}
        exact = {who: shares(those, lines) for who, those in answered.items()}
        differences = {pair: between(answered[a], answered[b]) for pair, (a, b) in pairs.items()}
        found[name] = {"questions": len(lines), "exact": exact, "differences": differences}
        print(json.dumps({name: found[name]}, indent=2), flush=True)
    return found


def with_weights(model: Any, other: Any) -> Any:
    """A copy of a model with the parameters of another: a reduction has none of its own."""
    made = copy.deepcopy(model)
    made.load_state_dict(other.state_dict())
    return made


def saved(dense: float, reduced: float) -> dict[str, float]:
    return {"dense": dense, "reduced": reduced, "saved": round(1 - reduced / dense, 4)}


def cost(models: dict[str, Any], digits: boards.Digits, rounds: int) -> dict[str, Any]:
    """Operations and seconds of a step."""
    batch = batch_at(digits, 0)
    counts = {name: operations(model, batch) for name, model in models.items()}
    for name, model in models.items():  # in the recipe it is frozen
        tower_too = copy.deepcopy(model).requires_grad_(True)
        counts[name]["whole, tower trained too"] = operations(tower_too, batch)["whole"]
    parts = {part: saved(counts["dense"][part], counts["reduced"][part]) for part in counts["dense"]}
    print(json.dumps(parts, indent=2), flush=True)
    times = {name: statistics.median(those) for name, those in seconds(models, digits, rounds).items()}
    found = {"operations": parts, "seconds": saved(times["dense"], times["reduced"]), "rounds": rounds}
    print(json.dumps(found["seconds"]), flush=True)
    return found


def main() -> None:
    """Measure, train twice, judge; write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, default=MODEL, help="folder of the model, with its data")
    parser.add_argument("--schedule", default="2=0.5,4=0.25,6=0.125", help="BLOCK=RATIO of the image tokens, ...")
    parser.add_argument("--steps", type=int, default=80, help="of training, for each of the two")
    parser.add_argument("--rounds", type=int, default=16, help="of timing")
    parser.add_argument("--grids", type=int, default=250, help="with fresh questions, one of every kind about each")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=BENCHMARKS / "results" / "tokens-training.json")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    digits = boards.splits()
    dense = LlavaForConditionalGeneration.from_pretrained(given.model, attn_implementation="eager").eval()
    dense.model.vision_tower.requires_grad_(False)  # as in the recipe
    schedule = Schedule.parse(given.schedule)
    architecture = Architecture(len(dense.model.language_model.layers)).with_tokens(schedule)
    reduced = prune(dense, architecture)
    document = {"schedule": str(schedule), "reduction": schedule.reduction.to_json(), "rows": ROWS}
    document |= {"steps": given.steps, "threads": given.threads}
    document |= cost({"dense": dense, "reduced": reduced}, digits["train"], given.rounds)
    control, taught = copy.deepcopy(dense), copy.deepcopy(reduced)
    for model in (control, taught):
        train(model, digits["train"], given.steps)
    models = {
        "shipped": dense,
        "shipped, used reduced": reduced,
        "control": control,
        "control, used reduced": with_weights(reduced, control),
        "reduced, used reduced": taught,
        "reduced, used whole": with_weights(dense, taught),
    }
    sets = {"test": shipped.read(given.model / "data", "test"), "fresh": fresh_questions(digits["test"], given.grids)}
    document["answers"] = judged(models, sets)
    given.out.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()

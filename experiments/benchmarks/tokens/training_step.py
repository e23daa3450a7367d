"""Training with fewer image tokens: operations and time of a step, and what the trained model still answers.

    python experiments/benchmarks/tokens/training_step.py questions [--schedule 2=0.5,4=0.25,6=0.125]
    python experiments/benchmarks/tokens/training_step.py turns --steps 80 --rate 5e-4

`digits-vlm` goes on training, its tower frozen as in the recipe, once with all 256 image tokens (the control) and once
with the schedule in every step: from the same weights, on the same batches, with the same optimizers.

questions   a row is an image and one question, as the model is used: the same word chooses the tokens in training and
            in use.
turns       the recipe's rows: 11 questions about one image, each seeing the image and itself only. The tokens are
            chosen once a row, by the mean of what all 11 ask (Xing et al. 2025), in use by one question alone.

Of each kind of rows, by its name in the results:

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
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlavaForConditionalGeneration

from pruning.surgery.prune import prune
from search_spaces.architecture import Architecture
from search_spaces.schedule import Schedule

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

FIRST = 2_000_000  # the first step's number: the recipe's own batches have lower ones
WORDS = sum(turns.LENGTHS)
BEFORE = [questions.IDS["<bos>"]] + [questions.IDS["<image>"]] * turns.IMAGE_TOKENS
LONGEST = max(turns.WORDS_OF.values())
KINDS = {"corner": 0.1, "cell": 0.2, "count": 0.35, "total": 0.35}  # of single questions: the hard ones more often
Batch = dict[str, torch.Tensor]
Lines = list[dict[str, str]]


def build_turns(digits: boards.Digits, step: int, count: int) -> Batch:
    """The recipe's rows as the whole model takes them; the label of a word is the word, where it is learned."""
    made = tower.draw_batch(digits, FIRST + step, count, 0)
    rows = turns.build_turns(made, np.random.default_rng([FIRST, step]))
    ids = torch.cat([torch.tensor(BEFORE).expand(count, -1), rows.ids], dim=1)
    labels = torch.full_like(ids, turns.IGNORED)
    labels[:, len(BEFORE) + 1 :] = rows.wanted[:, :-1]
    patches = torch.arange(turns.IMAGE_TOKENS).expand(count, -1)
    positions = turns.number_positions(patches, closed=False)
    return {
        "input_ids": ids,
        "pixel_values": boards.convert_to_input(made.images),
        "labels": labels,
        "position_ids": positions,
    }


def build_questions(digits: boards.Digits, step: int, count: int) -> Batch:
    """A question a row, padded on the right."""
    rng = np.random.default_rng([FIRST, step])
    made = tower.draw_batch(digits, FIRST + step, count, 0)
    pad, end, ids, labels = questions.IDS["<pad>"], questions.IDS["<eos>"], [], []
    for cells in made.cells:
        asked = turns.ask(cells, str(rng.choice(list(KINDS), p=list(KINDS.values()))), rng) or questions.ask_cell(
            cells, rng
        )
        words = [questions.IDS[word] for word in asked.text.split()]
        answer, rest = [questions.IDS[asked.answer], end], LONGEST - len(words)
        ids.append(BEFORE + words + answer + [pad] * rest)
        labels.append([turns.IGNORED] * (len(BEFORE) + len(words)) + answer + [turns.IGNORED] * rest)
    batch = {"input_ids": torch.tensor(ids), "labels": torch.tensor(labels)}
    mask = (batch["input_ids"] != pad).long()
    return {**batch, "attention_mask": mask, "pixel_values": boards.convert_to_input(made.images)}


def separate_turns(
    module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A block's arguments with the mask that keeps turns apart, for as many image tokens as the block still has."""
    hidden = args[0] if args else kwargs["hidden_states"]
    seen = turns.mark_visible(hidden.shape[1] - WORDS - 1)
    return args, {**kwargs, "attention_mask": torch.zeros(()).where(seen, torch.tensor(-1e9))}


@contextmanager
def keep_turns_apart(model: Any) -> Iterator[None]:
    """Every turn sees the image and itself: for training rows. Goes last, after tokens were dropped."""
    handles = [
        block.register_forward_pre_hook(separate_turns, with_kwargs=True) for block in model.model.language_model.layers
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True)
class Rows:
    """A kind of training rows: the batch of a step, how many rows it has, what a model needs around a pass."""

    make: Callable[[boards.Digits, int, int], Batch]
    count: int
    around: Callable[[Any], AbstractContextManager[Any]]

    def build_batch(self, digits: boards.Digits, step: int) -> Batch:
        return self.make(digits, step, self.count)


ROWS = {"questions": Rows(build_questions, 32, nullcontext), "turns": Rows(build_turns, 16, keep_turns_apart)}


def compute_loss(model: Any, batch: Batch) -> torch.Tensor:
    """As the recipe computes it: bfloat16 where that is safe."""
    with torch.autocast("cpu", torch.bfloat16):
        loss: torch.Tensor = model(**batch, use_cache=False).loss
    return loss


def count_operations(model: Any, rows: Rows, batch: Batch) -> dict[str, int]:
    """Forward and backward, a multiply-add as two: of the whole model and of its parts."""
    names = ("", ".model.vision_tower", ".model.multi_modal_projector", ".model.language_model", ".lm_head")
    with rows.around(model), FlopCounterMode(display=False) as counter:
        model(**batch, use_cache=False).loss.backward()
    model.zero_grad(set_to_none=True)
    counts = counter.get_flop_counts()
    operations = {
        (name or ".whole").rpartition(".")[2]: sum(counts[type(model).__name__ + name].values()) for name in names
    }
    assert operations["whole"] == counter.get_total_flops()
    return operations


def build_stage(steps: int, rate: float = 5e-4) -> stages.Stage:
    """As the recipe's last stage; the rate is the highest one."""
    return stages.Stage("continued", steps, rate, warmup=min(20, steps), muon=True, report_every=10**9)


def build_stepper(model: Any) -> Callable[[Batch], None]:
    """A whole training step of a model, as the recipe takes it."""
    optimizers = stages.build_optimizers(model, build_stage(100))

    def step(batch: Batch) -> None:
        compute_loss(model, batch).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return step


def measure_seconds(models: dict[str, Any], rows: Rows, digits: boards.Digits, rounds: int) -> dict[str, list[float]]:
    """Of steps of copies of the models, in turn; the first two rounds only warm up."""
    copies = {name: copy.deepcopy(model) for name, model in models.items()}
    steps = {name: build_stepper(model) for name, model in copies.items()}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for number in range(-2, rounds):
        batch = rows.build_batch(digits, number % 8)
        for name, model in copies.items():
            with rows.around(model):
                began = time.perf_counter()
                steps[name](batch)
                if number >= 0:
                    seconds[name].append(time.perf_counter() - began)
    return seconds


def train(model: Any, rows: Rows, digits: boards.Digits, stage: stages.Stage) -> None:
    """Go on training a model in place; nothing is drawn at random but the batches, which the step's number decides."""

    def compute_loss_at(step: int) -> torch.Tensor:
        return compute_loss(model, rows.build_batch(digits, step))

    model.train()
    with tempfile.TemporaryDirectory() as folder, rows.around(model):
        stages.run(stage, model, compute_loss_at, lambda: "", Path(folder))
    model.eval()


def draw_fresh_questions(digits: boards.Digits, count: int) -> tuple[torch.Tensor, Lines]:
    """A question of every kind about each of `count` grids that do not ship; pixels and lines as `shipped.read`'s."""
    rng = np.random.default_rng([FIRST, 1])
    made = boards.make(digits, count, rng)
    positions, lines = [], []
    for position, cells in enumerate(made.cells):
        for kind in questions.KINDS:
            asked = turns.ask(cells, kind, rng)
            if asked:
                positions.append(position)
                lines.append({"question": asked.text, "answer": asked.answer, "kind": kind})
    return boards.convert_to_input(made.images)[positions], lines


def mark_right(model: Any, pixels: torch.Tensor, lines: Lines) -> np.ndarray:
    """(lines,) bool: which are answered exactly, one question a prompt, greedily."""
    answers = vlm.generate_answers(model, pixels, [line["question"] for line in lines])
    return np.array([line["answer"] == word for line, word in zip(lines, answers, strict=True)])


def compute_shares(answered: np.ndarray, lines: Lines) -> dict[str, float]:
    """Of exact answers: of all and of each kind."""
    kinds = np.array([line["kind"] for line in lines])
    by_kind = {kind: float(answered[kinds == kind].mean()) for kind in questions.KINDS}
    return {name: round(share, 4) for name, share in {"all": float(answered.mean()), **by_kind}.items()}


def compare_shares(one: np.ndarray, other: np.ndarray) -> dict[str, float]:
    """How many points (hundredths) the first is above the second on the same questions, and the standard error."""
    points = 100 * (one.astype(float) - other)
    return {"points": round(float(points.mean()), 2), "error": round(float(points.std() / len(points) ** 0.5), 2)}


def judge_models(models: dict[str, Any], sets: dict[str, tuple[torch.Tensor, Lines]]) -> dict[str, Any]:
    """Exact answers of every model to every set of questions, and the differences that matter."""
    pairs = {
        "trained reduced, used reduced - control": ("reduced, used reduced", "control"),
        "trained reduced, used whole - control": ("reduced, used whole", "control"),
        "shipped, used reduced - shipped": ("shipped, used reduced", "shipped"),
    }
    judged: dict[str, Any] = {}
    for name, (pixels, lines) in sets.items():
        answered = {who: mark_right(model, pixels, lines) for who, model in models.items()}
        exact = {who: compute_shares(those, lines) for who, those in answered.items()}
        differences = {pair: compare_shares(answered[a], answered[b]) for pair, (a, b) in pairs.items()}
        judged[name] = {"questions": len(lines), "exact": exact, "differences": differences}
        print(json.dumps({name: judged[name]}, indent=2), flush=True)
    return judged


def copy_with_weights(model: Any, other: Any) -> Any:
    """A copy of a model with the parameters of another: a reduction has none of its own."""
    made = copy.deepcopy(model)
    made.load_state_dict(other.state_dict())
    return made


def compute_saved(dense: float, reduced: float) -> dict[str, float]:
    return {"dense": dense, "reduced": reduced, "saved": round(1 - reduced / dense, 4)}


def measure_cost(models: dict[str, Any], rows: Rows, digits: boards.Digits, rounds: int) -> dict[str, Any]:
    """Operations and seconds of a step."""
    batch = rows.build_batch(digits, 0)
    counts = {name: count_operations(model, rows, batch) for name, model in models.items()}
    for name, model in models.items():  # in the recipe it is frozen
        tower_too = copy.deepcopy(model).requires_grad_(True)
        counts[name]["whole, tower trained too"] = count_operations(tower_too, rows, batch)["whole"]
    parts = {part: compute_saved(counts["dense"][part], counts["reduced"][part]) for part in counts["dense"]}
    print(json.dumps(parts, indent=2), flush=True)
    times = {name: statistics.median(those) for name, those in measure_seconds(models, rows, digits, rounds).items()}
    cost = {"operations": parts, "seconds": compute_saved(times["dense"], times["reduced"]), "rounds": rounds}
    print(json.dumps(cost["seconds"]), flush=True)
    return cost


def compare_models(
    dense: Any, reduced: Any, rows: Rows, digits: dict[str, boards.Digits], given: Any
) -> dict[str, Any]:
    """Everything about one kind of rows: what a step costs, and what the two trained models answer."""
    document = {"rows": rows.count, "steps": given.steps, "rate": given.rate}
    document |= measure_cost({"dense": dense, "reduced": reduced}, rows, digits["train"], given.rounds)
    control, taught = copy.deepcopy(dense), copy.deepcopy(reduced)
    for model in (control, taught):
        train(model, rows, digits["train"], build_stage(given.steps, given.rate))
    models = {
        "shipped": dense,
        "shipped, used reduced": reduced,
        "control": control,
        "control, used reduced": copy_with_weights(reduced, control),
        "reduced, used reduced": taught,
        "reduced, used whole": copy_with_weights(dense, taught),
    }
    sets = {
        given.split: shipped.read(given.model / "data", given.split),
        f"fresh {given.split}": draw_fresh_questions(digits[given.split], given.grids),
    }
    return {**document, "answers": judge_models(models, sets)}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("rows", choices=ROWS, nargs="?", default="questions", help="what a training row is")
    parser.add_argument("--model", type=Path, default=MODEL, help="folder of the model, with its data")
    parser.add_argument("--schedule", default="2=0.5,4=0.25,6=0.125", help="BLOCK=RATIO of the image tokens, ...")
    parser.add_argument("--steps", type=int, default=200, help="of training, for each of the two")
    parser.add_argument("--rate", type=float, default=3e-4, help="highest learning rate")
    parser.add_argument("--rounds", type=int, default=16, help="of timing")
    parser.add_argument("--split", choices=("validation", "test"), default="test", help="whose questions are asked")
    parser.add_argument("--grids", type=int, default=250, help="with fresh questions, one of every kind about each")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=BENCHMARKS / "results" / "tokens-training.json")
    return parser.parse_args()


def main() -> None:
    """Measure, train twice, judge; the figures join those of the other kind of rows."""
    given = parse_arguments()
    torch.set_num_threads(given.threads)
    dense = LlavaForConditionalGeneration.from_pretrained(given.model, attn_implementation="eager").eval()
    dense.model.vision_tower.requires_grad_(False)  # as in the recipe
    schedule = Schedule.parse(given.schedule)
    reduced = prune(dense, Architecture(len(dense.model.language_model.layers)).replace_tokens(schedule))
    comparison = compare_models(dense, reduced, ROWS[given.rows], boards.load_splits(), given)
    how = {"schedule": str(schedule), "reduction": schedule.reduction.to_json(), "threads": given.threads}
    document = json.loads(given.out.read_text()) if given.out.exists() else {}
    given.out.write_text(json.dumps({**document, given.rows: {**how, **comparison}}, indent=2) + "\n")


if __name__ == "__main__":
    main()

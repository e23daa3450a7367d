"""Train `digits-vlm`: a LLaVA-type model that answers questions about grids of handwritten digits, on one CPU core.

    python train.py --out /tmp/digits-vlm    # the whole recipe; interrupted, it goes on where it stopped

Three stages: the tower alone learns to read cells; decoder and projector learn to answer from a few patches of every
cell; the same from all 256 image tokens. Training shows digits of the training split only, turned and shifted.
"""

import argparse
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from grids import Digits, convert_to_input, load_splits, make
from questions import KINDS, make_tokenizer
from shipped import read, write
from stage import Stage, run
from tower import Reader, compute_loss, draw_batch, measure_cell_accuracy, patch_cells, prime
from transformers import CLIPVisionModel, LlavaForConditionalGeneration, LlavaProcessor
from turns import Talker, ask, build_turns, mark_visible, number_positions, prime_projector, thin
from vlm import Shape, build, build_image_processor, generate_answers


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the result."""

    shape: Shape = field(default_factory=Shape)
    tower: Stage = field(default_factory=lambda: Stage("tower", 2400, 2e-3))
    few: Stage = field(default_factory=lambda: Stage("few", 1450, 2e-3, warmup=160, muon=True))
    all: Stage = field(default_factory=lambda: Stage("all", 300, 5e-4, warmup=20, muon=True, save_every=100))
    batch: int = 32  # grids a step for the tower
    rows: int = 16  # grids a step for the decoder, with all turns of each
    patches: tuple[tuple[int, int], ...] = ((700, 1), (1000, 2), (1450, 4))  # until a step of `few`: so many a cell
    seed: int = 0


def train_tower(model: LlavaForConditionalGeneration, digits: dict[str, Digits], recipe: Recipe, folder: Path) -> None:
    """The tower reads cells; afterwards it is frozen, and the projector begins with what it reads."""
    torch.manual_seed(recipe.seed)
    tower = model.model.vision_tower = CLIPVisionModel(model.config.vision_config)
    prime(tower)
    reader, where = Reader(tower), patch_cells()
    run(
        recipe.tower,
        reader,
        lambda step: compute_loss(reader, draw_batch(digits["train"], step, recipe.batch, recipe.seed), where),
        lambda: "cells {:.4f} patches {:.4f} counts {:.3f}".format(
            *measure_cell_accuracy(reader, digits["validation"])
        ),
        folder,
    )
    tower.requires_grad_(False)
    prime_projector(model.model.multi_modal_projector, reader)


def train_talker(
    model: LlavaForConditionalGeneration, digits: dict[str, Digits], recipe: Recipe, stage: Stage, folder: Path
) -> None:
    """Decoder and projector answer; with all patches of a cell in the stage `all`, with `recipe.patches` before."""
    talker, tower = Talker(model), model.model.vision_tower
    every = 16 if stage.name == "all" else None

    def compute_loss_at(step: int) -> torch.Tensor:
        rng = np.random.default_rng([recipe.seed, step, 1 + (every or 0)])
        grids = draw_batch(digits["train"], step + (1_000_000 if every else 500_000), recipe.rows, recipe.seed)
        patches = thin(every or next(each for until, each in recipe.patches if step < until), recipe.rows, rng)
        positions = number_positions(patches, closed=bool(rng.integers(2)) and every is None)
        mask = torch.zeros(()).where(mark_visible(patches.shape[1]), torch.tensor(-1e9))
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                seen = tower(pixel_values=convert_to_input(grids.images), output_hidden_states=True).hidden_states[-1][
                    :, 1:
                ]
            kept = seen.gather(1, patches[..., None].expand(-1, -1, seen.shape[-1]))
            return talker(kept, build_turns(grids, rng), positions, mask)

    def report() -> str:
        accuracy = measure_exact(model, digits["validation"], 64)
        return " ".join(f"{kind} {share:.3f}" for kind, share in accuracy.items())

    run(stage, talker, compute_loss_at, report, folder)


def measure_exact(model: LlavaForConditionalGeneration, digits: Digits, grids: int) -> dict[str, float]:
    """The share of exact answers of each kind of question, one about each of `grids` fresh grids."""
    rng = np.random.default_rng(3)
    made = make(digits, grids, rng)
    pixels, shares = convert_to_input(made.images), {}
    for kind in KINDS:
        asked = [ask(cells, kind, rng) for cells in made.cells]
        there = [position for position, question in enumerate(asked) if question]
        answers = generate_answers(model, pixels[there], [asked[position].text for position in there])
        shares[kind] = float(
            np.mean([asked[position].answer == word for position, word in zip(there, answers, strict=True)])
        )
    return shares


def measure_exact_shipped(model: LlavaForConditionalGeneration, folder: Path, split: str) -> dict[str, float]:
    """The share of exact answers to the questions of a split that ship, of each kind and of all."""
    pixels, lines = read(folder, split)
    answers = generate_answers(model, pixels, [line["question"] for line in lines])
    right = np.array([line["answer"] == word for line, word in zip(lines, answers, strict=True)])
    kinds = np.array([line["kind"] for line in lines])
    return {**{kind: float(right[kinds == kind].mean()) for kind in KINDS}, "all": float(right.mean())}


def save(model: LlavaForConditionalGeneration, digits: dict[str, Digits], folder: Path) -> None:
    """Weights, tokenizer, processor and held-out data, as they ship."""
    model.save_pretrained(folder)
    LlavaProcessor(
        image_processor=build_image_processor(),
        tokenizer=make_tokenizer(),
        patch_size=model.config.vision_config.patch_size,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    ).save_pretrained(folder)
    write(digits, folder / "data")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the model and the training state")
    parser.add_argument("--steps", type=int, help="of every stage, fewer, to try it")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    recipe, digits = Recipe(), load_splits()
    if arguments.steps:
        shorter = {name: replace(getattr(recipe, name), steps=arguments.steps) for name in ("tower", "few", "all")}
        recipe = replace(recipe, **shorter)
    state = arguments.out / "state"
    state.mkdir(parents=True, exist_ok=True)
    model = build(recipe.shape, recipe.seed)
    print(f"{model.num_parameters() / 1e6:.2f} M parameters, {len(digits['train'].labels)} training digits", flush=True)
    train_tower(model, digits, recipe, state)
    model.set_attn_implementation("eager")  # twice as fast to train on a CPU, with a mask
    for stage in (recipe.few, recipe.all):
        train_talker(model, digits, recipe, stage, state)
    model.set_attn_implementation("sdpa")
    save(model, digits, arguments.out / "model")
    held_out = ("validation", "test")
    figures = {
        "shipped": {name: measure_exact_shipped(model, arguments.out / "model" / "data", name) for name in held_out},
        "fresh": {name: measure_exact(model, digits[name], 500) for name in held_out},
    }
    record = {"recipe": asdict(recipe), "exact": figures}
    (arguments.out / "model" / "record.json").write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()

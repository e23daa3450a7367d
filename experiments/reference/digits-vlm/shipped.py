"""The held-out data that ships with the model: grids as PNG files and the questions about them."""

import json
from pathlib import Path

import numpy as np
import torch
from grids import Digits, convert_to_input, make
from PIL import Image
from questions import Question
from turns import ask

GRIDS = {"calibration": 48, "validation": 240, "test": 128}


def ask_three(cells: np.ndarray, number: int, rng: np.random.Generator) -> list[Question]:
    """A cell, a count, and in turn a corner or the total."""
    other = ask(cells, "corner", rng) if number % 2 else None
    asked = (ask(cells, "cell", rng), ask(cells, "count", rng), other or ask(cells, "total", rng))
    return [question for question in asked if question]


def write(digits: dict[str, Digits], folder: Path) -> None:
    """`folder/questions.jsonl`, three lines a grid, and `folder/grids/*.png`; each split of its own digits."""
    (folder / "grids").mkdir(parents=True, exist_ok=True)
    lines, number = [], 0
    for position, (split, count) in enumerate(GRIDS.items()):
        rng = np.random.default_rng([2026, position])
        made = make(digits[split], count, rng)
        pixels = (made.images.numpy() * 255).round().astype(np.uint8)
        for image, cells in zip(pixels, made.cells, strict=True):
            number += 1
            name = f"grids/{number:04d}.png"
            Image.fromarray(image).save(folder / name, optimize=True)
            for asked in ask_three(cells, number, rng):
                line = {"image": name, "question": asked.text, "answer": asked.answer}
                lines.append(json.dumps({**line, "kind": asked.kind, "split": split}))
    (folder / "questions.jsonl").write_text("\n".join(lines) + "\n")


def read(folder: Path, split: str) -> tuple[torch.Tensor, list[dict[str, str]]]:
    """The lines of a split, and the pixels (lines, 3, 32, 32) of each line's grid."""
    lines = [json.loads(line) for line in (folder / "questions.jsonl").read_text().splitlines()]
    chosen = [line for line in lines if line["split"] == split]
    images = np.stack([np.asarray(Image.open(folder / line["image"])) for line in chosen])
    return convert_to_input(torch.from_numpy(images).float() / 255), chosen

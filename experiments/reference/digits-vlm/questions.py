"""Questions about a grid, their answers, and the words of both: one token a word, one token an answer.

which digit is top left ?               a corner, where it is not blank
which digit is in row 2 column 3 ?      a cell, where it is not blank
how many threes ?                       0 to 6
how many digits ?                       6 to 14
"""

from dataclasses import dataclass

import numpy as np
from grids import BLANK, CELLS, SIDE
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>", "<image>")
PLURALS = ("zeros", "ones", "twos", "threes", "fours", "fives", "sixes", "sevens", "eights", "nines")
NUMBERS = tuple(str(number) for number in range(CELLS + 1))
WORDING = (
    "which",
    "digit",
    "is",
    "top",
    "bottom",
    "left",
    "right",
    "in",
    "row",
    "column",
    "how",
    "many",
    "digits",
    "?",
)
WORDS = SPECIAL + NUMBERS + PLURALS + WORDING
IDS = {word: position for position, word in enumerate(WORDS)}
CORNERS = {"top left": 0, "top right": SIDE - 1, "bottom left": CELLS - SIDE, "bottom right": CELLS - 1}
KINDS = ("corner", "cell", "count", "total")


@dataclass(frozen=True)
class Question:
    """Its kind (one of KINDS), its words, and its answer, one word of NUMBERS."""

    kind: str
    text: str
    answer: str


def ask_corner(cells: np.ndarray, rng: np.random.Generator) -> Question | None:
    """Of a grid's (16,) cells; None where all four corners are blank."""
    filled = [name for name, at in CORNERS.items() if cells[at] != BLANK]
    if not filled:
        return None
    name = filled[rng.integers(len(filled))]
    return Question("corner", f"which digit is {name} ?", str(cells[CORNERS[name]]))


def ask_cell(cells: np.ndarray, rng: np.random.Generator) -> Question:
    at = int(rng.choice(np.flatnonzero(cells != BLANK)))
    row, column = at // SIDE + 1, at % SIDE + 1
    return Question("cell", f"which digit is in row {row} column {column} ?", str(cells[at]))


def ask_count(cells: np.ndarray, rng: np.random.Generator) -> Question:
    """Every number that is some digit's count in the grid is as likely to be the answer."""
    counts = np.bincount(cells, minlength=10)[:10]
    answer = rng.choice(np.unique(counts))
    digit = rng.choice(np.flatnonzero(counts == answer))
    return Question("count", f"how many {PLURALS[digit]} ?", str(answer))


def ask_total(cells: np.ndarray) -> Question:
    return Question("total", "how many digits ?", str((cells != BLANK).sum()))


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A token a word; `<bos>` begins every text."""
    tokenizer = Tokenizer(models.WordLevel(IDS, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A $B", special_tokens=[("<bos>", IDS["<bos>"])]
    )
    named = {f"{name}_token": f"<{name}>" for name in ("pad", "bos", "eos", "unk")}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **named, extra_special_tokens={"image_token": "<image>"}, padding_side="left"
    )

"""Phases 2 and 3: many questions about one image in one sequence, each seeing the image and itself only.

    <bos> <image> ... <image> | which digit is top left ? 3 <eos> | how many threes ? 2 <eos> | ...

Every turn has the positions that it would have alone, so a row of turns teaches what single questions would, at the
price of one image. The image may be thinned to a few patches of every cell.
"""

from dataclasses import dataclass

import numpy as np
import torch
from grids import BLANK, CELLS, Grids
from questions import IDS, Question, ask_cell, ask_corner, ask_count, ask_total
from torch import nn
from torch.nn.functional import cross_entropy
from tower import WITHIN, Reader, patch_cells

PLAN = (*["corner"] * 2, *["cell"] * 4, *["count"] * 4, "total")
WORDS_OF = {"corner": 6, "cell": 9, "count": 4, "total": 4}
LENGTHS = tuple(WORDS_OF[kind] + 2 for kind in PLAN)  # with the answer and <eos>
IGNORED = -100
IMAGE_TOKENS = CELLS * WITHIN**2


@dataclass(frozen=True)
class Turns:
    """ids (n, t) of the words; wanted (n, t): the next word where it is an answer or `<eos>`, else IGNORED."""

    ids: torch.Tensor
    wanted: torch.Tensor


def ask(cells: np.ndarray, kind: str, rng: np.random.Generator) -> Question | None:
    """A question of a kind about (16,) cells; None where there is none to ask."""
    return (
        ask_total(cells)
        if kind == "total"
        else {"corner": ask_corner, "cell": ask_cell, "count": ask_count}[kind](cells, rng)
    )


def build_turns(grids: Grids, rng: np.random.Generator) -> Turns:
    """The questions of PLAN about every grid; what cannot be asked is a filler that wants no answer."""
    ids, wanted = [], []
    for cells in grids.cells:
        row: list[int] = []
        want: list[int] = []
        for kind in PLAN:
            asked = ask(cells, kind, rng)
            text = asked.text if asked else "which digit is top left ?"
            words = [IDS[word] for word in text.split()]
            answer = IDS[asked.answer] if asked else IGNORED
            row += [*words, max(answer, 0), IDS["<eos>"]]
            want += [IGNORED] * (len(words) - 1) + [answer, IDS["<eos>"] if asked else IGNORED, IGNORED]
        ids.append(row)
        wanted.append(want)
    return Turns(torch.tensor(ids), torch.tensor(wanted))


def thin(each: int, count: int, rng: np.random.Generator) -> torch.Tensor:
    """(count, 16 * each): `each` random patches of every cell, in the order of the image."""
    where = patch_cells().numpy()
    chosen = rng.random((count, IMAGE_TOKENS))
    ranks = np.stack([chosen[:, where == at].argsort(1).argsort(1) for at in range(CELLS)])
    kept = np.zeros((count, IMAGE_TOKENS), dtype=bool)
    for at in range(CELLS):
        kept[:, where == at] = ranks[at] < each
    return torch.from_numpy(np.nonzero(kept)[1].reshape(count, -1))


def mark_visible(image: int) -> torch.Tensor:
    """(1, 1, length, length) true where a position may look: back, at `<bos>`, the image and its own turn."""
    turn = torch.repeat_interleave(torch.arange(len(PLAN)), torch.tensor(LENGTHS))
    turn = torch.cat([torch.full((1 + image,), -1), turn])
    same = (turn[None] == turn[:, None]) | (turn[None] < 0)
    return (same & torch.ones(len(turn), len(turn), dtype=torch.bool).tril())[None, None]


def number_positions(patches: torch.Tensor, closed: bool) -> torch.Tensor:
    """(n, length) position of every token; `closed` numbers the kept patches without gaps."""
    count, image = patches.shape
    positions = torch.arange(image).expand(count, -1) if closed else patches
    begins = 1 + (image if closed else IMAGE_TOKENS)
    words = torch.cat([torch.arange(length) for length in LENGTHS]) + begins
    return torch.cat([torch.zeros(count, 1, dtype=torch.long), positions + 1, words.expand(count, -1)], dim=1)


def prime_projector(projector: nn.Module, reader: Reader) -> None:
    """Let the projector begin with the heads of phase 1, so that words can point to rows and columns: in the features
    of a trained tower the place of a cell is a hundredth of the variance that its digit is."""
    heads = reader.cell
    with torch.no_grad():
        strength = torch.where(torch.arange(heads.out_features) <= BLANK, 1.0, 0.5)  # places are said louder
        projector.linear_1.weight[: heads.out_features] = heads.weight * strength[:, None]
        projector.linear_1.bias[: heads.out_features] = heads.bias * strength
        projector.linear_2.weight[:, : heads.out_features].normal_(std=0.1)


class Talker(nn.Module):
    """Decoder, projector and word head of a Llava model, over features of the tower that do not change."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.decoder = model.model.language_model
        self.projector = model.model.multi_modal_projector
        self.head = model.lm_head

    def forward(
        self, features: torch.Tensor, turns: Turns, positions: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """The loss of the answers, a mean; features (n, image tokens, hidden of the tower)."""
        begin = torch.full((len(features), 1), IDS["<bos>"])
        words = self.decoder.embed_tokens(torch.cat([begin, turns.ids], dim=1))
        image = self.projector(features).to(words.dtype)
        embedded = torch.cat([words[:, :1], image, words[:, 1:]], dim=1)
        hidden = self.decoder(inputs_embeds=embedded, attention_mask=mask, position_ids=positions, use_cache=False)
        states = hidden.last_hidden_state[:, 1 + image.shape[1] :]
        asked = turns.wanted != IGNORED
        return cross_entropy(self.head(states[asked]).float(), turns.wanted[asked])

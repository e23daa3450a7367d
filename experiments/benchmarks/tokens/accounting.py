"""What the published figures of PyramidDrop count, and what a LLaVA model computes: multiply-adds, nothing is run.

    python experiments/benchmarks/tokens/accounting.py [--text 60] [--answer 64]

The paper's "TFLOPs" are multiply-adds of the image tokens in the blocks of the language model, and nothing else: per
block 4 n d^2 + 2 n^2 d + 3 n d m. Beside it stands the whole: text tokens, vision tower and projector, ranking, the
head, and an answer of some tokens decoded with the caches that the prefill left. Ranking is counted as the released
code does it (queries, keys and values of all tokens, all attention logits) and as ours (keys of all tokens, one query).
"""

import argparse
from dataclasses import dataclass

from search_spaces.presets import build_pyramiddrop
from search_spaces.schedule import Schedule

TERA = 1e12


@dataclass(frozen=True)
class Stack:
    """A stack of transformer blocks: width, width of the MLP, how many matrices that has, blocks."""

    width: int
    inner: int
    matrices: int
    depth: int


@dataclass(frozen=True)
class Llava:
    """A LLaVA model: language model, vision tower, tiles, their patches, vocabulary."""

    name: str
    language: Stack
    tower: Stack
    tiles: int
    patches: int = 576
    patch: int = 14
    vocabulary: int = 32000

    @property
    def image_tokens(self) -> int:
        """How many tokens the language model is given for one image."""
        return self.tiles * self.patches


VICUNA_7B, CLIP_L = Stack(4096, 11008, 3, 32), Stack(1024, 4096, 2, 24)  # all 24 run, though 23 are used
MODELS = (Llava("LLaVA-1.5 7B", VICUNA_7B, CLIP_L, 1), Llava("LLaVA-NeXT 7B", VICUNA_7B, CLIP_L, 5))
PUBLISHED = build_pyramiddrop(32)


def count_per_block(stack: Stack, tokens: int, seen: int) -> int:
    """Multiply-adds of one block for `tokens` new ones that attend to `seen`, with no credit for a causal mask."""
    d = stack.width
    return 4 * tokens * d * d + 2 * tokens * seen * d + stack.matrices * tokens * d * stack.inner


def list_lengths(model: Llava, schedule: Schedule, text: int) -> list[int]:
    """How many tokens each block of the language model works on; whole numbers, as they are kept."""
    left = {stage.block: stage.count_kept(model.image_tokens) for stage in schedule.stages}
    lengths, now = [], model.image_tokens
    for block in range(model.language.depth):
        now = left.get(block, now)
        lengths.append(now + text)
    return lengths


def count_image_only(model: Llava, schedule: Schedule) -> int:
    """The papers' figure: image tokens in the blocks of the language model."""
    return sum(count_per_block(model.language, n, n) for n in list_lengths(model, schedule, 0))


def count_vision(model: Llava) -> int:
    """Vision tower and projector, for all tiles: patches, blocks with the class token, two projections."""
    d, wide, n = model.tower.width, model.language.width, model.patches
    embed = n * 3 * model.patch**2 * d
    blocks = model.tower.depth * count_per_block(model.tower, n + 1, n + 1)
    return model.tiles * (embed + blocks + n * (d * wide + wide * wide))


def count_ranking(model: Llava, schedule: Schedule, text: int, released: bool) -> int:
    """What choosing the tokens costs: all queries, keys, values and logits, or all keys and one query's logits."""
    d, total = model.language.width, 0
    for stage in schedule.stages:
        n = list_lengths(model, schedule, text)[stage.block - 1] if stage.block else model.image_tokens + text
        total += 3 * n * d * d + n * n * d if released else n * d * d + d * d + n * d
    return total


def count_prefill(model: Llava, schedule: Schedule, text: int) -> int:
    """The language model on image and text, with the head for the last token."""
    blocks = sum(count_per_block(model.language, n, n) for n in list_lengths(model, schedule, text))
    return blocks + model.language.width * model.vocabulary


def decode(model: Llava, schedule: Schedule, text: int, answer: int) -> int:
    """The tokens of an answer after its first, which the prefill gives: one by one, on the shorter caches."""
    head = model.language.width * model.vocabulary
    lengths = list_lengths(model, schedule, text)
    return sum(head + sum(count_per_block(model.language, 1, n + i) for n in lengths) for i in range(1, answer))


def build_rows(model: Llava, text: int, answer: int) -> list[tuple[str, int, int]]:
    """(what, multiply-adds without a schedule, with the published one)."""
    off, on = Schedule(), PUBLISHED
    whole = [count_vision(model) + count_prefill(model, s, text) + decode(model, s, text, answer) for s in (off, on)]
    ours, theirs = (count_ranking(model, on, text, released) for released in (False, True))
    return [
        ("image tokens only (as published)", count_image_only(model, off), count_image_only(model, on)),
        (f"prefill with {text} text tokens and head", count_prefill(model, off, text), count_prefill(model, on, text)),
        ("vision tower and projector", count_vision(model), count_vision(model)),
        (f"decode of {answer} tokens", decode(model, off, text, answer), decode(model, on, text, answer)),
        ("ranking as we do", 0, ours),
        ("ranking as the released code does", 0, theirs),
        ("all of it, ranked as we do", whole[0], whole[1] + ours),
        ("all of it, ranked as the released code does", whole[0], whole[1] + theirs),
    ]


def main() -> None:
    """Print the table of both models."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--text", type=int, default=60, help="text tokens of the prompt")
    parser.add_argument("--answer", type=int, default=64, help="tokens of the answer")
    given = parser.parse_args()
    print(f"tera multiply-adds, PyramidDrop {PUBLISHED}; a multiply-add is two operations")
    for model in MODELS:
        print(f"\n| {model.name}, {model.image_tokens} image tokens | dense | reduced | saved |\n|---|---|---|---|")
        for what, off, on in build_rows(model, given.text, given.answer):
            saved = f"{1 - on / off:.1%}" if off else "-"
            print(f"| {what} | {off / TERA:.3f} | {on / TERA:.3f} | {saved} |")


if __name__ == "__main__":
    main()

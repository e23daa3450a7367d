"""What the words in the tables mean, a line for each, and equal models as one."""

from collections.abc import Hashable, Iterable, Sequence

from nas.quality.metrics import METRICS

RUNNER_UP, ADD_BACK = "runner-up", "+add-back"
AS_DROPPED, COMPENSATED = "winner as dropped", "winner compensated"
_MEANINGS = {
    **{metric.name: metric.meaning for metric in METRICS.values()},
    "winner": "what this search chose",
    AS_DROPPED: "the winner without the adjustment of what is left of it (--compensate)",
    COMPENSATED: "the winner adjusted in closed form, before it was trained (--heal)",
    RUNNER_UP: "the second best that this search found within the budget",
    "cosine-joint": "one-shot baseline: attentions and MLPs dropped by cosine similarity, in one ranking",
    "cosine-attention": "one-shot baseline: attentions only, dropped by cosine similarity",
    "cosine-mlp": "one-shot baseline: MLPs only, dropped by cosine similarity",
    "cosine-block": "one-shot baseline: whole blocks, dropped by cosine similarity",
    ADD_BACK: "units of a baseline that still fit the budget are restored",
    "paired": "compared item by item on the same items; better or worse if the 95 % interval excludes 0",
    "predicted": "by the latency model of the target, not measured",
    "measured": "the exported file was run on the target",
}


def explain_words(words: Iterable[str]) -> dict[str, str]:
    """The words that have a meaning here, each once, with it; a baseline with its add-back gives two."""
    asked = dict.fromkeys(part for word in words for part in _split_words(word))
    return {word: _MEANINGS[word] for word in asked if word in _MEANINGS}


def explain_percentile(p: int) -> str:
    """What `p90` means."""
    return f"{p} of 100 runs take at most this long"


def add_item_count(name: str, items: int, every: int) -> str:
    """The name of a row, with the number of test items it rests on where that is not all of them."""
    return name if items >= every else f"{name} (first {items} of {every} items)"


def join_names(named: Sequence[tuple[str, Hashable]]) -> dict[str, str]:
    """Names of equal things, joined, by the first of them."""
    groups: dict[Hashable, list[str]] = {}
    for name, what in named:
        groups.setdefault(what, []).append(name)
    return {names[0]: ", ".join(names) for names in groups.values()}


def _split_words(word: str) -> list[str]:
    if not word.endswith(ADD_BACK):
        return [word]
    return [word.removesuffix(ADD_BACK), ADD_BACK]

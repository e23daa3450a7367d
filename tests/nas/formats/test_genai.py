"""What ONNX Runtime GenAI cannot take, without running it."""

from pathlib import Path

import pytest
from families import build

from nas.formats.genai import GenAiFormat
from nas.formats.onnx_runtime import list_phases
from nas.formats.source import Source
from pruning.surgery.prune import prune
from search_spaces import Architecture, Choice


@pytest.mark.parametrize(
    ("choices", "words", "nearest"),
    [
        ((), "", None),
        (("attention.0", "mlp.1:bits=w8"), "", None),
        (("attention.0", "mlp.1:bits=int8"), "int8 rounds", ("attention.0",)),
        (tuple(f"attention.{layer}" for layer in range(4)), "no attention is left", None),
    ],
)
def test_what_it_cannot_take_is_refused_with_the_nearest(
    choices: tuple[str, ...], words: str, nearest: tuple[str, ...] | None
) -> None:
    pruned = prune(build("llama"), Architecture(4).drop(*map(Choice.parse, choices)))
    refusal = GenAiFormat().find_refusal(Source(pruned, Path(), plain=False))
    assert (refusal is None) == (not words)
    if refusal is not None:
        assert words in refusal.reason
        wanted = None if nearest is None else Architecture(4).drop(*map(Choice.parse, nearest))
        assert refusal.nearest == wanted
        assert len(list_phases(pruned)) == (2 if nearest is None else 1)


@pytest.mark.parametrize(("family", "words"), [("bert", "only a decoder"), ("llava", "only a decoder")])
def test_other_models_are_refused(family: str, words: str) -> None:
    refusal = GenAiFormat().find_refusal(Source(build(family), Path(), plain=True))
    assert refusal is not None
    assert words in refusal.reason

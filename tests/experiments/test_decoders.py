"""The decoders of the benchmarks: the text of two of them, and the figures in their table."""

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
DECODERS = EXPERIMENTS / "benchmarks" / "decoders"
MODULE = '''
"""Sums.

>>> add(1, 2)
3

Not for floats.
"""

def add(a, b):
    """Add two numbers."""
    def inner():
        return "no docstring"
    return a + b

class Sum:
    """A sum so far."""
'''


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The training script, with the corpus beside it."""
    monkeypatch.syspath_prepend(str(EXPERIMENTS / "reference" / "python-lm"))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    import train

    yield train
    for name in ("train", "corpus"):
        sys.modules.pop(name, None)


def test_docstrings_are_read_without_their_examples(recipe):
    assert recipe.corpus.read_docstrings(MODULE) == "Sums.\n\nNot for floats.\n\nAdd two numbers.\n\nA sum so far."


@pytest.mark.parametrize("family", ["qwen3", "olmo2"])
def test_a_decoder_has_the_shape_of_its_recipe(recipe, family):
    made, shipped = (
        config.to_dict()
        for config in (
            recipe.build(recipe.RECIPES[family]).config,
            AutoModelForCausalLM.from_pretrained(DECODERS / family).config,
        )
    )
    unlike = {key for key in made if made[key] != shipped.get(key)}
    assert unlike <= {"_name_or_path", "dtype", "architectures", "transformers_version"}


@pytest.mark.slow
@pytest.mark.parametrize("family", ["qwen3", "olmo2"])
@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_decoder_is_as_perplexed_as_its_table_says(recipe, family, split):
    recorded = json.loads((DECODERS / family / "record.json").read_text())["perplexity"][split]
    try:
        texts = recipe.corpus.load(split, "docstrings")
    except SystemExit as error:
        pytest.skip(str(error))
    model = AutoModelForCausalLM.from_pretrained(DECODERS / family, dtype=torch.float32)
    stream = recipe.tokenize(AutoTokenizer.from_pretrained(DECODERS / family), texts)
    figure = recipe.measure_perplexity(model, stream, recipe.RECIPES[family])
    assert figure == pytest.approx(recorded, rel=0.01)  # recorded before the weights were rounded to bfloat16
    assert f" {recorded:.1f} |" in (DECODERS / "README.md").read_text()

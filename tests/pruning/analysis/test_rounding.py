"""What rounding loses is measured where inputs are large, and is what a pass with rounded matrices gives."""

import pytest
import torch
from families import build, example

from pruning.analysis.rounding import measure_rounding
from pruning.anatomy.anatomy import read_anatomy
from pruning.surgery.quantised_linear import round_inputs, round_weights
from search_spaces import Choice
from search_spaces.weight_formats import FORMATS


@pytest.mark.parametrize("name", FORMATS)
def test_the_loss_of_a_head_is_that_of_its_product(name: str) -> None:
    model, choice = build("llama"), Choice.parse(f"head:bits={name}")
    inputs = example(model)
    with torch.no_grad():
        logits = model(**inputs).logits
        given = model.model(**inputs).last_hidden_state
    rounded = round_inputs(given, FORMATS[name]) @ round_weights(model.lm_head.weight.detach(), FORMATS[name]).T
    found = measure_rounding(model, read_anatomy(model), [choice], inputs)[choice]
    assert found.error == pytest.approx(float((rounded - logits).norm() / logits.norm()), rel=1e-3)
    assert found.peak == pytest.approx(float(given.abs().max() / given.square().mean().sqrt()), rel=1e-3)


def test_of_a_part_the_matrix_that_loses_most_counts() -> None:
    """One neuron 400 times as large as the rest takes the scale of its block, and of everything with one scale."""
    model = build("llama")
    anatomy, inputs = read_anatomy(model), example(model)
    texts = ("mlp.1:bits=int8", "mlp.1:bits=w8", "mlp.2:bits=int8")
    choices = [Choice.parse(text) for text in texts]
    before = measure_rounding(model, anatomy, choices, inputs)
    mlp = model.model.layers[1].mlp
    with torch.no_grad():
        mlp.up_proj.weight[5] *= 400
        mlp.down_proj.weight[:, 5] /= 4000  # so that it is hardly seen in what the MLP gives
    after = measure_rounding(model, anatomy, choices, inputs)
    assert max(loss.error for loss in before.values()) < 0.05
    assert after[choices[0]].error > 0.3
    assert after[choices[0]].error > after[choices[1]].error
    assert after[choices[0]].peak > 2 * before[choices[0]].peak
    assert after[choices[2]].error < 0.05

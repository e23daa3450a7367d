"""A light copy looks at the weights of few blocks and is the same to whoever reads structure."""

import pytest
import torch
from families import FAMILIES, REPRESENTATIVES, mark_rest_slow
from families import build as build_usual
from other_families import READ, READ_FAST
from other_families import build as build_other

from nas.parent.shape import read_shape
from pruning.anatomy.anatomy import read_anatomy
from pruning.inference import residency
from pruning.inference.light_copy import copy_lightly


@pytest.fixture
def model(request):
    return (build_usual if request.param in FAMILIES else build_other)(request.param)


@pytest.mark.parametrize("model", ["llama"], indirect=True)
def test_like_blocks_have_the_weights_of_the_first(model, monkeypatch):
    monkeypatch.setattr(residency, "SMALLEST", 1)
    light = copy_lightly(model)
    first, *others = model.model.layers
    for block in light.model.layers:
        assert all(mine is its for mine, its in zip(block.parameters(), first.parameters(), strict=True))
    assert light.model.embed_tokens.weight is model.model.embed_tokens.weight
    assert all(block.mlp.up_proj.weight is not first.mlp.up_proj.weight for block in others)


@pytest.mark.parametrize("model", ["llama"], indirect=True)
def test_a_model_of_small_weights_is_its_own_light_copy(model):
    assert copy_lightly(model) is model


@pytest.mark.parametrize("model", ["llama"], indirect=True)
def test_a_streamed_model_s_light_copy_keeps_its_weights(model, monkeypatch):
    monkeypatch.setattr(residency, "SMALLEST", 1)
    with residency.streaming(model):
        assert not residency.is_streamed(copy_lightly(model))
        assert residency.is_streamed(model)


_ALL = mark_rest_slow([*FAMILIES, *READ], [*REPRESENTATIVES, *READ_FAST])


@pytest.mark.parametrize("model", _ALL, indirect=True)
def test_structure_is_read_without_the_weights_of_like_blocks(model, monkeypatch):
    """Weights that nobody may look at are NaN: they would spoil every comparison."""
    anatomy = read_anatomy(model)
    shape = read_shape(model, anatomy)
    monkeypatch.setattr(residency, "SMALLEST", 1)
    light = copy_lightly(model)
    kept = {id(tensor) for tensor in light.parameters()}
    for tensor in model.parameters():
        if id(tensor) not in kept:
            with torch.no_grad():
                tensor.fill_(torch.nan)
    assert read_anatomy(model) == anatomy
    assert read_shape(model, anatomy) == shape

"""Models with narrow weights compute what they compute when they are converted to float32 as a whole."""

import copy
import gc
import weakref

import pytest
import torch
from families import FAMILIES, build
from torch import nn

from nas.execution.packing import pack, unpack
from pruning.anatomy.anatomy import read_anatomy
from pruning.anatomy.copying import copy_module
from pruning.anatomy.probe import make_probe_inputs
from pruning.checkpoint import load_parent
from pruning.inference import widening
from pruning.inference.widening import copy_in_float32, is_widened, widen
from pruning.surgery.prune import prune
from search_spaces.architecture import Architecture
from search_spaces.kinds import Kind
from search_spaces.unit import Unit


def save_narrow(family, folder, dtype=torch.bfloat16):
    build(family).to(dtype).save_pretrained(folder)
    return folder


@torch.no_grad()
def run(model, inputs):
    return model(**inputs)[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_of_narrow_weights_computes_as_the_converted_one(family, tmp_path):
    wide, narrow = load_parent(save_narrow(family, tmp_path), torch.float32), load_parent(tmp_path)
    inputs = make_probe_inputs(wide)
    assert is_widened(narrow)
    assert sum(p.nbytes for p in narrow.parameters()) < 0.7 * sum(p.nbytes for p in wide.parameters())
    torch.testing.assert_close(run(narrow, inputs), run(wide, inputs), rtol=0, atol=0)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(run(narrow, inputs), run(wide, inputs), rtol=0, atol=0)


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral", "bert"])
def test_so_do_its_candidates_and_they_share_its_weights(family, tmp_path):
    wide, narrow = load_parent(save_narrow(family, tmp_path, torch.float16), torch.float32), load_parent(tmp_path)
    anatomy, inputs = read_anatomy(narrow), make_probe_inputs(wide)
    assert anatomy == read_anatomy(wide)
    architecture = Architecture.parent(anatomy.depth).drop(Unit(1, Kind.MLP)).drop(Unit(2, Kind.ATTENTION))
    candidates = [prune(model, architecture, anatomy=anatomy, share_weights=True) for model in (wide, narrow)]
    torch.testing.assert_close(run(candidates[1], inputs), run(candidates[0], inputs), rtol=0, atol=0)
    pointers = {p.data_ptr() for p in narrow.parameters()}
    assert all(p.data_ptr() in pointers for p in candidates[1].parameters())


def test_copies_and_packed_models_are_widened_too(tmp_path):
    model = load_parent(save_narrow("llama", tmp_path))
    inputs = make_probe_inputs(model)
    for other in (copy_module(model, share_tensors=True), copy.deepcopy(model), unpack(pack(model))):
        assert is_widened(other)
        assert torch.equal(run(other, inputs), run(model, inputs))
        assert all(part.forward.module is part for part in other.modules() if "forward" in vars(part))


def test_a_copy_is_forgotten_with_its_last_reference():
    gone = weakref.ref(copy_module(widen(nn.Linear(4, 4, dtype=torch.bfloat16))))
    gc.disable()
    try:
        assert gone() is None
    finally:
        gc.enable()


def test_a_large_matrix_is_multiplied_in_tiles(monkeypatch):
    monkeypatch.setattr(widening, "_LARGE", 64)
    monkeypatch.setattr(widening, "_TILE", 96)
    module = nn.Linear(32, 50, dtype=torch.bfloat16)
    given = torch.randn(2, 3, 32)
    expected = nn.functional.linear(given, module.weight.float(), module.bias.float())
    torch.testing.assert_close(widen(module)(given), expected)


def test_a_copy_in_float32_leaves_the_model_as_it_is(tmp_path):
    model = load_parent(save_narrow("gemma2", tmp_path))
    wide = copy_in_float32(model)
    inputs = make_probe_inputs(model)
    assert not is_widened(wide)
    assert {p.dtype for p in wide.parameters()} == {torch.float32}
    assert torch.equal(run(wide, inputs), run(model, inputs))
    assert is_widened(model)
    assert copy_in_float32(wide) is wide


def test_gradients_reach_narrow_weights():
    module = widen(nn.Linear(4, 2, dtype=torch.bfloat16))
    module(torch.ones(1, 4)).sum().backward()
    assert torch.equal(module.weight.grad, torch.ones(2, 4, dtype=torch.bfloat16))

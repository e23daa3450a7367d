"""Weights that are mapped from a file can be let go of, and are there again when they are used."""

import sys
from pathlib import Path

import pytest
import torch
from families import filled
from transformers import LlamaConfig, LlamaForCausalLM

from pruning.anatomy.anatomy import read_anatomy
from pruning.checkpoint import load_parent
from pruning.inference.residency import SMALLEST, count_mapped, release_weights, stream
from pruning.surgery.prune import prune
from search_spaces.architecture import Architecture
from search_spaces.kinds import Kind
from search_spaces.unit import Unit

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere the system alone decides")
_SIZES = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 3, "num_attention_heads": 8}


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=str)
def folder(request, tmp_path_factory):
    where = tmp_path_factory.mktemp("mapped")
    model = filled(lambda: LlamaForCausalLM(LlamaConfig(**_SIZES, vocab_size=2048)))
    model.to(request.param).save_pretrained(where)
    return where


def count_resident(pointer):
    """KiB of the mapping that an address lies in which are in memory."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        head = line.split()[0]
        if "-" in head and not head.endswith(":"):
            begin, end = (int(each, 16) for each in head.split("-"))
            inside = begin <= pointer < end
        elif inside and head == "Rss:":
            return int(line.split()[1])
    raise AssertionError("the address is not mapped")


def test_weights_are_the_file_and_can_be_let_go_of(folder):
    model = load_parent(folder)
    total = sum(p.nbytes for p in model.parameters() if p.ndim > 1)
    assert count_mapped(model) >= total
    large = sum(p.nbytes for p in model.parameters() if p.nbytes >= SMALLEST)
    before = [p.detach().clone() for p in model.parameters()]
    pointer = model.model.layers[1].mlp.up_proj.weight.data_ptr()
    resident = count_resident(pointer)
    released = release_weights(model)
    assert 0.9 * large < released <= large
    assert count_resident(pointer) < 0.5 * resident
    assert all(torch.equal(p, was) for p, was in zip(model.parameters(), before, strict=True))


def test_weights_of_ones_own_are_never_let_go_of(folder):
    model = load_parent(folder)
    module = torch.nn.Linear(1024, 1024)
    before = module.weight.detach().clone()
    assert release_weights(module) == 0
    assert torch.equal(module.weight, before)
    assert count_mapped(model) > 0


@torch.no_grad()
def test_a_streamed_model_and_its_candidates_compute_the_same_bit_for_bit(folder):
    plain, streamed = load_parent(folder), load_parent(folder)
    anatomy = read_anatomy(plain)
    stream(streamed)
    ids = torch.randint(3, 2000, (2, 32), generator=torch.Generator().manual_seed(0))
    architecture = Architecture.parent(3).drop(Unit(1, Kind.MLP))
    for chosen in (Architecture.parent(3), architecture):
        one, other = (prune(each, chosen, anatomy=anatomy, share_weights=True) for each in (plain, streamed))
        assert torch.equal(one(ids).logits, other(ids).logits)


@torch.no_grad()
def test_no_more_than_a_block_of_a_streamed_model_is_resident(folder):
    model = load_parent(folder)
    stream(model)
    release_weights(model)
    pointer, seen = model.model.layers[1].mlp.up_proj.weight.data_ptr(), []
    for block in model.model.layers:
        block.register_forward_hook(lambda *_: seen.append(count_resident(pointer)))
    model.model(torch.ones(1, 8, dtype=torch.long))
    block = sum(p.nbytes for p in model.model.layers[0].parameters()) >> 10
    head = model.lm_head.weight.nbytes >> 10
    assert max(seen) < block + 2 * head


def test_weights_that_somebody_changed_in_place_stay_as_they_are(folder):
    """Also what `data` hides from autograd's counter: the pages tell."""
    model = load_parent(folder)
    layer = model.model.layers[1].mlp
    with torch.no_grad():
        layer.down_proj.weight.mul_(2)
        layer.up_proj.weight.data[5] = 3.0
    changed = [weight.detach().clone() for weight in (layer.down_proj.weight, layer.up_proj.weight)]
    assert release_weights(model) > 0
    read_anatomy(model)
    assert torch.equal(layer.down_proj.weight, changed[0])
    assert torch.equal(layer.up_proj.weight, changed[1])

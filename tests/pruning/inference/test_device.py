"""Devices: their names, and models on them. What needs a GPU is marked `gpu`."""

import pytest
import torch
from families import build, example

from nas.execution.packing import pack, unpack
from pruning.analysis.redundancy import measure_redundancy
from pruning.anatomy.anatomy import read_anatomy
from pruning.compensation.compensator import Compensator, install_adjusted
from pruning.compensation.method import METHODS
from pruning.inference.device import choose_sum_device, count_gpus, find_device, get_device, place
from pruning.surgery.prune import prune
from search_spaces.architecture import Architecture
from search_spaces.errors import UsageError
from search_spaces.kinds import Kind
from search_spaces.unit import Unit

gpu = pytest.mark.gpu
DROPPED = Architecture.parent(4).drop(Unit(1, Kind.MLP)).drop(Unit(2, Kind.ATTENTION))


def test_auto_is_a_gpu_where_there_is_one():
    assert find_device("auto").type == ("cuda" if count_gpus() else "cpu")
    assert find_device("cpu") == torch.device("cpu")


def test_a_device_that_is_not_here_is_refused_with_those_that_are():
    with pytest.raises(UsageError, match=rf"device cuda:99: torch finds {count_gpus()} CUDA devices here; take auto"):
        find_device("cuda:99")


def test_a_model_that_is_there_is_not_copied_and_one_elsewhere_keeps_its_weights():
    model = build("llama")
    assert place(model, torch.device("cpu")) is model
    elsewhere = place(model, torch.device("meta"))  # a device that everybody has
    assert {tensor.device.type for tensor in elsewhere.parameters()} == {"meta"}
    assert get_device(model).type == "cpu"
    assert elsewhere.lm_head.weight is not model.lm_head.weight


def test_tied_weights_stay_tied_on_another_device():
    model = build("gemma2")
    elsewhere = place(model, torch.device("meta"))
    assert elsewhere.lm_head.weight is elsewhere.model.embed_tokens.weight


def test_a_worker_s_equipment_arrives_on_its_device():
    made = unpack(pack({"model": build("llama"), "ids": torch.ones(2)}), torch.device("meta"))
    assert made["ids"].device.type == get_device(made["model"]).type == "meta"


def test_float64_sums_are_taken_on_the_cpu_where_a_device_has_none():
    assert choose_sum_device(torch.device("mps")).type == "cpu"
    assert choose_sum_device(torch.device("cuda", 0)).type == "cuda"


@gpu
@pytest.mark.parametrize("family", ["llama", "gpt2", "bert", "vit", "gemma2"])
@torch.no_grad()
def test_a_gpu_computes_what_the_cpu_computes(family):
    model, device = build(family), find_device("cuda")
    anatomy = read_anatomy(model)
    placed = place(model, device)
    batches = [example(model)]
    moved = [{name: tensor.to(device) for name, tensor in batch.items()} for batch in batches]
    there, here = measure_redundancy(placed, moved, anatomy), measure_redundancy(model, batches, anatomy)
    assert there.mlp == pytest.approx(here.mlp, abs=1e-4)
    adjusted = [
        Compensator(each, anatomy, inputs[0], METHODS["refit"]).adjust(DROPPED)
        for each, inputs in ((model, batches), (placed, moved))
    ]
    outputs = []
    for parent, inputs, found in zip((model, placed), (batches, moved), adjusted, strict=True):
        candidate = prune(parent, DROPPED, anatomy=anatomy, share_weights=True)
        install_adjusted(candidate, anatomy, DROPPED, found)
        outputs.append(candidate(**inputs[0])[0].cpu())
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-3, atol=1e-3)

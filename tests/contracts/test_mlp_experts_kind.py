"""Fewer experts, those that come last in an order, and fewer of them for each token."""

import copy
from types import MethodType

import pytest
import torch
from families import build as build_usual
from families import example
from other_families import build as build_other
from unit_kind import ONNX_RUNTIME_OPSET, UnitKindContract, architecture_of, read_parent, run

from pruning.analysis.channel_orders import order_channels
from pruning.anatomy.anatomy import read_anatomy
from pruning.surgery.channel_order import get_channel_order
from pruning.surgery.prune import prune

EXPERTS = 4  # of the tiny Mixtral, each token is sent to 2


@torch.no_grad()
def find_smallest(experts, count: int) -> list[int]:
    squares = [float(experts.gate_up_proj[at].pow(2).sum() + experts.down_proj[at].pow(2).sum()) for at in range(4)]
    return sorted(range(EXPERTS), key=lambda at: squares[at])[:count]


def close_experts(router, gone: list[int], active: int = 2) -> None:
    """Let a router of Mixtral send no token to some experts: written by hand, from the family's definition."""

    def forward(self, states):
        logits = states.reshape(-1, states.shape[-1]) @ self.weight.T
        logits[:, gone] = -torch.inf
        scores, chosen = logits.softmax(-1).topk(active)
        return logits, scores / scores.sum(-1, keepdim=True), chosen

    router.forward = MethodType(forward, router)


class TestMlpExperts(UnitKindContract):
    name = "mlp-experts"
    choices = ("mlp.1:experts=0.75", "mlp.1:experts=0.5")
    families = ("mixtral",)
    exports = ()
    more_exports = (("mixtral", ONNX_RUNTIME_OPSET),)

    def mask(self, model, family, choice) -> None:
        mlp = model.model.layers[choice.layer].mlp
        gone = round(EXPERTS * (1 - dict(choice.level.axes)["experts"] / 1000))
        close_experts(mlp.gate, find_smallest(mlp.experts, gone))


class TestMlpActiveExperts(UnitKindContract):
    name = "mlp-active-experts"
    choices = ("mlp.1:active=0.5",)
    families = ("mixtral",)
    exports = ()
    more_exports = (("mixtral", ONNX_RUNTIME_OPSET),)

    def mask(self, model, family, choice) -> None:
        close_experts(model.model.layers[choice.layer].mlp.gate, [], active=1)


def test_fewer_experts_and_fewer_for_a_token_go_together() -> None:
    model, anatomy = read_parent("mixtral")
    masked = copy.deepcopy(model)
    mlp = masked.model.layers[1].mlp
    close_experts(mlp.gate, find_smallest(mlp.experts, 2), active=1)
    both = prune(model, architecture_of("mlp.1:active=0.5,experts=0.5"), anatomy=anatomy)
    torch.testing.assert_close(run(both), run(masked), rtol=0, atol=1e-5)


def test_experts_go_in_the_order_that_was_found_out() -> None:
    model = build_usual("mixtral")
    anatomy = read_anatomy(model)
    order_channels(model, anatomy, example(model, batch=8))
    mlp = model.model.layers[2].mlp
    order = get_channel_order(mlp.experts)
    assert order is not None
    assert order.criterion == "reap"
    masked = copy.deepcopy(model)
    close_experts(masked.model.layers[2].mlp.gate, order.groups[2:].tolist())
    pruned = prune(model, architecture_of("mlp.2:experts=0.5"), anatomy=anatomy)
    torch.testing.assert_close(run(pruned), run(masked), rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["gpt_oss", "qwen3_next", "llama4", "deepseek_v3"])
def test_mixtures_of_many_families_have_experts(family: str) -> None:
    """Shared experts, biases, corrections of scores and dense blocks beside mixtures."""
    model = build_other(family)
    anatomy = read_anatomy(model)
    choices = [choice for choice in anatomy.choices if "experts=0.5" in str(choice)]
    assert choices
    pruned = prune(model, architecture_of(str(choices[0])), anatomy=anatomy)
    assert model.num_parameters() - pruned.num_parameters() == anatomy.count_parameters(choices[0])
    assert bool(run(pruned).isfinite().all())


def test_a_level_leaves_as_many_experts_as_a_token_is_sent_to() -> None:
    _, anatomy = read_parent("mixtral")
    assert not any("experts=0.25" in str(choice) for choice in anatomy.choices)


@pytest.mark.parametrize("text", ["mlp.1:experts=0.5", "mlp.1:active=0.5"])
def test_what_is_left_of_a_mixture_follows_its_model_s_config(text: str) -> None:
    """An export has the experts computed in another way than a run, and says so in the config."""
    model, anatomy = read_parent("mixtral")
    pruned = prune(model, architecture_of(text), anatomy=anatomy)
    assert pruned.model.layers[1].mlp.experts.config is pruned.config
    assert model.model.layers[1].mlp.experts.config is model.config

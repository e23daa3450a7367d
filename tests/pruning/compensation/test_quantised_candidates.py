"""Compensation of candidates with fewer bits: fitted to rounded inputs, rounded afterwards."""

import itertools

import numpy as np
import pytest
import torch
from families import build, example, mark_rest_slow
from test_compensator import build_with, distance, naive_ridge, rows

from pruning.anatomy.anatomy import read_anatomy
from pruning.compensation.candidate_builder import CandidateBuilder, CompensationPlan
from pruning.compensation.compensator import Compensator
from pruning.compensation.method import Refit
from pruning.compensation.streams import run_trunk, watch_input
from pruning.surgery.prune import prune
from pruning.surgery.quantised_linear import round_inputs
from search_spaces import Architecture, Choice

ITEMS = 96


def choose(*texts: str) -> Architecture:
    return Architecture(4).drop(*map(Choice.parse, texts))


CASES = itertools.product(["int8", "w4"], ["llama", "gpt2", "vit", "bert", "gpt_neox", "gemma2"])
FAST = [("int8", "llama"), ("int8", "vit"), ("w4", "gpt2"), ("w4", "gpt_neox"), ("w4", "bert")]


@pytest.mark.parametrize(("name", "family"), mark_rest_slow(CASES, FAST))
def test_what_is_adjusted_is_nearer_to_the_parent(family: str, name: str) -> None:
    parent = build(family)
    anatomy, inputs, unseen = read_anatomy(parent), example(parent, batch=ITEMS), example(parent, batch=8, seed=5)
    architecture = choose("attention.1", f"mlp.0:bits={name}", f"attention.2:bits={name}", f"mlp.2:bits={name}")
    plain = prune(parent, architecture, anatomy=anatomy)
    adjusted = build_with(parent, anatomy, architecture, inputs)
    assert distance(adjusted, parent, anatomy, unseen) < distance(plain, parent, anatomy, unseen)


@pytest.mark.parametrize("name", ["int8", "w4", "w8"])
def test_in_bf16_it_is_about_as_near(name: str) -> None:
    parent = build("llama")
    anatomy, inputs, unseen = read_anatomy(parent), example(parent, batch=ITEMS), example(parent, batch=8, seed=5)
    architecture = choose("attention.1", f"mlp.0:bits={name}", f"attention.2:bits={name}", f"mlp.2:bits={name}")
    dropped = distance(prune(parent, architecture, anatomy=anatomy), parent, anatomy, unseen)
    lost = []
    for bf16 in (False, True):
        builder = CandidateBuilder(parent, anatomy, CompensationPlan("refit", inputs, inputs, bf16))
        lost.append(distance(builder.build(architecture), parent, anatomy, unseen))
        draft = distance(builder.build(architecture, final=False), parent, anatomy, unseen)
        assert draft < dropped
    assert lost[1] < lost[0] + 0.05 * (dropped - lost[0])


def test_a_projection_is_fitted_to_rounded_inputs_as_if_its_own_weights_were_not_rounded() -> None:
    """Else its rounding would be taken back and made again."""
    parent, penalty = build("llama"), 0.05
    anatomy, inputs = read_anatomy(parent), example(parent, batch=ITEMS)
    architecture = choose("mlp.1:bits=w8")
    adjusted = Compensator(parent, anatomy, inputs, Refit((penalty,))).adjust(architecture)
    first = next(each for each in adjusted if each.layer == 1)
    assert first.path == "mlp.down_proj"

    seen: dict[str, torch.Tensor] = {}
    plain = prune(parent, architecture, anatomy=anatomy)
    for model, name in ((parent, "parent"), (plain, "candidate")):
        block = model.model.layers[1]
        ends = [
            watch_input(
                block.post_attention_layernorm, lambda value, name=name: seen.update({f"{name} before": value})
            ),
            watch_input(block.mlp.down_proj, lambda value, name=name: seen.update({f"{name} given": value})),
            watch_input(model.model.layers[2], lambda value, name=name: seen.update({f"{name} after": value})),
        ]
        with torch.no_grad():
            run_trunk(model, anatomy, inputs)
        for end in ends:
            end()
    weight = parent.model.layers[1].mlp.down_proj.weight.detach().double().numpy().T
    x = rows(round_inputs(seen["candidate given"], plain.model.layers[1].mlp.down_proj.format))
    lacking = rows(seen["parent after"]) - rows(seen["candidate before"]) - x @ weight
    found = first.module.weight.detach().double().numpy().T - weight
    np.testing.assert_allclose(found, naive_ridge(x, lacking, penalty, False), atol=3e-5)


def test_gradients_pass_through_the_rounding() -> None:
    parent = build("llama")
    model = prune(parent, choose("mlp.1:bits=w4"))
    model(**example(model)).logits.square().mean().backward()
    gradient = model.model.layers[1].mlp.gate_proj.weight.grad
    assert gradient is not None
    assert float(gradient.norm()) > 0

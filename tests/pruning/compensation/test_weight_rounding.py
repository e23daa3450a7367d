"""Rounding by what products lose: the numbers of the format, nearer products, and kept by whoever rounds again."""

import itertools

import pytest
import torch
from families import build, example

from pruning.anatomy.anatomy import read_anatomy
from pruning.checkpoint import load, save
from pruning.compensation.candidate_builder import CandidateBuilder, CompensationPlan, list_adjusted
from pruning.compensation.weight_rounding import factorise, makes_up_for_errors, round_by_products
from pruning.surgery.quantised_linear import QuantisedLinear, quantise_weights, round_weights
from search_spaces import Architecture, Choice
from search_spaces.weight_formats import FORMATS, WeightFormat

W4 = FORMATS["w4"]


def draw_inputs(tokens: int, width: int) -> torch.Tensor:
    """Inputs that go together: eight directions explain most of them."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(8, width, generator=generator)
    return torch.randn(tokens, 8, generator=generator) @ directions + 0.3 * torch.randn(
        tokens, width, generator=generator
    )


@pytest.mark.parametrize("width", [32, 64, 80])
def test_products_are_nearer_and_rounding_again_changes_nothing(width: int) -> None:
    matrix, given = torch.randn(24, width, generator=torch.Generator().manual_seed(1)), draw_inputs(500, width)
    matrix[3, :32] = 0
    rounded = round_by_products(matrix, W4, factorise(given))
    nearest = round_weights(matrix, W4)
    losses = [float((given @ (each - matrix).T).square().sum()) for each in (rounded, nearest)]
    assert losses[0] < 0.6 * losses[1]
    torch.testing.assert_close(round_weights(rounded, W4), rounded, rtol=0, atol=1e-6)
    torch.testing.assert_close(quantise_weights(rounded, W4)[1], quantise_weights(matrix, W4)[1])
    stored = rounded.bfloat16()
    assert torch.equal(quantise_weights(stored.float(), W4)[0], quantise_weights(rounded, W4)[0])


def test_two_weights_are_rounded_as_the_best_of_all_roundings() -> None:
    """Inputs that are nearly equal: the second weight makes up for the first; found among all, the largest kept."""
    format = WeightFormat("w4", 4, 4)
    matrix, given = torch.tensor([[0.41, 1.0, 0.44, 0.43]]), draw_inputs(400, 1).repeat(1, 4)
    given = given + 0.1 * torch.randn(given.shape, generator=torch.Generator().manual_seed(2))
    step = -1.0 / 8
    codes = [
        torch.tensor([[a, -8, b, c]], dtype=torch.float32) for a, b, c in itertools.product(range(-8, 8), repeat=3)
    ]
    best = min(codes, key=lambda code: float((given @ (code * step - matrix).T).square().sum()))
    found = round_by_products(matrix, format, factorise(given))
    losses = [float((given @ (each - matrix).T).square().sum()) for each in (found, best * step)]
    assert losses[0] <= 1.2 * losses[1]


def test_only_few_bits_with_blocks_are_rounded_so() -> None:
    assert makes_up_for_errors(W4, 64)
    assert not makes_up_for_errors(W4, 1 << 16)  # the Gram matrix would take 32 GiB
    assert not makes_up_for_errors(FORMATS["w8"], 64)
    assert not makes_up_for_errors(FORMATS["int8"], 64)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_candidates_are_rounded_on_their_own_stream_and_come_back_from_a_folder(family: str, tmp_path) -> None:
    parent = build(family)
    anatomy, inputs, unseen = read_anatomy(parent), example(parent, batch=64), example(parent, batch=8, seed=5)
    chosen = [Choice.parse(f"{kind}.{layer}:bits=w4") for kind in ("attention", "mlp") for layer in range(4)]
    architecture = Architecture(4).drop(*chosen)
    model = CandidateBuilder(parent, anatomy, CompensationPlan("refit", inputs, inputs)).build(architecture)
    modules = [module for module in model.modules() if isinstance(module, QuantisedLinear)]
    for module in modules:
        torch.testing.assert_close(module.get_rounded_weights(), module.weight, rtol=0, atol=1e-6)
    assert len(list_adjusted(model)) == len(modules)
    save(model, tmp_path)
    with torch.no_grad():
        assert torch.equal(load(tmp_path)(**unseen).logits, model(**unseen).logits)

"""Norms and scales, read by running them, against what they are known to be."""

import pytest
import torch
from torch import nn
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from pruning.compensation.lacking import Route
from pruning.compensation.norms import TokenMap

WIDTH = 16


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(WIDTH))

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        return value * self.gamma


def made(module: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data.uniform_(0.4, 1.6, generator=generator)
    return module.requires_grad_(False)


CASES = {
    "layer norm": (lambda: made(nn.LayerNorm(WIDTH)), True, True),
    "rms norm": (lambda: made(LlamaRMSNorm(WIDTH)), True, False),
    "gemma's norm": (lambda: made(Gemma2RMSNorm(WIDTH)), True, False),
    "scale": (lambda: made(Scale()), False, False),
}


@pytest.mark.parametrize("name", CASES)
def test_a_module_is_read_as_what_it_is(name: str) -> None:
    make, divides, centres = CASES[name]
    module = make()
    found = TokenMap.read(module, WIDTH)
    assert (found.divides, found.centres) == (divides, centres)
    value = torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(1))
    moved = value - value.mean(-1, keepdim=True) if centres else value
    spread = moved.square().mean(-1, keepdim=True).sqrt() if divides else 1.0
    torch.testing.assert_close(found.scale * moved / spread + found.shift, module(value), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_what_is_wanted_comes_out(name: str) -> None:
    """Of a norm: where the wanted token has the spread and mean that a norm gives, as every output of it has."""
    module = CASES[name][0]()
    given, other = (torch.randn(6, WIDTH, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    wanted = module(other)
    instead = TokenMap.read(module, WIDTH).invert(wanted, given, module(given))
    torch.testing.assert_close(module(instead), wanted, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", CASES)
def test_what_is_lacking_brings_the_target_about_through_two_modules(name: str) -> None:
    after, closing = CASES[name][0](), made(nn.LayerNorm(WIDTH), 3)
    written, others, goal = (torch.randn(6, WIDTH, generator=torch.Generator().manual_seed(seed)) for seed in (4, 5, 6))
    target = closing(others + after(goal))
    route = Route([after], [closing])
    lacking = route.find_lacking(written, others, target)
    before = closing(others + after(written)) - target
    behind = closing(others + after(written + lacking)) - target
    assert behind.square().sum() < 0.2 * before.square().sum()


def test_a_channel_that_nothing_passes_is_not_asked_for() -> None:
    module = made(Scale())
    module.gamma[3] = 0.0
    given = torch.randn(4, WIDTH)
    instead = TokenMap.read(module, WIDTH).invert(torch.ones(4, WIDTH), given, module(given))
    assert torch.equal(instead[:, 3], given[:, 3])

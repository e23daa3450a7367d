"""Norms and scales as what they do to a token, and what they would have to be given to give something else."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_TINY = 1e-3  # of the largest scale: what passes through a smaller one cannot be set by its input


@dataclass(frozen=True)
class TokenMap:
    """A module that gives scale · (x − mean) / spread + shift for every token x (…, d), read from what it computes.

    Attributes:
        scale, shift: (d,).
        divides: whether the token is divided by its spread: a norm; otherwise it is only scaled.
        centres: whether its mean is taken from it first (LayerNorm, not RMSNorm).
    """

    scale: Tensor
    shift: Tensor
    divides: bool
    centres: bool

    @classmethod
    @torch.no_grad()
    def read(cls, module: nn.Module, width: int) -> "TokenMap":
        """Read a norm or a scale of any class by running it on a few tokens.

        Args:
            width: d.
        """
        parameter = next(module.parameters(), torch.zeros(()))
        probe = torch.arange(width, dtype=torch.float64).mul(2.3).sin()
        probe = (probe - probe.mean()) / probe.std(correction=0)
        signs = torch.where(probe.abs() < 0.5, 0.5 * probe.sign() + probe, probe)  # nothing near zero to divide by
        token = (signs - signs.mean()).to(parameter)[None, None]

        def run(value: Tensor) -> Tensor:
            given: Any = module(value)
            result: Tensor = given[0, 0].cpu().double()
            return result

        plus, minus, twice = run(token), run(-token), run(2 * token)
        shift = (plus + minus) / 2
        direct = plus - shift
        divides = bool(torch.allclose(twice - shift, direct, rtol=1e-2, atol=1e-6 * float(direct.abs().max())))
        own = token[0, 0].cpu().double()
        spread = own.square().mean().sqrt() if divides else 1.0
        scale = direct / own * spread
        lifted = run(token + 3.0)
        centres = divides and bool((lifted - plus).abs().max() < 0.1 * (direct.abs().max() + 1e-12))
        return cls(scale.float().to(token.device), shift.float().to(token.device), divides, centres)

    def invert(self, wanted: Tensor, given: Tensor, got: Tensor) -> Tensor:
        """What to give the module instead, so that about `wanted` comes out.

        A norm forgets a token's mean and spread; those of what it is given now are taken.

        Args:
            wanted: (tokens, d).
            given: (tokens, d), what it is given now.
            got: (tokens, d), what comes out now.
        """
        usable = self.scale.abs() > _TINY * self.scale.abs().max()
        scale = torch.where(usable, self.scale, 1.0)
        change = torch.where(usable, (wanted - got) / scale, 0.0)
        if not self.divides:
            return given + change
        moved = given - given.mean(-1, keepdim=True) if self.centres else given
        spread = moved.square().mean(-1, keepdim=True).sqrt()
        return given + spread * change

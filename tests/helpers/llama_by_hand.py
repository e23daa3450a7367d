"""Llama's maths in plain products, for one text, to compare what other programs read with."""

import torch
from torch.nn.functional import silu


def norm(stream: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    return weight * stream * torch.rsqrt(stream.square().mean(-1, keepdim=True) + epsilon)


def rotate(heads: torch.Tensor, theta: float) -> torch.Tensor:
    """(heads, tokens, size), by their positions; a number and the one half a head further turn together."""
    size = heads.shape[-1]
    angles = torch.outer(torch.arange(heads.shape[1]).float(), theta ** -(torch.arange(0, size, 2) / size))
    cosine, sine = angles.cos().repeat(1, 2), angles.sin().repeat(1, 2)
    first, second = heads.chunk(2, -1)
    return heads * cosine + torch.cat([-second, first], -1) * sine


def attend(
    stream: torch.Tensor, weights: dict[str, torch.Tensor], heads: int, group: int, theta: float
) -> torch.Tensor:
    tokens, size = len(stream), len(weights["self_attn.q_proj.weight"]) // heads
    split = {name: (stream @ weights[f"self_attn.{name}_proj.weight"].T).view(tokens, -1, size).transpose(0, 1)
             for name in "qkv"}  # fmt: skip
    queries, keys = (rotate(split[name], theta) for name in "qk")
    keys, values = keys.repeat_interleave(group, 0), split["v"].repeat_interleave(group, 0)
    scores = queries @ keys.transpose(1, 2) / size**0.5 + torch.full((tokens, tokens), -torch.inf).triu(1)
    mixed = (scores.softmax(-1) @ values).transpose(0, 1).reshape(tokens, -1)
    return mixed @ weights["self_attn.o_proj.weight"].T


def gate(stream: torch.Tensor, weights: dict[str, torch.Tensor]) -> torch.Tensor:
    gated = silu(stream @ weights["mlp.gate_proj.weight"].T) * (stream @ weights["mlp.up_proj.weight"].T)
    return gated @ weights["mlp.down_proj.weight"].T

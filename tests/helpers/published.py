"""The published token reductions written out by hand, one row at a time, on the weights alone: no module is called."""

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812

HEADS, EPS = 4, 1e-6


def weights_of(model: Any, prefix: str) -> dict[str, torch.Tensor]:
    """The parameters below `prefix`, by the rest of their names; they are the model's own, with their gradients."""
    named = model.state_dict(keep_vars=True).items()
    return {name[len(prefix) :]: value for name, value in named if name.startswith(prefix)}


@dataclass(frozen=True)
class Llama:
    """Rotary positions, two query heads to a key head, gated MLP."""

    weights: dict[str, torch.Tensor]
    head: torch.Tensor
    depth: int = 4

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        return self.weights["embed_tokens.weight"][ids]

    def norm(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return x / (x.pow(2).mean(-1, keepdim=True) + EPS).sqrt() * self.weights[name + ".weight"]

    def project(self, block: int, name: str, x: torch.Tensor) -> torch.Tensor:
        """(4 heads, N, 8); keys and values are repeated for the heads that share them."""
        out = x @ self.weights[f"layers.{block}.self_attn.{name}.weight"].T
        heads = out.view(len(x), -1, 8).transpose(0, 1)
        return heads.repeat_interleave(HEADS // len(heads), dim=0)

    def attention(self, block: int, x: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """Weights (4, N, N) of the states that enter a block."""
        normed = self.norm(f"layers.{block}.input_layernorm", x)
        q, k = (turned(self.project(block, name, normed), indices) for name in ("q_proj", "k_proj"))
        logits = q @ k.mT / 8**0.5
        hidden = torch.ones(len(x), len(x)).triu(1).bool()
        return logits.masked_fill(hidden, -torch.inf).softmax(-1)

    def block(self, block: int, x: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        normed = self.norm(f"layers.{block}.input_layernorm", x)
        mixed = self.attention(block, x, indices) @ self.project(block, "v_proj", normed)
        w = {name: self.weights[f"layers.{block}.{name}.weight"] for name in PARTS}
        x = x + mixed.transpose(0, 1).flatten(1) @ w["self_attn.o_proj"].T
        normed = self.norm(f"layers.{block}.post_attention_layernorm", x)
        gated = F.silu(normed @ w["mlp.gate_proj"].T) * (normed @ w["mlp.up_proj"].T)
        return x + gated @ w["mlp.down_proj"].T

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm("norm", x) @ self.head.T


PARTS = ("self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")


def turned(x: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """Rotary positions: the halves of a head are the two coordinates of points that turn."""
    angle = indices[:, None] * 1e4 ** (-torch.arange(0, 8, 2) / 8)
    one, two = x.chunk(2, -1)
    return torch.cat([one * angle.cos() - two * angle.sin(), two * angle.cos() + one * angle.sin()], -1)


def best(scores: torch.Tensor, droppable: torch.Tensor, keep: int) -> list[int]:
    """Places of all that may not go, and of the `keep` others with the highest scores, in order."""
    free = droppable.nonzero().flatten().tolist()
    chosen = sorted(free, key=lambda index: -float(scores[index]))[:keep]
    return sorted([*(~droppable).nonzero().flatten().tolist(), *chosen])


def pyramiddrop(
    llama: Llama, x: torch.Tensor, image: torch.Tensor, stages: dict[int, float], asking: list[int] | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """PyramidDrop on one row of embeddings: (logits of the tokens that are left, their indices in the prompt).

    `asking`: the indices of the tokens whose attention is averaged; the last one without.
    """
    total, alive, asking = int(image.sum()), torch.arange(len(x)), asking or [len(x) - 1]
    for block in range(llama.depth):
        if block in stages:
            with torch.no_grad():
                scores = llama.attention(block, x, torch.arange(len(x))).mean(0)
            queries = [alive.tolist().index(index) for index in asking]
            left = best(scores[queries].mean(0), image[alive], int(total * stages[block]))
            x, alive = x[left], alive[left]
        x = llama.block(block, x, torch.arange(len(x)))  # numbered anew
    return llama.logits(x), alive


def fastv(
    llama: Llama, x: torch.Tensor, image: torch.Tensor, stages: dict[int, float], asking: list[int] | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """FastV on one row, with any number of stages: what a block attended to ranks after it; numbers are kept."""
    total, alive, asking = int(image.sum()), torch.arange(len(x)), asking or [len(x) - 1]
    scores = torch.zeros(len(x))
    for block in range(llama.depth):
        if block in stages:
            left = best(scores, image[alive], int(total * stages[block]))
            x, alive = x[left], alive[left]
        queries = [alive.tolist().index(index) for index in asking]
        scores = llama.attention(block, x, alive).mean(0)[queries].mean(0).detach()
        x = llama.block(block, x, alive)
    return llama.logits(x), alive


@dataclass(frozen=True)
class Encoder:
    """A vision transformer with pre-norms: ViT and the tower of CLIP, which call their parts by other names."""

    weights: dict[str, torch.Tensor]
    names: dict[str, str]
    heads: int
    eps: float

    def linear(self, block: int, part: str, x: torch.Tensor) -> torch.Tensor:
        name = f"layers.{block}.{self.names.get(part, part)}"
        return x @ self.weights[name + ".weight"].T + self.weights[name + ".bias"]

    def norm(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, x.shape[-1:], self.weights[name + ".weight"], self.weights[name + ".bias"], self.eps)

    def split(self, block: int, part: str, x: torch.Tensor) -> torch.Tensor:
        normed = self.norm(f"layers.{block}.{self.names['before']}", x)
        return self.linear(block, part, normed).view(len(x), self.heads, -1).transpose(0, 1)

    def attention(self, block: int, x: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
        q, k = self.split(block, "q", x), self.split(block, "k", x)
        return (q @ k.mT / q.shape[-1] ** 0.5 + sizes.log()).softmax(-1)

    def block(self, block: int, x: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
        mixed = self.attention(block, x, sizes) @ self.split(block, "v", x)
        x = x + self.linear(block, "o", mixed.transpose(0, 1).flatten(1))
        inner = self.linear(block, "fc1", self.norm(f"layers.{block}.{self.names['after']}", x))
        inner = F.gelu(inner) if self.names["act"] == "gelu" else inner * torch.sigmoid(1.702 * inner)
        return x + self.linear(block, "fc2", inner)


VIT = {"q": "attention.q_proj", "k": "attention.k_proj", "v": "attention.v_proj", "o": "attention.o_proj"}
VIT |= {"fc1": "mlp.fc1", "fc2": "mlp.fc2", "before": "layernorm_before", "after": "layernorm_after", "act": "gelu"}
CLIP = {"q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.out_proj"}
CLIP |= {"fc1": "mlp.fc1", "fc2": "mlp.fc2", "before": "layer_norm1", "after": "layer_norm2", "act": "quick_gelu"}

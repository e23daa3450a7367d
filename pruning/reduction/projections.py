"""The queries and keys of one attention, for some of its tokens: what ranks them.

Only weights are taken from the attention, by the names that transformers use for them; the attention module itself
is not called, so it may be dropped from the model, and no node of an exported graph is filed under its name.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from inspect import signature
from typing import Any

from torch import Tensor, cat, nn
from torch.nn import functional

from pruning.anatomy.contribution import BlockAnatomy
from pruning.inference.widening import widen_tensor
from search_spaces.errors import UnreadableModel

_SEPARATE = (("q_proj", "k_proj"), ("query", "key"), ("q_lin", "k_lin"))
_NORMS = (("q_norm", "k_norm"), ("q_layernorm", "k_layernorm"))
_UNSCALED = ("gpt_neo",)
Rotary = tuple[Tensor, Tensor]  # cosines and sines, each (B or 1, N, D)


@dataclass(frozen=True)
class Rows:
    """Some output rows of a linear layer of any form.

    Attributes:
        start, stop: rows, of each head where `per_head` is set.
        heads: in how many equal parts the rows are laid out before they are cut; 1 for rows side by side.
    """

    module: nn.Module
    start: int
    stop: int
    heads: int = 1

    def cut(self) -> tuple[Tensor, Tensor | None]:
        """Weight (rows, in) and bias (rows)."""
        weight, bias = self.module.weight, self.module.bias
        assert isinstance(weight, Tensor)
        if not isinstance(self.module, nn.Linear):  # GPT-2 keeps it transposed
            weight = weight.T
        assert bias is None or isinstance(bias, Tensor)
        return self._select(weight), None if bias is None else self._select(bias)

    def _select(self, values: Tensor) -> Tensor:
        if self.heads == 1:
            return values[self.start : self.stop]
        parts = values.reshape(self.heads, -1, *values.shape[1:])[:, self.start : self.stop]
        return parts.flatten(0, 1)

    def __call__(self, hidden: Tensor) -> Tensor:
        """(B, N, in) -> (B, N, rows)."""
        weight, bias = self.cut()
        return functional.linear(hidden, widen_tensor(weight), None if bias is None else widen_tensor(bias))


@dataclass(frozen=True)
class Projections:
    """What turns states of the residual stream into the queries and keys of one attention.

    Attributes:
        norm: of the block's input; None where the attention reads the stream itself.
        head_size: of a query or key.
        scaling: factor on the products of queries and keys.
        softcap: bound of those products, if there is one.
        query_norm, key_norm: of each head, where there are any.
        rotate: the family's own function of (q, k, cos, sin), where it has rotary positions.

    Example:
        >>> projections = read_projections(block, anatomy.blocks[0])
        >>> queries = projections.project_queries(projections.normalise(states))
    """

    norm: nn.Module | None
    query: Rows
    key: Rows
    head_size: int
    scaling: float
    softcap: float | None
    query_norm: nn.Module | None
    key_norm: nn.Module | None
    rotate: Callable[..., tuple[Tensor, Tensor]] | None

    def normalise(self, hidden: Tensor) -> Tensor:
        """What the attention reads, of states (B, N, H)."""
        return hidden if self.norm is None else _run(self.norm, hidden)

    def project_queries(self, normed: Tensor, rotary: Rotary | None = None) -> Tensor:
        """(B, heads, Q, D) of normed states (B, Q, H); not rotated without `rotary`."""
        return self._split_heads(self.query(normed), self.query_norm, rotary)

    def project_keys(self, normed: Tensor, rotary: Rotary | None = None) -> Tensor:
        """(B, groups, N, D) of normed states (B, N, H); not rotated without `rotary`."""
        return self._split_heads(self.key(normed), self.key_norm, rotary)

    def _split_heads(self, rows: Tensor, norm: nn.Module | None, rotary: Rotary | None) -> Tensor:
        heads = rows.reshape(*rows.shape[:2], -1, self.head_size)
        if norm is not None:  # with a weight for each head or one for all of them
            heads = _run(norm, heads)
        heads = heads.transpose(1, 2)
        if rotary is None or self.rotate is None:
            return heads
        width = rotary[0].shape[-1]
        turned = heads[..., :width]
        turned = self.rotate(turned, turned, *rotary)[0]
        return turned if width == self.head_size else cat((turned, heads[..., width:]), -1)


def read_projections(block: nn.Module, anatomy: BlockAnatomy) -> Projections:
    """Queries and keys of a block's attention.

    Raises:
        UnreadableModel: no queries and keys under any name that is known.
    """
    members = {id(m): m for path in anatomy.attention.members for m in block.get_submodule(path).modules()}
    for attention in members.values():
        config = getattr(attention, "config", None)
        projections = _find(attention, config)
        if projections is not None:
            query, key, size = projections
            norms = _find_norms(attention, size)
            before = anatomy.attention.before
            return Projections(
                norm=None if before is None else block.get_submodule(before),
                query=query,
                key=key,
                head_size=size,
                scaling=_read_scaling(attention, size),
                softcap=getattr(attention, "attn_logit_softcapping", None),
                query_norm=norms[0],
                key_norm=norms[1],
                rotate=_find_rotation(attention),
            )
    raise UnreadableModel(
        f"{type(block).__name__}: looked for queries and keys (q_proj, query, q_lin, query_key_value, c_attn, "
        "qkv_proj) in its attention and found none; rank its tokens by norm or at random"
    )


def _find(attention: nn.Module, config: Any) -> tuple[Rows, Rows, int] | None:
    """(queries, keys, head size) of a module that has them itself."""
    for names in _SEPARATE:
        query, key = (getattr(attention, name, None) for name in names)
        if isinstance(query, nn.Linear) and isinstance(key, nn.Linear):
            size = _read_head_size(attention, config, query.out_features)
            return Rows(query, 0, query.out_features), Rows(key, 0, key.out_features), size
    heads = getattr(config, "num_attention_heads", 0)
    if not heads:
        return None
    if isinstance(fused := getattr(attention, "query_key_value", None), nn.Linear):  # head by head: GPT-NeoX
        size = fused.out_features // heads // 3
        if 3 * heads * size != fused.out_features:  # keys that heads share lie otherwise
            return None
        return Rows(fused, 0, size, heads), Rows(fused, size, 2 * size, heads), size
    if (fused := getattr(attention, "c_attn", None)) is not None:
        width = fused.weight.shape[1] // 3
        if 3 * width != fused.weight.shape[1] or width % heads:
            return None
        return Rows(fused, 0, width), Rows(fused, width, 2 * width), width // heads
    if isinstance(fused := getattr(attention, "qkv_proj", None), nn.Linear):
        groups = getattr(config, "num_key_value_heads", None) or heads
        size = fused.out_features // (heads + 2 * groups)
        return Rows(fused, 0, heads * size), Rows(fused, heads * size, (heads + groups) * size), size
    return None


def _find_norms(attention: nn.Module, size: int) -> tuple[nn.Module | None, nn.Module | None]:
    """Of queries and of keys, each head by itself.

    Raises:
        UnreadableModel: they look at all heads at once, or are modules of another form.
    """
    for names in _NORMS:
        pair = tuple(getattr(attention, name, None) for name in names)
        if all(isinstance(norm, nn.Module) for norm in pair):
            weights = [getattr(norm, "weight", None) for norm in pair]
            if not all(isinstance(weight, Tensor) and weight.shape[-1] == size for weight in weights):
                raise UnreadableModel(
                    f"{type(attention).__name__} normalises all heads together, or each in a way of its own, which "
                    "ranking does not follow; rank its tokens by norm or at random"
                )
            return pair[0], pair[1]
    return None, None


def _find_rotation(attention: nn.Module) -> Callable[..., tuple[Tensor, Tensor]] | None:
    """The family's own function; None where it has none, or where this block goes without (SmolLM3)."""
    if not getattr(attention, "use_rope", True):
        return None
    rotation: Callable[..., Any] | None = getattr(sys.modules[type(attention).__module__], "apply_rotary_pos_emb", None)
    if rotation is not None and "cos" in list(signature(rotation).parameters)[:2]:
        return partial(_rotate_each, rotation)
    return rotation


def _rotate_each(rotate: Callable[..., Tensor], query: Tensor, key: Tensor, *rotary: Tensor) -> tuple[Tensor, Tensor]:
    """With a function that takes one of them at a time, as Gemma 4's does."""
    return rotate(query, *rotary), rotate(key, *rotary)


def _read_head_size(attention: nn.Module, config: Any, width: int) -> int:
    for name in ("head_dim", "attention_head_size", "head_size"):
        if isinstance(size := getattr(attention, name, None), int):
            return size
    return int(width // config.num_attention_heads)


def _read_scaling(attention: nn.Module, size: int) -> float:
    if getattr(getattr(attention, "config", None), "model_type", None) in _UNSCALED:
        return 1.0
    for name in ("scaling", "scale"):
        if isinstance(factor := getattr(attention, name, None), int | float):
            return float(factor)
    return float(size**-0.5)


def _run(module: nn.Module, values: Tensor) -> Tensor:
    """Not through `__call__`, which would file the nodes of an exported graph under the module's name."""
    result: Tensor = module.forward(values)
    return result

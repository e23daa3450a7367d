"""The attention mask of a shortened sequence, in the form that its attention reads."""

import torch
from torch import Tensor


def build_causal_mask(queries: int, keys: int, window: int | None, device: torch.device) -> Tensor:
    """(queries, keys) bool: what each of the last `queries` tokens sees; `window` counts tokens that are left."""
    key = torch.arange(keys, device=device)[None]
    query = torch.arange(queries, device=device)[:, None] + (keys - queries)
    seen = key <= query
    return seen if window is None else seen & (key > query - window)


def shorten_mask(
    like: Tensor | None,
    valid: Tensor | None,
    shape: tuple[int, int, int],
    causal: bool,
    window: int | None = None,
    bias: Tensor | None = None,
) -> Tensor | None:
    """The mask to use instead of the one a block was given.

    Args:
        like: the given mask: None, (B, N) for kernels that read lengths, else (B, 1, N, N) of bool or additive.
        valid: (B, keys) bool, None where nothing is padding.
        shape: (batch, queries, keys).
        causal: whether a token sees earlier ones only; a given None then says so to the kernel by itself.
        window: tokens that a token sees, itself included.
        bias: (B, keys) float, added to the logits of every key.
    """
    if like is None and bias is None:
        return None
    if like is not None and like.ndim == 2:
        return None if valid is None else valid.to(like.dtype)
    batch, queries, keys = shape
    device = next(tensor.device for tensor in (like, valid, bias) if tensor is not None)
    seen = None if valid is None else valid[:, None, None, :]
    if causal:
        order = build_causal_mask(queries, keys, window, device)
        seen = order if seen is None else order & seen
    if bias is None and seen is None:
        return None
    additive = bias if bias is not None else like
    assert additive is not None
    if bias is None and additive.dtype == torch.bool:
        assert seen is not None
        return seen.expand(batch, 1, queries, keys)
    dtype = additive.dtype
    mask = torch.zeros((), dtype=dtype, device=device) if bias is None else bias[:, None, None, :]
    if seen is not None:
        mask = torch.where(seen, mask, torch.finfo(dtype).min)
    return mask.expand(batch, 1, queries, keys)

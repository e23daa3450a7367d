"""Whether queries and keys, read by the names of weights, rank as the attention does that they were read from.

A name does not say what else a family does: biases by distance, sinks, positions in some of its blocks only. So the
attention is asked: a copy of it with random weights tells what it makes of a random sequence.
"""

import inspect
from collections.abc import Iterable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from pruning.anatomy.anatomy import Anatomy
from pruning.anatomy.probe import Call, record_inputs, trace_block
from pruning.reduction.projections import Projections, read_projections
from pruning.reduction.scores import compute_attention_weights
from search_spaces.errors import UnreadableModel

TOLERANCE = 1e-3  # of a weight; rounding makes 1e-7, a missing bias, sink or rotation 1e-1
_MASKS = ("attention_mask", "attn_mask")
_agreed: "WeakKeyDictionary[nn.Module, set[int]]" = WeakKeyDictionary()  # blocks of a model that were asked already


@torch.no_grad()
def check_attention(model: Any, anatomy: Anatomy, blocks: Iterable[int]) -> None:
    """Refuse blocks whose own attention weights are others than those that their queries and keys give.

    Compared is the row of the last token, and in an encoder that of the first; a decoder's last token sees all. Each
    block of a model is asked once.

    Args:
        model: a parent, which is run once on a tiny random input.
        anatomy: of `model`.
        blocks: which of its blocks.

    Raises:
        UnreadableModel: the attention of one of them cannot be read, tells no weights, or tells others.
    """
    asked = _agreed.setdefault(model, set())
    new = sorted(set(blocks) - asked)
    if not new:
        return
    stack: Any = model.get_submodule(anatomy.stack)
    heard = record_inputs(model, stack, **({"use_cache": False} if anatomy.is_decoder else {}))
    for index in new:
        tape = trace_block(stack[index], heard[index], anatomy.hidden_size)
        projections = read_projections(tape.block.module, anatomy.blocks[index])
        call = next(call for call in tape.calls if projections.query.module in call.module.children())
        rows = [-1] if anatomy.is_decoder else [0, -1]
        difference = _measure_difference(call, projections, rows, anatomy.hidden_size)
        if not difference <= TOLERANCE:
            raise UnreadableModel(
                f"{type(call.module).__name__} of block {index} gives attention that its queries and keys do not (by "
                f"{difference:.2f}): positions, biases or sinks of its own; rank tokens by keys, by norm or at random"
            )
        asked.add(index)


def _measure_difference(call: Call, projections: Projections, rows: Sequence[int], width: int) -> float:
    """The largest between the attention's own weights and ours; infinite where ours fit it in no way."""
    bound = inspect.signature(call.module.forward).bind_partial(*call.args, **call.kwargs)
    given = {**bound.arguments, **bound.arguments.get("kwargs", {})}
    first = next(value for value in given.values() if isinstance(value, Tensor) and value.shape[-1] == width)
    normed = call.inputs[0].reshape(first.shape)
    rotary = given.get("position_embeddings")
    try:
        queries, keys = projections.project_queries(normed, rotary), projections.project_keys(normed, rotary)
    except (RuntimeError, TypeError, ValueError):  # a rotation or cosines of a form that is not known
        return float("inf")
    ours = compute_attention_weights(queries, keys, projections.scaling, projections.softcap)
    theirs = _read_attention_weights(call.module, bound, ours.shape[-1])
    return float((theirs[:, rows] - ours[:, rows]).abs().max())


def _read_attention_weights(attention: nn.Module, bound: inspect.BoundArguments, tokens: int) -> Tensor:
    """(B, N, N) the weights that an attention gives without a mask, mean over its heads."""
    parameters = inspect.signature(attention.forward).parameters
    for name in {*_MASKS} & {*parameters}:
        bound.arguments[name] = torch.zeros(1, 1, tokens, tokens)
    if "output_attentions" in parameters:
        bound.arguments["output_attentions"] = True
    config: Any = getattr(attention, "config", None)  # of the copy
    if config is not None:
        config._attn_implementation = "eager"
    try:
        output = attention.forward(*bound.args, **bound.kwargs)
    except (RuntimeError, TypeError, ValueError):  # its masks have a form of their own
        output = ()
    for tensor in output if isinstance(output, tuple) else ():
        if isinstance(tensor, Tensor) and tensor.ndim == 4 and tensor.shape[-2:] == (tokens, tokens):
            return tensor.float().mean(1)
    raise UnreadableModel(
        f"{type(attention).__name__} does not tell its attention weights, so that what ranks cannot be checked; rank "
        "tokens by keys, by norm or at random"
    )

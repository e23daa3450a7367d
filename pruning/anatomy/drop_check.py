"""Dropping every unit once, right after a model was read: what the structure promises has to run and be right.

The truth is the intact model with hooks that replace the outputs of the dropped parts by zeros. A block is tried by
itself first, which also tells whether it can do with a zero of no dimensions. Then the whole model is run with parts
of several blocks gone, since blocks may use each other's keys and values.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pruning.anatomy.agreement import describe_difference, get_first_output
from pruning.anatomy.contribution import BlockAnatomy, Layout
from pruning.anatomy.copying import copy_module
from pruning.anatomy.fitting import fit_sum
from pruning.anatomy.probe import BlockTrace, make_probe_inputs, switch_to_eval_mode
from pruning.kinds import build_modules
from pruning.surgery.block_removal import remove_blocks
from pruning.surgery.replacement import replace_modules
from search_spaces.errors import ArchitectureError, UnreadableModel
from search_spaces.kinds import PARTS, Kind
from search_spaces.unit import Unit


@torch.no_grad()
def settle_forms(block: BlockAnatomy, tape: BlockTrace) -> BlockAnatomy:
    """The block's anatomy with the form of zero that each dropped part has to return.

    Raises:
        UnreadableModel: without one of its parts the block fails, or computes something else than with a zero.
    """
    call = tape.block
    for kind in block.parts:
        with _replace_by_zeros(call.module, block, (kind,)):
            expected = get_first_output(call.module(*call.args, **call.kwargs))
        full = _ask_for_full_zeros(block, kind)
        trials = (block, full, _keep_norm(block, kind), _keep_norm(full, kind))
        reasons = [_find_reason(trial, kind, tape, expected) for trial in trials[:2]]
        if None not in reasons:  # a block that reads the weights of a norm
            reasons += [_find_reason(trial, kind, tape, expected) for trial in trials[2:]]
        block = next((trial for trial, reason in zip(trials, reasons, strict=False) if reason is None), block)
        if None not in reasons:
            raise UnreadableModel(
                f"block {block.index} ({type(call.module).__name__}): looked for a block that runs without its "
                f"{kind} and found that {reasons[0]}"
            )
    return replace(block, passes=_check_empty(block, tape))


def _check_empty(block: BlockAnatomy, tape: BlockTrace) -> bool:
    """Whether a block without its parts hands on what it was given; else that is scaled, or in post-norm normed.

    Raises:
        UnreadableModel: it is neither, so that there is more in the block.
    """
    call = tape.block
    empty = copy_module(call.module, share_tensors=True)
    _drop_parts(empty, block, block.parts)
    if block.layout is Layout.POST_NORM:
        first, second = (call.module.get_submodule(str(block.get_contribution(kind).closes)) for kind in PARTS)
        expected = second(first(call.inputs[0]))
    else:
        expected = call.inputs[0]
    run = partial(empty, *call.args, **call.kwargs)
    reason = describe_difference(lambda: get_first_output(run()).reshape(expected.shape), expected)
    normed = block.layout is Layout.POST_NORM
    if reason is None:
        return not normed
    if normed or fit_sum(get_first_output(run()).reshape(expected.shape), [expected]) is None:
        raise UnreadableModel(
            f"block {block.index} ({type(call.module).__name__}): looked for one attention and one MLP that are all "
            f"it adds and found more beside them ({reason})"
        )
    return False


@torch.no_grad()
def check_drops(model: Any, stack: str, blocks: tuple[BlockAnatomy, ...], **settings: Any) -> None:
    """Run the whole model without both parts of some blocks, so that each block is once without and once with another.

    For every bit of a block's index, those with the bit set and those without it are dropped together: of any two
    blocks, one is gone while the other is there. `settings` are passed to the model's forward.

    Raises:
        UnreadableModel: a block needs what another one made, or the model looks at its blocks' parts.
    """
    depth = len(blocks)
    inputs = make_probe_inputs(model)
    with switch_to_eval_mode(model):
        for bit in range(max(1, (depth - 1).bit_length())):
            for value in (0, 1):
                dropped = {layer for layer in range(depth) if (layer >> bit) & 1 == value}
                reason = _compare(lambda m: m(**inputs, **settings), model, stack, blocks, dropped)
                if reason is not None:
                    raise UnreadableModel(
                        f"{type(model).__name__}: looked for blocks that run without the parts of others and found "
                        f"that {reason} (without blocks {', '.join(map(str, sorted(dropped)))})"
                    )


@torch.no_grad()
def removes_blocks(model: Any, stack: str, **settings: Any) -> bool:
    """Whether whole blocks can be taken out: the others then compute what they do where these hand on their input.

    Not where a config derives the kind of a block from its place, where blocks share modules, or where something
    outside of them has a share for each. Every second block is taken out, then the others.
    """
    depth = len(model.get_submodule(stack))
    inputs = make_probe_inputs(model)
    with switch_to_eval_mode(model):
        for parity in range(min(2, depth - 1)):
            removed = range(parity, depth, 2)
            with ExitStack() as hooks:
                for layer in removed:
                    hooks.enter_context(_pass_by(model.get_submodule(stack)[layer]))
                expected = get_first_output(model(**inputs, **settings))
            pruned = copy_module(model, share_tensors=True)
            try:
                remove_blocks(pruned, stack, removed)
            except ArchitectureError:
                return False
            if describe_difference(partial(pruned, **inputs, **settings), expected) is not None:
                return False
    return True


@contextmanager
def _pass_by(block: nn.Module) -> Iterator[None]:
    """A block that runs and hands on its input."""

    def hand_on(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        shape = get_first_output(output).shape
        given = (value for value in (*args, *kwargs.values()) if isinstance(value, Tensor) and value.shape == shape)
        stream = next(given)
        return type(output)((stream, *output[1:])) if isinstance(output, tuple | list) else stream

    handle = block.register_forward_hook(hand_on, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _compare(
    run: Callable[[Any], Any], model: Any, stack: str, blocks: tuple[BlockAnatomy, ...], dropped: set[int]
) -> str | None:
    """Why the model without these blocks' parts is not what it has to be; None where it is."""
    with ExitStack() as hooks:
        for layer in dropped:
            block = blocks[layer]
            hooks.enter_context(_replace_by_zeros(model.get_submodule(stack)[layer], block, block.parts))
        expected = get_first_output(run(model))
    pruned = copy_module(model, share_tensors=True)
    for layer in dropped:
        _drop_parts(pruned.get_submodule(stack)[layer], blocks[layer], blocks[layer].parts)
    return describe_difference(lambda: run(pruned), expected)


def _find_reason(block: BlockAnatomy, kind: Kind, tape: BlockTrace, expected: Tensor) -> str | None:
    pruned = copy_module(tape.block.module, share_tensors=True)
    _drop_parts(pruned, block, (kind,))
    return describe_difference(lambda: pruned(*tape.block.args, **tape.block.kwargs), expected)


@contextmanager
def _replace_by_zeros(module: nn.Module, block: BlockAnatomy, kinds: Collection[Kind]) -> Iterator[None]:
    """A block whose parts run and whose contributions are replaced by zeros."""

    def return_zero(module: nn.Module, args: Any, output: Any) -> Any:
        first = torch.zeros_like(get_first_output(output))
        return type(output)((first, *output[1:])) if isinstance(output, tuple | list) else first

    handles = [
        module.get_submodule(path).register_forward_hook(return_zero)
        for kind in kinds
        for path in block.get_contribution(kind).lasts
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _ask_for_full_zeros(block: BlockAnatomy, kind: Kind) -> BlockAnatomy:
    unit = block.get_contribution(kind)
    changed = replace(unit, forms=tuple(replace(form, full=True) for form in unit.forms))
    return replace(block, parts={**block.parts, kind: changed})


def _keep_norm(block: BlockAnatomy, kind: Kind) -> BlockAnatomy:
    kept = replace(block.get_contribution(kind), norm_stays=True)
    return replace(block, parts={**block.parts, kind: kept})


def _drop_parts(module: nn.Module, block: BlockAnatomy, kinds: Collection[Kind]) -> None:
    """Drop these parts of a block, in place."""
    chosen = tuple(Unit(block.index, kind).dropped for kind in kinds)
    replace_modules(module, build_modules(module, block, chosen))

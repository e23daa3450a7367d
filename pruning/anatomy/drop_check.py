"""Dropping every unit once, right after a model was read: what the structure promises has to run and be right.

The truth is the intact model with hooks that replace the outputs of the dropped parts by zeros. A block is tried by
itself first, which also tells whether it can do with a zero of no dimensions. Then the whole model is run with parts
of several blocks gone, since blocks may use each other's keys and values.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
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
from pruning.anatomy.probe import Arguments, BlockTrace, Call, build_probe_run, switch_to_eval_mode
from pruning.anatomy.roles import has_matrix, is_same
from pruning.kinds import build_modules
from pruning.surgery.block_removal import number_block, remove_blocks
from pruning.surgery.replacement import replace_modules
from search_spaces.errors import ArchitectureError, UnreadableModel
from search_spaces.kinds import KINDS, Kind
from search_spaces.level import DROP
from search_spaces.rules import get_parts
from search_spaces.unit import Choice, Unit, list_kinds


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
    expected = call.inputs[0]
    if block.layout is Layout.POST_NORM:
        for part in block.parts.values():
            expected = call.module.get_submodule(str(part.closes))(expected)
    run = partial(empty, *call.args, **call.kwargs)
    reason = describe_difference(lambda: get_first_output(run()).reshape(expected.shape), expected)
    normed = block.layout is Layout.POST_NORM
    if reason is None:
        return not normed
    if not has_matrix(empty) and _depends_on_stream(empty, call):
        return False
    if normed or fit_sum(get_first_output(run()).reshape(expected.shape), [expected]) is None:
        raise UnreadableModel(
            f"block {block.index} ({type(call.module).__name__}): looked for attentions and one MLP that are all "
            f"it adds and found more beside them ({reason})"
        )
    return False


def _depends_on_stream(block: nn.Module, call: Call) -> bool:
    """Whether a block writes something else for another stream."""
    name = call.names[0]
    args = tuple(value.flip(-1) + 1 if at == name else value for at, value in enumerate(call.args))
    kwargs = {key: value.flip(-1) + 1 if key == name else value for key, value in call.kwargs.items()}
    one, other = (get_first_output(block(*a, **k)) for a, k in ((call.args, call.kwargs), (args, kwargs)))
    return not is_same(one, other)


@torch.no_grad()
def mark_needed(
    model: Any, stack: str, blocks: tuple[BlockAnatomy, ...], arguments: Sequence[Arguments], **settings: Any
) -> tuple[BlockAnatomy, ...]:
    """The blocks with those parts marked that make more than their contribution, for other blocks.

    The first attention of a T5 makes the position bias that all of them add to their scores. Tried are the parts of
    blocks after which the next one is given tensors that they were not given. What drops a part that is needed, or
    puts something in its place, is no choice.

    Args:
        arguments: what each block is called with.
    """
    run = build_probe_run(model, **settings)
    marked = list(blocks)
    with switch_to_eval_mode(model):
        for layer in _find_makers(blocks, arguments):
            tried = {kind: {layer: (kind,)} for kind in _list_free(blocks[layer])}
            needed = frozenset(
                kind for kind, dropped in tried.items()
                if _compare(run, model, stack, blocks, dropped) is not None
                or _starves_next(run, model, stack, blocks, layer, kind, _list_tensors(arguments[layer + 1]))
            )  # fmt: skip
            saves = {choice: n for choice, n in blocks[layer].saves.items() if not _takes_any(choice, needed)}
            marked[layer] = replace(blocks[layer], needed=needed, saves=saves)
    return tuple(marked)


def _find_makers(blocks: Sequence[BlockAnatomy], arguments: Sequence[Arguments]) -> tuple[int, ...]:
    """Blocks with parts of several outputs after which the next block is given tensors that are new."""
    given = [{id(value): value for value in _list_tensors(each)[1:]} for each in arguments]
    several = [any(form.arity > 1 for part in block.parts.values() for form in part.forms) for block in blocks]
    return tuple(
        layer for layer in range(len(blocks) - 1) if several[layer] and given[layer + 1].keys() - given[layer].keys()
    )


def _starves_next(
    run: Callable[[Any], Any],
    model: Any,
    stack: str,
    blocks: Sequence[BlockAnatomy],
    layer: int,
    kind: Kind,
    usual: Sequence[Tensor],
) -> bool:
    """Whether the next block is given fewer tensors than usual where a part is dropped.

    Whether it uses them does not always show in what a tiny model computes, as a router chooses one expert or another.
    """
    given: list[int] = []
    pruned = copy_module(model, share_tensors=True)
    _drop_parts(pruned.get_submodule(stack)[layer], blocks[layer], (kind,))
    pruned.get_submodule(stack)[layer + 1].register_forward_pre_hook(
        lambda module, args, kwargs: given.append(len(_list_tensors((args, kwargs)))), with_kwargs=True
    )
    run(pruned)
    return bool(given) and given[0] < len(usual)


def _list_tensors(arguments: Arguments) -> list[Tensor]:
    """The tensors among the arguments of a block; the residual stream is the first."""
    args, kwargs = arguments
    return [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]


def _takes_any(choice: Choice, kinds: Collection[Kind]) -> bool:
    """Whether a choice leaves nothing of a part of one of these kinds."""
    gone = choice.level == DROP or any(KINDS[name].stands_in for name in list_kinds(choice))
    return gone and any(kind in kinds for kind in get_parts(choice.unit.kind))


@torch.no_grad()
def mark_unread(model: Any, stack: str, blocks: tuple[BlockAnatomy, ...]) -> tuple[BlockAnatomy, ...]:
    """The blocks with the last ones marked that nothing reads: a projector may take the states before them.

    Tried is each, from the last on, until one of whose zeros the model takes notice.
    """
    run, marked = build_probe_run(model), list(blocks)
    with switch_to_eval_mode(model):
        expected = get_first_output(run(model))
        for layer in reversed(range(len(blocks))):
            handle = model.get_submodule(stack)[layer].register_forward_hook(_return_zero, prepend=True)
            try:
                actual = get_first_output(run(model))
            finally:
                handle.remove()
            if not torch.equal(actual, expected):
                break
            marked[layer] = replace(blocks[layer], unread=True, saves={})
    return tuple(marked)


@torch.no_grad()
def check_drops(model: Any, stack: str, blocks: tuple[BlockAnatomy, ...], **settings: Any) -> None:
    """Run the whole model without the parts of some blocks, so that each block is once without and once with another.

    For every bit of a block's index, those with the bit set and those without it are dropped together: of any two
    blocks, one is gone while the other is there. `settings` are passed to the model's forward.

    Raises:
        UnreadableModel: a block needs what another one made, or the model looks at its blocks' parts.
    """
    depth = len(blocks)
    run = build_probe_run(model, **settings)
    with switch_to_eval_mode(model):
        for bit in range(max(1, (depth - 1).bit_length())):
            for value in (0, 1):
                layers = [layer for layer in range(depth) if (layer >> bit) & 1 == value]
                dropped = {layer: free for layer in layers if (free := _list_free(blocks[layer]))}
                reason = _compare(run, model, stack, blocks, dropped)
                if reason is not None:
                    raise UnreadableModel(
                        f"{type(model).__name__}: looked for blocks that run without the parts of others and found "
                        f"that {reason} (without blocks {', '.join(map(str, sorted(dropped)))})"
                    )


@torch.no_grad()
def removes_blocks(model: Any, stack: str, blocks: Sequence[BlockAnatomy], **settings: Any) -> bool:
    """Whether whole blocks can be taken out: the others then compute what they do where these hand on their input.

    Not where a config derives the kind of a block from its place, where blocks share modules, or where something
    outside of them has a share for each. Every second block is taken out, then the others, but for those that others
    need.
    """
    depth = len(blocks)
    run = build_probe_run(model, **settings)
    with switch_to_eval_mode(model):
        for parity in range(min(2, depth - 1)):
            removed = [layer for layer in range(parity, depth, 2) if not (blocks[layer].needed or blocks[layer].unread)]
            with ExitStack() as hooks:
                for layer in removed:
                    hooks.enter_context(_pass_by(model.get_submodule(stack)[layer]))
                expected = get_first_output(run(model))
            pruned = copy_module(model, share_tensors=True)
            try:
                remove_blocks(pruned, stack, removed)
            except ArchitectureError:
                return False
            for place, block in enumerate(pruned.get_submodule(stack) if settings else ()):  # as decoders number them
                number_block(block, place)
            if describe_difference(partial(run, pruned), expected) is not None:
                return False
    return True


@contextmanager
def _pass_by(block: nn.Module) -> Iterator[None]:
    """A block that runs and hands on its input, to those who listen to it as well."""

    def hand_on(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        shape = get_first_output(output).shape
        given = (value for value in (*args, *kwargs.values()) if isinstance(value, Tensor) and value.shape == shape)
        stream = next(given)
        return type(output)((stream, *output[1:])) if isinstance(output, tuple | list) else stream

    handle = block.register_forward_hook(hand_on, prepend=True, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _compare(
    run: Callable[[Any], Any],
    model: Any,
    stack: str,
    blocks: Sequence[BlockAnatomy],
    dropped: Mapping[int, Collection[Kind]],
) -> str | None:
    """Why the model without these parts, by block, is not what it has to be; None where it is."""
    with ExitStack() as hooks:
        for layer, kinds in dropped.items():
            hooks.enter_context(_replace_by_zeros(model.get_submodule(stack)[layer], blocks[layer], kinds))
        expected = get_first_output(run(model))
    pruned = copy_module(model, share_tensors=True)
    for layer, kinds in dropped.items():
        _drop_parts(pruned.get_submodule(stack)[layer], blocks[layer], kinds)
    return describe_difference(lambda: run(pruned), expected)


def _list_free(block: BlockAnatomy) -> tuple[Kind, ...]:
    """The parts of a block that no other block needs."""
    return tuple(kind for kind in block.parts if kind not in block.needed and not block.unparted)


def _find_reason(block: BlockAnatomy, kind: Kind, tape: BlockTrace, expected: Tensor) -> str | None:
    pruned = copy_module(tape.block.module, share_tensors=True)
    _drop_parts(pruned, block, (kind,))
    return describe_difference(lambda: pruned(*tape.block.args, **tape.block.kwargs), expected)


@contextmanager
def _replace_by_zeros(module: nn.Module, block: BlockAnatomy, kinds: Collection[Kind]) -> Iterator[None]:
    """A block whose parts run and whose contributions are replaced by zeros."""
    handles = [
        module.get_submodule(path).register_forward_hook(_return_zero)
        for kind in kinds
        for path in block.get_contribution(kind).lasts
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _return_zero(module: nn.Module, args: Any, output: Any) -> Any:
    """In place of the contribution, and of what is handed out to be added to it: the module's own weights."""
    first = torch.zeros_like(get_first_output(output))
    if not isinstance(output, tuple | list):
        return first
    return type(output)((first, *(torch.zeros_like(o) if isinstance(o, nn.Parameter) else o for o in output[1:])))


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

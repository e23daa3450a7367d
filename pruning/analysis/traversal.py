"""Batches on their way through a model's blocks: one after another, or all of them together from block to block.

Together they look at each block's weights once, however many they are, so of a model that is larger than the memory
every page is read once. What is computed is the same: the module that holds the blocks is called again with what it
was called with, and blocks that have run hand on the states that they left instead of running.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pruning.analysis.observer import Inputs, Observer
from pruning.analysis.traversal_state import TraversalPosition, TraversalState
from pruning.anatomy.anatomy import Anatomy
from pruning.anatomy.probe import Arguments
from pruning.compensation.streams import run_trunk
from pruning.inference.block_stand_in import HandedStates
from pruning.inference.residency import hold, release_weights


@dataclass(frozen=True)
class ObservedBatch:
    """One batch that an observer is to see; `number` is its place among the observer's batches."""

    observer: Observer
    number: int
    inputs: Inputs


@torch.inference_mode()
def run_in_turn(model: Any, anatomy: Anatomy, observer: Observer, batches: Iterable[Inputs]) -> None:
    """Run one batch after another; memory does not depend on how many there are."""
    release_weights(model)  # of a head, for one, which is not run
    with ExitStack() as stack:
        for index, block in enumerate(model.get_submodule(anatomy.stack)):
            stack.callback(observer.watch(index, block).remove)
        for number, batch in enumerate(batches):
            observer.begin(number, batch)
            run_trunk(model, anatomy, batch)
            observer.end(number)


@torch.inference_mode()
def run_together(
    model: Any,
    anatomy: Anatomy,
    groups: Sequence[Sequence[ObservedBatch]],
    state: TraversalState,
    report: Callable[[float], None] = lambda share: None,
) -> None:
    """Take the batches of a group through each block together, one group after another.

    What was done by a run that was ended is not done again: it goes on with the block that comes next.

    Args:
        groups: those whose states are in memory together.
        state: where it is written down after every block how far the work is.
        report: told which share is done.
    """
    release_weights(model)
    with _hold_beside(model, anatomy):
        _traverse_groups(model, anatomy, groups, state, report)
    state.close()


def _traverse_groups(
    model: Any, anatomy: Anatomy, groups: Sequence[Sequence[ObservedBatch]], state: TraversalState,
    report: Callable[[float], None],
) -> None:  # fmt: skip
    observers = {observed.observer.name: observed.observer for group in groups for observed in group}
    reached, total = state.restore(observers), anatomy.depth * sum(map(len, groups))
    done = anatomy.depth * sum(map(len, groups[: reached.group])) + reached.block * len(reached.states)

    def step() -> None:
        nonlocal done
        done += 1
        report(done / total)

    for number, group in enumerate(groups[reached.group :], reached.group):
        traversal = _GroupTraversal(model, anatomy, group, reached.states, reached.arity)
        for index in range(reached.block, anatomy.depth):
            traversal.advance(index, step)
            state.keep(TraversalPosition(number, index + 1, traversal.states, traversal.arity), observers)
        for observed in group:
            observed.observer.begin(observed.number, observed.inputs)
            observed.observer.end(observed.number)
        reached = TraversalPosition(number + 1)
        state.keep(reached, observers)


@contextmanager
def _hold_beside(model: Any, anatomy: Anatomy) -> Iterator[None]:
    """Keep what was looked at of embeddings: every block begins with them."""
    inside = {part for block in model.get_submodule(anatomy.stack) for part in block.modules()}
    with ExitStack() as stack:
        for part in model.modules():
            if part not in inside:
                stack.enter_context(hold(part))
        yield


@dataclass
class _GroupTraversal:
    """A group of batches between two blocks.

    Attributes:
        states: (batch, tokens, d) of each, what left the last block; none before the first.
        arity: how blocks return their states, as `HandedStates` has it.
    """

    model: Any
    anatomy: Anatomy
    group: Sequence[ObservedBatch]
    states: list[Tensor]
    arity: int
    _calls: list[Arguments] = field(default_factory=list)

    def advance(self, index: int, step: Callable[[], None]) -> None:
        """Run one block on all batches; `step` is told of each."""
        owner = self.model.get_submodule(self.anatomy.stack.rpartition(".")[0])
        self._calls = self._calls or [_record_call(self.model, self.anatomy, owner, each.inputs) for each in self.group]
        blocks: nn.ModuleList = self.model.get_submodule(self.anatomy.stack)
        block, before = blocks[index], list(blocks[:index])
        known = [HandedStates(each, torch.empty(0), self.arity) for each in before]
        left: list[Tensor] = []
        with ExitStack() as stack:
            stack.enter_context(hold(block))
            stack.callback(lambda: _replace(blocks, before))
            _replace(blocks, known)
            for position, observed in enumerate(self.group):
                for each in known:
                    each.states = self.states[position]
                output = _run_to(block, index, owner, self._calls[position], observed)
                self.arity = len(output) if isinstance(output, tuple) else 0
                left.append(output[0] if isinstance(output, tuple) else output)
                step()
        self.states = left


class _StopHere(Exception):
    """A pass has come to where it ends; carries what was there."""

    def __init__(self, value: Any) -> None:
        super().__init__("reached")
        self.value = value


def _record_call(model: Any, anatomy: Anatomy, owner: nn.Module, inputs: Inputs) -> Arguments:
    """What the module that holds the blocks is called with; nothing behind that is run."""

    def stop(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        raise _StopHere((args, kwargs))

    handle = owner.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        run_trunk(model, anatomy, inputs)
    except _StopHere as reached:
        return reached.value  # type: ignore[no-any-return]
    finally:
        handle.remove()
    raise AssertionError("the blocks are called by the module that holds them")


def _run_to(block: nn.Module, index: int, owner: nn.Module, call: Arguments, observed: ObservedBatch) -> Any:
    """What leaves a block; nothing behind it is run."""

    def stop(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        raise _StopHere(output)

    watched = observed.observer.watch(index, block)
    handle = block.register_forward_hook(stop)  # the last of its hooks: the observer has seen it
    observed.observer.begin(observed.number, observed.inputs)
    try:
        owner(*call[0], **call[1])
    except _StopHere as reached:
        return reached.value
    finally:
        handle.remove()
        watched.remove()
    raise AssertionError(f"block {index} runs")


def _replace(blocks: nn.ModuleList, others: Sequence[nn.Module]) -> None:
    for index, other in enumerate(others):
        blocks[index] = other

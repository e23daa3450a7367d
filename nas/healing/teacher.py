"""What a parent gives for the items that are trained on: computed once, as far as memory allows."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from nas.healing.items import Batch
from nas.healing.outputs import LIKELIEST, OutputLoss
from nas.quality.distribution import StoredDistribution
from pruning.anatomy.anatomy import Anatomy
from pruning.compensation.streams import reshape_by_item, watch_input

KEPT_BYTES = 2 << 30  # of all that is kept


@dataclass(frozen=True)
class TeacherOutputs:
    """What a parent gives for some items; what is large is in half precision.

    Attributes:
        rows: (items, rows, width) of its outputs; of distributions the logarithms of the likeliest outcomes.
        outcomes: (items, rows, k) which these are; None where all are there.
        rest: (items, rows) logarithms of what the others have together.
        streams: by layer, the residual stream (items, tokens, d) that enters its block; by the depth what leaves the
            last block.
    """

    rows: Tensor
    outcomes: Tensor | None
    rest: Tensor | None
    streams: dict[int, Tensor]

    @property
    def nbytes(self) -> int:
        """Of all of it."""
        every = [self.rows, self.outcomes, self.rest, *self.streams.values()]
        return sum(int(each.nbytes) for each in every if each is not None)

    def apply(self, change: Callable[[Tensor], Tensor]) -> "TeacherOutputs":
        """With every tensor changed."""
        outcomes, rest = (None if each is None else change(each) for each in (self.outcomes, self.rest))
        return TeacherOutputs(
            change(self.rows), outcomes, rest, {layer: change(each) for layer, each in self.streams.items()}
        )

    def take(self, at: int) -> "TeacherOutputs":
        """Of one item, on the CPU in memory of its own."""
        return self.apply(lambda tensor: tensor[at : at + 1].to("cpu", copy=True))

    def read_distribution(self) -> StoredDistribution:
        """The rows (items · rows, k) of one that has distributions."""
        outcomes, rest = self.outcomes, self.rest
        return StoredDistribution(
            self.rows.flatten(0, 1).float(),
            None if outcomes is None else outcomes.flatten(0, 1).long(),
            None if rest is None else rest.flatten(0, 1).float(),
        )


def join_teacher_outputs(outputs: list[TeacherOutputs]) -> TeacherOutputs:
    """Those of several items, in order."""
    outcomes, rest = (
        None if first is None else torch.cat([getattr(each, name) for each in outputs])
        for name, first in (("outcomes", outputs[0].outcomes), ("rest", outputs[0].rest))
    )
    streams = {layer: torch.cat([each.streams[layer] for each in outputs]) for layer in outputs[0].streams}
    return TeacherOutputs(torch.cat([each.rows for each in outputs]), outcomes, rest, streams)


@dataclass
class Teacher:
    """A parent, and what is kept of what it gave.

    What was kept and what is computed again is the same.

    Attributes:
        parent: in eval mode.
        anatomy: its own.
        outputs: what of its outputs is compared.
        layers: whose streams are wanted; the depth for what leaves the last block.
        arithmetic: the context in which it runs.
        capacity: bytes that may be kept.
    """

    parent: Any
    anatomy: Anatomy
    outputs: OutputLoss
    layers: frozenset[int]
    arithmetic: Callable[[], AbstractContextManager[Any]]
    capacity: int = KEPT_BYTES
    _kept: dict[int, TeacherOutputs] = field(default_factory=dict, init=False)
    _nbytes: int = field(default=0, init=False)

    def compute_outputs(self, batch: Batch) -> TeacherOutputs:
        """What the parent gives for a batch."""
        positions = batch.positions.tolist()
        if all(position in self._kept for position in positions):
            device = next(iter(batch.inputs.values())).device
            return join_teacher_outputs([self._kept[position] for position in positions]).apply(
                lambda each: each.to(device)
            )
        outputs = self._compute(batch.inputs)
        for at, position in enumerate(positions):
            if position not in self._kept and self._nbytes < self.capacity:
                self._kept[position] = outputs.take(at)
                self._nbytes += self._kept[position].nbytes
        return outputs

    @torch.no_grad()
    def _compute(self, inputs: Mapping[str, Tensor]) -> TeacherOutputs:
        items = len(next(iter(inputs.values())))
        streams: dict[int, Tensor] = {}

        def keep(layer: int) -> Callable[[Tensor], None]:
            return lambda stream: streams.update({layer: reshape_by_item(stream, items).bfloat16()})

        blocks: nn.ModuleList = self.parent.get_submodule(self.anatomy.stack)
        with self.arithmetic(), watch_streams(blocks, {layer: keep(layer) for layer in self.layers}):
            rows = self.outputs.run(self.parent, inputs)
        if not self.outputs.distributions:
            return TeacherOutputs(rows.float(), None, None, streams)
        return _keep_likeliest(rows, streams)


def _keep_likeliest(logits: Tensor, streams: dict[int, Tensor]) -> TeacherOutputs:
    """Of distributions (items, rows, outcomes) all outcomes if they are few, else the likeliest."""
    shape, outcomes = logits.shape[:2], logits.shape[-1]
    stored = StoredDistribution.of(logits.flatten(0, 1), min(LIKELIEST, outcomes))
    if stored.indices is None or stored.log_rest is None:
        return TeacherOutputs(stored.log_p.reshape(*shape, -1), None, None, streams)
    kind = torch.int16 if outcomes <= torch.iinfo(torch.int16).max else torch.int32
    return TeacherOutputs(
        stored.log_p.half().reshape(*shape, -1), stored.indices.to(kind).reshape(*shape, -1),
        stored.log_rest.half().reshape(shape), streams,
    )  # fmt: skip


@contextmanager
def watch_streams(blocks: nn.ModuleList, seen: Mapping[int, Callable[[Tensor], None]]) -> Iterator[None]:
    """Show the residual stream that enters blocks, by their number, and by their count what leaves the last one."""
    with ExitStack() as stack:
        for position, see in seen.items():
            stack.callback(
                _watch_end(blocks[-1], see) if position == len(blocks) else watch_input(blocks[position], see)
            )
        yield


def _watch_end(module: nn.Module, see: Callable[[Tensor], None]) -> Callable[[], None]:
    """Shows what a block returns before anybody else changes it, such as what restores the number of tokens."""

    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        see(output[0] if isinstance(output, tuple) else output)

    return module.register_forward_hook(hook, prepend=True).remove

"""How far a pruned model is from its parent on a few items, as something to be made smaller by training.

The outputs are compared as the search's evaluator compares them, so that what falls is what is reported. The hidden
states tell every block by itself what it lacks: where kept blocks meet, the residual stream is compared with the
parent's at the same place.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from nas.healing.items import Batch
from nas.healing.teacher import Teacher, TeacherOutputs, watch_streams
from pruning.anatomy.anatomy import Anatomy
from pruning.compensation.alignment import TokenAlignment
from pruning.compensation.sites import find_kept_layers
from pruning.compensation.streams import reshape_by_item
from search_spaces.architecture import Architecture

_TINY = 1e-12  # of a mean square


def list_watched_layers(anatomy: Anatomy, architecture: Architecture) -> list[int]:
    """Where the residual stream of a pruned model is compared: what enters every kept block but the first, by the
    block's layer in the parent, and by the parent's depth what leaves the last."""
    return [*find_kept_layers(anatomy, architecture)[1:], anatomy.depth]


@dataclass
class HealingLoss:
    """The loss of a pruned model on some items: that of its outputs, and of its hidden states.

    Attributes:
        teacher: the parent; its streams are those of `list_watched_layers`, or of more layers.
        model: in eval mode; it takes gradients.
        anatomy: of the parent.
        architecture: of the model.
        hidden_weight: of the hidden states.
        arithmetic: the context in which the model runs.
    """

    teacher: Teacher
    model: Any
    anatomy: Anatomy
    architecture: Architecture
    hidden_weight: float
    arithmetic: Callable[[], AbstractContextManager[Any]]
    _errors: list[Tensor] = field(default_factory=list, init=False)

    def __call__(self, batch: Batch) -> Tensor:
        """The loss, a number that gradients can be taken of."""
        outputs = self.teacher.compute_outputs(batch)
        blocks: nn.ModuleList = self.model.get_submodule(self.anatomy.stack)
        seen = self._compare_streams(batch.inputs, outputs) if self.hidden_weight > 0 else {}
        with self.arithmetic(), watch_streams(blocks, seen):
            own = self.teacher.outputs.run(self.model, batch.inputs)
        loss = self._compare_outputs(own, outputs, batch.inputs)
        if self._errors:
            loss = loss + self.hidden_weight * torch.stack(self._errors).mean()
        self._errors.clear()
        return loss

    def _compare_outputs(self, own: Tensor, outputs: TeacherOutputs, inputs: Mapping[str, Tensor]) -> Tensor:
        rows = own.flatten(0, 1)
        if self.teacher.outputs.distributions:
            own_logs = rows.log_softmax(-1, dtype=torch.float32)  # one pass each way, unlike a normaliser taken apart
            losses = outputs.read_distribution().compute_divergence(own_logs, own_logs.new_zeros(len(own_logs)))
        else:
            losses = self.teacher.outputs.compare(rows, outputs.rows.flatten(0, 1).float())
        if self.teacher.outputs.mark_real is not None:
            losses = losses[self.teacher.outputs.mark_real(inputs).flatten()]
        return losses.mean()

    def _compare_streams(
        self, inputs: Mapping[str, Tensor], outputs: TeacherOutputs
    ) -> dict[int, Callable[[Tensor], None]]:
        """By the number of a block of the model, what compares the stream there with the parent's."""
        items, tokens = len(next(iter(inputs.values()))), TokenAlignment.of(self.model, inputs)

        def compare_at(layer: int) -> Callable[[Tensor], None]:
            def see(stream: Tensor) -> None:
                own = reshape_by_item(stream, items)
                real = tokens.mark_real_rows(*own.shape[:2])
                wanted = tokens.align_rows(outputs.streams[layer])[real].float()
                self._errors.append(compute_relative_error(own.flatten(0, 1)[real].float(), wanted))

            return see

        layers = list_watched_layers(self.anatomy, self.architecture)
        return {position: compare_at(layer) for position, layer in enumerate(layers, start=1)}


def compute_relative_error(own: Tensor, wanted: Tensor) -> Tensor:
    """The mean squared difference of states (tokens, d), relative to the mean square of the wanted ones."""
    return (own - wanted).square().mean() / wanted.square().mean().clamp(min=_TINY)

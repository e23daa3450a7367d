"""Training a decoder that drops tokens: the loss of the tokens that are left."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from pruning.reduction.hooks import TokenHooks
from pruning.reduction.labels import IGNORED, mark_before_answers
from pruning.reduction.sequence import Sequence, take
from search_spaces.errors import BadData


class Supervision:
    """The labels of a model's current pass: they decide who asks, and are cut along with the tokens."""

    def __init__(self, hooks: TokenHooks, loss: Callable[..., Tensor]) -> None:
        self.hooks, self.loss = hooks, loss
        self.whole: Sequence | None = None
        self.now: Sequence | None = None

    def begin(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A pass begins."""
        self.whole = self.now = None
        labels = kwargs.get("labels")
        self.hooks.asking = mark_before_answers(labels) if isinstance(labels, Tensor) and labels.ndim == 2 else None

    def note_blocks_ran(self, module: Any, args: tuple[Any, ...], output: Any) -> None:
        """The blocks ran: the head and the loss come next."""
        self.whole, self.now = self.hooks.whole, self.hooks.now

    def end(self, module: Any, args: tuple[Any, ...], output: Any) -> None:
        """A pass ends, or failed."""
        self.whole = self.now = self.hooks.asking = None

    def __call__(self, logits: Tensor, labels: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The model's own loss, of the tokens that are left; arguments as the library gives them.

        Raises:
            BadData: a token is learned that may be dropped.
        """
        if self.whole is None or self.now is None or labels is None:
            return self.loss(logits, labels, *args, **kwargs)
        _refuse_lost(labels, self.whole)
        indices = self.now.indices.expand(labels.shape[0], -1)
        if kwargs.get("shift_labels") is not None:
            kwargs = {**kwargs, "shift_labels": take(kwargs["shift_labels"], indices)}
        return self.loss(logits, take(labels, indices), *args, **kwargs)


def supervise(model: Any, trunk: Any, hooks: TokenHooks) -> None:
    """Let a model with a language-model head be trained with labels (B, N) of the whole sequence."""
    supervision = Supervision(hooks, model.loss_function)
    model.register_forward_pre_hook(supervision.begin, with_kwargs=True)
    trunk.register_forward_hook(supervision.note_blocks_ran, prepend=True)
    model.register_forward_hook(supervision.end, always_call=True)
    model.loss_function = supervision


def _refuse_lost(labels: Tensor, whole: Sequence) -> None:
    lost = (labels != IGNORED) & ~whole.protected
    if whole.valid is not None:
        lost = lost & whole.valid
    if lost.any():
        row, index = lost.nonzero()[0].tolist()
        raise BadData(
            f"token {index} of row {row} has the label {int(labels[row, index])} and may be dropped; "
            f"give tokens that may be dropped the label {IGNORED}"
        )

"""Training a decoder that drops tokens: who asks which tokens matter, and the loss of the tokens that are left."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pruning.reduction.sequence import Sequence, take
from search_spaces.errors import BadData

if TYPE_CHECKING:
    from pruning.reduction.hooks import TokenHooks

IGNORED = -100  # the label of a token that is not learned, in every loss of the library


def before_answers(labels: Tensor) -> Tensor:
    """(B, N) bool from labels (B, N): the tokens before each answer, whose own label is ignored and the next one's not.

    Their attention says which tokens an answer needs, as PyramidDrop trains (Xing et al. 2025).
    """
    learned = labels != IGNORED
    return torch.cat([~learned[:, :-1] & learned[:, 1:], torch.zeros_like(learned[:, :1])], dim=1)


def queries_of(asking: Tensor, tokens: Sequence) -> tuple[Tensor, Tensor]:
    """Who asks among the tokens that are left.

    Args:
        asking: (B, N) bool, of the whole sequence.
        tokens: T of the N.

    Returns:
        (B, Q) places among the T, and (B, Q) float32 weights that sum to one in a row. A row in which nobody asks
        is asked by its last token.
    """
    left = take(asking, tokens.places.expand(asking.shape[0], -1))
    last = tokens.last()
    last = torch.full_like(left[:, :1], left.shape[1] - 1, dtype=torch.long) if last is None else last
    silent = ~left.any(1, keepdim=True)
    left = left | (silent & (torch.arange(left.shape[1], device=left.device) == last))
    most = int(left.sum(1).max())
    places = left.float().topk(most, dim=1).indices
    weights = left.float().gather(1, places)
    return places, weights / weights.sum(1, keepdim=True)


class Supervision:
    """The labels of a model's current pass: they decide who asks, and are cut along with the tokens."""

    def __init__(self, hooks: "TokenHooks", loss: Callable[..., Tensor]) -> None:
        self.hooks, self.loss = hooks, loss
        self.whole: Sequence | None = None
        self.now: Sequence | None = None

    def begin(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A pass begins."""
        self.whole = self.now = None
        labels = kwargs.get("labels")
        self.hooks.asking = before_answers(labels) if isinstance(labels, Tensor) and labels.ndim == 2 else None

    def ran(self, module: Any, args: tuple[Any, ...], output: Any) -> None:
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
        places = self.now.places.expand(labels.shape[0], -1)
        if kwargs.get("shift_labels") is not None:
            kwargs = {**kwargs, "shift_labels": take(kwargs["shift_labels"], places)}
        return self.loss(logits, take(labels, places), *args, **kwargs)


def supervise(model: Any, trunk: Any, hooks: "TokenHooks") -> None:
    """Let a model with a language-model head be trained with labels (B, N) of the whole sequence."""
    supervision = Supervision(hooks, model.loss_function)
    model.register_forward_pre_hook(supervision.begin, with_kwargs=True)
    trunk.register_forward_hook(supervision.ran, prepend=True)
    model.register_forward_hook(supervision.end, always_call=True)
    model.loss_function = supervision


def _refuse_lost(labels: Tensor, whole: Sequence) -> None:
    lost = (labels != IGNORED) & ~whole.protected
    if whole.valid is not None:
        lost = lost & whole.valid
    if lost.any():
        row, place = lost.nonzero()[0].tolist()
        raise BadData(
            f"token {place} of row {row} has the label {int(labels[row, place])} and may be dropped; "
            f"give tokens that may be dropped the label {IGNORED}"
        )

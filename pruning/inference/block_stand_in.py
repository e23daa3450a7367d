"""Modules that stand in a block's place and hand on states that are known instead of running it."""

from typing import Any

from torch import Tensor, nn


class BlockStandIn(nn.Module):
    """Holds a block and answers for it whatever a model asks its blocks for besides running them."""

    def __init__(self, block: nn.Module) -> None:
        """The block whose place it takes."""
        super().__init__()
        self.block = block

    def __getattr__(self, name: str) -> Any:
        """An attribute of its own, else the block's."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("block"), name)


class HandedStates(BlockStandIn):
    """Does not run the block: always returns the same states.

    Example:
        >>> HandedStates(nn.Identity(), torch.ones(1, 2, 4), arity=0)(torch.zeros(1, 2, 4)).sum().item()
        8.0
    """

    def __init__(self, block: nn.Module, states: Tensor, arity: int) -> None:
        """The block that is not run.

        Args:
            states: (batch, tokens, d), what leaves it.
            arity: 0 where it returns a tensor, n where a tuple of n.
        """
        super().__init__(block)
        self.states, self.arity = states, arity

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The states."""
        return hand_on(self.states, self.arity)


def hand_on(states: Tensor, arity: int) -> Any:
    """States in the form in which a block returns its own: a tensor where `arity` is 0, else a tuple of so many."""
    return (states, *(None,) * (arity - 1)) if arity else states

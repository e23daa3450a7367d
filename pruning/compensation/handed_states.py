"""Starting a forward pass after blocks whose outcome is known."""

from typing import Any

from torch import Tensor, nn


class HandedStates(nn.Module):
    """Stands in a block's place and returns states that are known, in the form in which the block returns its own."""

    def __init__(self, block: nn.Module, states: Tensor, arity: int) -> None:
        """The block that is not run.

        Args:
            states: (batch, tokens, d), what leaves it.
            arity: 0 where it returns a tensor, n where a tuple of n.
        """
        super().__init__()
        self.block, self.states, self.arity = block, states, arity

    def __getattr__(self, name: str) -> Any:
        """Whatever the model asks its blocks for besides running them."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("block"), name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The states."""
        return (self.states, *(None,) * (self.arity - 1)) if self.arity else self.states

"""Modules that stand in a block's place and hand on states that are known instead of running it."""

from typing import Any, cast

from torch import Tensor, nn

Outcome = Tensor | tuple[Tensor | None, ...]  # of a block: its states (batch, tokens, d), or these and more


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

    def __init__(self, block: nn.Module, states: Tensor, arity: int, others: tuple[Tensor | None, ...] = ()) -> None:
        """The block that is not run.

        Args:
            states: (batch, tokens, d), what leaves it.
            arity: 0 where it returns a tensor, n where a tuple of n.
            others: of the tuple what comes after the states; where nothing is given, None.
        """
        super().__init__(block)
        self.states, self.arity, self.others = states, arity, others

    @classmethod
    def of(cls, block: nn.Module, outcome: Outcome) -> "HandedStates":
        """For what a block returned."""
        if isinstance(outcome, Tensor):
            return cls(block, outcome, 0)
        states = outcome[0]
        assert states is not None, "a block returns its states first"
        return cls(block, states, len(outcome), outcome[1:])

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The states."""
        if not self.arity:
            return self.states
        return (self.states, *(self.others or (None,) * (self.arity - 1)))


def read_outcome(output: Any) -> Outcome:
    """What of a block's output another block may be given: its tensors, such as the position bias that T5 hands on."""
    if not isinstance(output, tuple | list):
        return cast(Tensor, output)
    return tuple(each if isinstance(each, Tensor) else None for each in output)


def count_outcome_bytes(outcome: Outcome) -> int:
    """Bytes of the tensors in an outcome."""
    parts = outcome if isinstance(outcome, tuple) else (outcome,)
    return sum(each.nbytes for each in parts if each is not None)

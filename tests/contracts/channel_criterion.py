"""What every criterion has to do that orders the inputs of a projection; a test class per criterion gives it."""

import pytest
import torch
from torch import Tensor

from pruning.analysis.criteria import Criterion


def draw(seed: int = 0, tokens: int = 200, inputs: int = 12, outputs: int = 5) -> tuple[Tensor, Tensor]:
    """Inputs (tokens, inputs) of unlike sizes that depend on each other, and weights (outputs, inputs)."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(inputs, inputs, generator=generator)
    x = torch.randn(tokens, inputs, generator=generator) @ mixing + torch.randn(inputs, generator=generator)
    return x, torch.randn(outputs, inputs, generator=generator)


class CriterionContract:
    """Set `criterion` in a subclass."""

    criterion: Criterion

    @pytest.mark.parametrize("size", [1, 3])
    def test_every_group_has_one_place(self, size: int) -> None:
        inputs, weight = draw()
        assert sorted(self.criterion.rank(inputs, weight, size).tolist()) == list(range(12 // size))

    @pytest.mark.parametrize("size", [1, 3])
    def test_what_nobody_reads_or_nothing_writes_comes_last(self, size: int) -> None:
        inputs, weight = draw()
        inputs[:, 3:6], weight[:, 9:12] = 0, 0
        last = {group for channel in (3, 4, 5, 9, 10, 11) for group in [channel // size]}
        assert set(self.criterion.rank(inputs, weight, size)[-len(last) :].tolist()) == last

    def test_the_order_does_not_depend_on_units(self) -> None:
        inputs, weight = draw()
        expected = self.criterion.rank(inputs, weight, 1).tolist()
        assert self.criterion.rank(7 * inputs, 3 * weight, 1).tolist() == expected

    def test_groups_keep_their_places_when_channels_move_within_them(self) -> None:
        inputs, weight = draw()
        turned = torch.arange(12).reshape(-1, 3).flip(1).flatten()
        expected = self.criterion.rank(inputs, weight, 3).tolist()
        assert self.criterion.rank(inputs[:, turned], weight[:, turned], 3).tolist() == expected

"""What every closed form has to do; a test class per method gives it."""

from typing import Any

import pytest
import torch

from pruning.compensation.method import Method, Observed


def observe(bias: bool, tokens: int = 160, inputs: int = 12, outputs: int = 6, seed: int = 0) -> Observed:
    """A projection whose outputs lack a linear function of its inputs, a constant and a little noise."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, inputs, generator=generator)
    weight = torch.randn(inputs, outputs, generator=generator) / inputs**0.5
    constant = torch.randn(outputs, generator=generator) if bias else None
    y = x @ weight + (0.0 if constant is None else constant)
    lacking = 0.3 * y @ torch.randn(outputs, outputs, generator=generator) + 0.5
    lacking = lacking + 0.01 * torch.randn(tokens, outputs, generator=generator)
    held = torch.arange(tokens) % 4 == 3
    return Observed(x, weight, constant, y, lacking, held)


class CompensationMethodContract:
    """Set `method` in a subclass."""

    method: Method

    @pytest.fixture(params=[True, False], ids=["bias", "no bias"])
    def observed(self, request: Any) -> Observed:
        """With and without a bias to use."""
        return observe(request.param)

    def test_the_lack_gets_smaller_on_tokens_that_were_not_seen(self, observed: Observed) -> None:
        adjustment = self.method.adjust(observed)
        if adjustment is None:
            assert observed.bias is None, "a bias can always take the mean"
            return
        after = observed.residuals - apply(observed, adjustment)
        held = observed.held
        assert after[held].square().sum() < observed.residuals[held].square().sum()

    def test_nothing_is_added_where_a_projection_has_no_place_for_it(self, observed: Observed) -> None:
        adjustment = self.method.adjust(observed)
        assert adjustment is None or observed.bias is not None or adjustment.bias is None

    def test_noise_that_has_nothing_to_do_with_the_inputs_is_left_alone(self) -> None:
        observed = observe(False, tokens=40)
        noise = torch.randn(40, 6, generator=torch.Generator().manual_seed(7))
        noise[observed.held] *= -1.0  # what fits the one makes the other worse
        even = Observed(observed.inputs, observed.weight, None, observed.outputs, noise, observed.held)
        adjustment = self.method.adjust(even)
        if adjustment is not None:
            assert adjustment.unexplained < 1

    def test_the_same_is_found_again(self, observed: Observed) -> None:
        one, other = self.method.adjust(observed), self.method.adjust(observed)
        assert (one is None) == (other is None)
        for name in ("weight", "bias"):
            first, second = getattr(one, name, None), getattr(other, name, None)
            assert (first is None) == (second is None)
            assert first is None or torch.equal(first, second)


def apply(observed: Observed, adjustment: Any) -> torch.Tensor:
    """What an adjustment adds to the outputs."""
    added = torch.zeros_like(observed.outputs)
    if adjustment.weight is not None:
        added = added + observed.inputs @ adjustment.weight.float()
    return added if adjustment.bias is None else added + adjustment.bias.float()

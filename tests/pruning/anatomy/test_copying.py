"""A copy of a model is what `copy.deepcopy` makes of it."""

import copy
from typing import Any

import pytest
import torch
from families import FAMILIES, build, example
from torch import Tensor, nn

from pruning.anatomy.copying import copy_module
from pruning.surgery.prune import prune
from search_spaces import Architecture, Reduction, Schedule, Scorer


def tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by every name that they have."""
    named = (*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False))
    return dict(named)


def tied(named: dict[str, Tensor]) -> list[list[str]]:
    """The names of every tensor that has several."""
    names: dict[int, list[str]] = {}
    for name, tensor in named.items():
        names.setdefault(id(tensor), []).append(name)
    return [each for each in names.values() if len(each) > 1]


def outputs(model: Any) -> list[Tensor]:
    with torch.no_grad():
        return [value for value in model(**example(model)).to_tuple() if isinstance(value, Tensor)]


def compare(made: Any, expected: Any) -> None:
    """Two copies of a model that differ in nothing."""
    assert [(name, type(part)) for name, part in made.named_modules()] == [
        (name, type(part)) for name, part in expected.named_modules()
    ]
    for part, other in zip(made.modules(), expected.modules(), strict=True):
        assert list(vars(part)) == list(vars(other))
        assert part.training == other.training
    ours, theirs = tensors(made), tensors(expected)
    assert list(ours) == list(theirs)
    assert tied(ours) == tied(theirs)
    assert made.config.to_dict() == expected.config.to_dict()
    for one, other in zip(outputs(made), outputs(expected), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_copy_is_a_deep_copy(family: str) -> None:
    model = build(family)
    made = copy_module(model)
    compare(made, copy.deepcopy(model))
    assert made.config is not model.config
    mine, its = (set(map(id, (*m.modules(), *tensors(m).values()))) for m in (made, model))
    assert not mine & its


def test_a_copy_may_share_its_tensors() -> None:
    model = build("llama")
    made = copy_module(model, share_tensors=True)
    assert all(tensor is tensors(model)[name] for name, tensor in tensors(made).items())
    assert not set(map(id, made.modules())) & set(map(id, model.modules()))


def test_hooks_and_what_they_hold_are_the_copy_s_own() -> None:
    """Of a model that drops tokens: its hooks are methods of objects that refer to its modules."""
    model = prune(build("vit"), Architecture(4).replace_tokens(Schedule.parse("1=0.5", Reduction(Scorer.MEAN))))
    made = copy_module(model)
    compare(made, copy.deepcopy(model))
    before = outputs(model)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.zero_()
    made.register_forward_hook(lambda *_: 1 / 0)
    for one, other in zip(outputs(model), before, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_modules_with_rules_of_their_own_are_copied_by_them() -> None:
    class Shared(nn.Linear):
        def __deepcopy__(self, memo: dict[int, Any]) -> "Shared":
            return self

    inner = Shared(2, 2)
    whole = nn.Sequential(inner, nn.Linear(2, 2), inner)
    made = copy_module(whole)
    assert made[0] is made[2] is inner
    assert made[1] is not whole[1]
    compiled = nn.Linear(2, 2)
    compiled.compile()
    assert "_compiled_call_impl" not in vars(copy_module(compiled))

"""A linear map in the place of a part of a block (NBL, Ghosted Layers): one product, no attention, no cache.

The map is zero until compensation fits it (`pruning.compensation`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from pruning.anatomy.agreement import describe_difference, get_first_output
from pruning.anatomy.contribution import BlockAnatomy, Contribution
from pruning.anatomy.copying import copy_module
from pruning.anatomy.probe import Call, run_or_refuse
from pruning.kinds.surgery import Surgery
from pruning.surgery.linear_stand_in import LINEAR, LinearStandIn, PassedOn, find_given
from pruning.surgery.replacement import replace_modules
from search_spaces.kinds import Kind
from search_spaces.kinds.linear_stand_in import LINEAR as VALUE
from search_spaces.level import Level
from search_spaces.unit import Choice

AXIS = "form"
_SEED = 0


@dataclass(frozen=True)
class LinearPart(Surgery):
    """The part `kind` makes room for a map of what its norm gives; norms and scales that follow it go with it."""

    kind: Kind

    def find_levels(self, call: Call, anatomy: BlockAnatomy) -> tuple[Level, ...]:
        """The linear map, where the block then computes what it does with the map's output in place of the part's.

        It is not offered where it would have more parameters than the part.
        """
        smaller = self.count_saved(call.module, anatomy, Level()) > 0
        return (Level.on(AXIS, VALUE),) if smaller and self._agrees(call, anatomy) else ()

    def build_modules(
        self, block: nn.Module, anatomy: BlockAnatomy, level: Level, chosen: tuple[Choice, ...]
    ) -> dict[str, nn.Module]:
        """The stand-in for the member that writes the contribution; other members hand on what they are given."""
        part = anatomy.get_contribution(self.kind)
        writer, modules = _find_writer(part), dict[str, nn.Module]()
        for path, form in zip(part.members, part.forms, strict=True):
            stands_in = path == writer
            modules[path] = LinearStandIn(form, _make_map(block, part, anatomy)) if stands_in else PassedOn(form)
        return modules | {path: nn.Identity() for path in part.after}

    def count_saved(self, block: nn.Module, anatomy: BlockAnatomy, level: Level) -> int:
        """The part's parameters without those of the map."""
        part = anatomy.get_contribution(self.kind)
        paths = (*part.members, *part.after)
        removed = sum(parameter.numel() for path in paths for parameter in block.get_submodule(path).parameters())
        return removed - anatomy.hidden_size * (anatomy.hidden_size + has_bias(block, part))

    @torch.no_grad()
    def _agrees(self, call: Call, anatomy: BlockAnatomy) -> bool:
        """Whether the stand-in's output arrives where the part's did, given what the part was given."""
        part = anatomy.get_contribution(self.kind)
        modules = self.build_modules(call.module, anatomy, Level(), ())
        linear = modules[_find_writer(part)].get_submodule(LINEAR)
        for parameter in linear.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(_SEED)))
        stood = copy_module(call.module, share_tensors=True)
        replace_modules(stood, modules)
        with _replace_output(call.module, part, linear):
            expected = get_first_output(run_or_refuse(call.module, *call.args, **call.kwargs))
        return describe_difference(lambda: stood(*call.args, **call.kwargs), expected) is None


def describe_stand_in(part: Contribution) -> Contribution:
    """A part's contribution once the linear map stands in its place."""
    reads = part.reads if part.before or not part.reads else part.members[0]
    path = f"{_find_writer(part)}.{LINEAR}"
    return replace(part, writes=path, projection=path, reads=reads, after=())


def _find_writer(part: Contribution) -> str:
    """The member that holds what writes the contribution."""
    return next(path for path in part.members if f"{part.writes}.".startswith(f"{path}."))


def has_bias(block: nn.Module, part: Contribution) -> bool:
    """Whether the part's own projection has one, so that a map with one has no operator more."""
    return part.projection is not None and getattr(block.get_submodule(part.projection), "bias", None) is not None


def _make_map(block: nn.Module, part: Contribution, anatomy: BlockAnatomy) -> nn.Linear:
    hidden = anatomy.hidden_size
    like = next(parameter for path in part.members for parameter in block.get_submodule(path).parameters())
    with torch.device("meta"):  # which draws no random numbers
        linear = nn.Linear(hidden, hidden, has_bias(block, part), dtype=like.dtype)
    linear = linear.to_empty(device=like.device)
    for parameter in linear.parameters():
        parameter.requires_grad_(like.requires_grad).data.zero_()
    return linear.train(block.training)


@contextmanager
def _replace_output(block: nn.Module, part: Contribution, linear: nn.Module) -> Iterator[None]:
    """A block whose part runs and writes what a map makes of what its first member was given."""
    given: list[Tensor] = []

    def see(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given.append(find_given(args, kwargs, part.forms[0].find_stream(args, kwargs)))

    def write(module: nn.Module, args: Any, output: Any) -> Any:
        written = linear(given[0])
        return type(output)((written, *output[1:])) if isinstance(output, tuple | list) else written

    first, last = block.get_submodule(part.members[0]), block.get_submodule(part.last)
    handles = [first.register_forward_pre_hook(see, with_kwargs=True), last.register_forward_hook(write)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()

"""Adjusting what is left of a model, so that it stands in for what was taken out: one pass over calibration items.

A candidate runs once on all calibration items together. When it comes to a projection that writes to its residual
stream, the stream that the parent had where the next kept part reads it is compared with the candidate's; what the
projection lacks is explained from its inputs, and it is adjusted before the pass goes on. So every part is fitted on
the stream that the parts before it leave once they are adjusted. Weights of few bits are rounded by the inputs that
they meet there, those of a projection once it is adjusted.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from pruning.anatomy.anatomy import Anatomy
from pruning.checkpoint.stored_precision import round_as_stored
from pruning.compensation.alignment import TokenAlignment
from pruning.compensation.lacking import Route
from pruning.compensation.method import Adjustment, Method, Observed
from pruning.compensation.sites import Site
from pruning.compensation.streams import Streams, reshape_by_item, run_trunk, watch_input
from pruning.compensation.weight_rounding import factorise, makes_up_for_errors, round_by_products
from pruning.inference.block_stand_in import HandedStates
from pruning.inference.device import choose_sum_device
from pruning.inference.widening import NARROW, widen_tensor
from pruning.surgery.input_scale import choose_input_scale
from pruning.surgery.linear import get_weight_matrix
from pruning.surgery.quantised_linear import QuantisedLinear, read_product
from search_spaces.kinds import Kind
from search_spaces.weight_formats import Inputs

HELD = 8  # every so manieth item is held out, to choose penalties on
_UNCHANGED = Adjustment(None, None, 0.0, 1.0)  # of what is only rounded
_NEGLIGIBLE = 1e-10  # of the contribution's squares: where nothing was dropped nothing is lacking
_NEGLIGIBLE_ROUNDED = 1e-4  # where contributions are rounded to bf16; that alone makes 1e-5


@dataclass(frozen=True)
class Adjusted:
    """A projection, or another module with weights of few bits, with new weights.

    Attributes:
        layer: of its block in the parent.
        path: within the block.
        module: it.
        adjustment: by how much its weights differ from the parent's, before they were rounded.

    Example:
        >>> adjusted = Compensator(model, anatomy, inputs, METHODS["refit"]).adjust(architecture)
        >>> left = [each.adjustment.unexplained for each in adjusted]
    """

    layer: int
    path: str
    module: nn.Module
    adjustment: Adjustment


@dataclass
class CalibrationPass:
    """One pass of a candidate over the calibration items, in which its projections are adjusted one after another.

    Attributes:
        blocks: of the candidate, by their layers in the parent.
        streams: of the parent.
    """

    candidate: Any
    blocks: dict[int, nn.Module]
    streams: Streams
    method: Method
    tokens: TokenAlignment
    batch: int = 0
    _adjusted: list[Adjusted] = field(default_factory=list)
    _stream: dict[Site, Tensor] = field(default_factory=dict)  # by who reads it
    _written: dict[tuple[int, Kind], Tensor] = field(default_factory=dict)  # contributions, in parallel blocks
    _factor: tuple[Tensor, Tensor] | None = None  # the inputs of the last module that was rounded, and their factor

    @torch.no_grad()
    def run(self, anatomy: Anatomy, sites: tuple[Site, ...], inputs: Mapping[str, Tensor]) -> tuple[Adjusted, ...]:
        """Adjust what can be adjusted; a projection whose weights are also another's is left as it is."""
        self.batch = len(next(iter(inputs.values())))
        shared, projections = _find_shared(self.candidate), set[nn.Module]()
        with ExitStack() as stack:
            for site in sites:
                block = self.blocks[site.layer]
                if site.contribution.projection is None or type(block) is HandedStates:
                    continue
                projection = block.get_submodule(site.contribution.projection)
                if id(projection.weight) in shared or _is_ternary(projection):
                    continue
                projections.add(projection)
                reader = block.get_submodule(site.contribution.reads)
                stack.callback(watch_input(reader, self._keep_stream(site)))
                stack.callback(projection.register_forward_hook(self._adjust_at(site)).remove)
            for layer, path, module in self._find_rounded(shared):
                if module not in projections:
                    stack.callback(module.register_forward_pre_hook(self._round_at(layer, path)).remove)
            run_trunk(self.candidate, anatomy, inputs)
        return tuple(self._adjusted)

    def _find_rounded(self, shared: set[int]) -> Iterator[tuple[int, str, QuantisedLinear]]:
        """The modules of blocks with roundings to fit, whose weights are nobody else's, with layer and path."""
        for layer, block in self.blocks.items():
            for path, module in block.named_modules():
                if _is_rounded(module) and id(module.weight) not in shared:
                    yield layer, path, module

    def _round_at(self, layer: int, path: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            assert _is_rounded(module), "only such are watched"
            with torch.autocast(args[0].device.type, enabled=False):
                self._scale(module, args[0])
                self._round(module, args[0])
            self._adjusted.append(Adjusted(layer, path, module, _UNCHANGED))

        return hook

    def _scale(self, module: QuantisedLinear, given: Tensor) -> None:
        """Give a module whose inputs have one scale in all calls that of these inputs (…, in)."""
        if module.format.inputs is Inputs.FIXED:
            module.set_input_scale(choose_input_scale(self._list_real_rows(given), module.format))

    def _round(self, module: QuantisedLinear, given: Tensor) -> None:
        """Give a module the weights that lose least of its products with these inputs (…, in)."""
        if not makes_up_for_errors(module.format, module.in_features):
            return
        if self._factor is None or self._factor[0] is not given:
            self._factor = given, factorise(self._list_real_rows(module.round_given(given)))
        new = round_by_products(module.weight.detach(), module.format, self._factor[1])
        stored = round_as_stored(self.candidate, new, module.weight)
        module.weight = nn.Parameter(stored, requires_grad=module.weight.requires_grad)

    def _list_real_rows(self, given: Tensor) -> Tensor:
        """Inputs (…, in) as rows, without those of padding."""
        rows = _flatten_rows(given)
        real = self.tokens.mark_real_rows(self.batch, len(rows) // self.batch)
        return rows[real] if len(real) == len(rows) else rows

    def _keep_stream(self, site: Site) -> Callable[[Tensor], None]:
        return lambda value: self._stream.update({site: value})

    def _adjust_at(self, site: Site) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]:
        route = Route(
            [self.blocks[site.layer].get_submodule(path) for path in site.contribution.after],
            [self.blocks[layer].get_submodule(path) for layer, path in site.closing],
            self._find_factor(site),
        )

        def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            with torch.autocast(output.device.type, enabled=False):
                adjusted = self._adjust(site, route, module, args[0], output)
            if adjusted:
                output = module.forward(args[0])
            if site.partner is not None:
                written = widen_tensor(_flatten_rows(output))
                self._written[site.layer, site.kind] = route.compute_contribution(written)
            return output

        return hook

    def _adjust(self, site: Site, route: Route, module: Any, given: Tensor, output: Tensor) -> bool:
        """Adjust a projection by what it was given; whether it has other weights now."""
        if _is_rounded(module):
            self._scale(module, given)
        observed = self._observe(site, route, module, *read_product(module, given, output))
        adjustment = None if observed is None else self.method.adjust(observed)
        if adjustment is not None:
            _add(self.candidate, module, adjustment)
        if _is_rounded(module):
            self._round(module, given)
        if adjustment is None and not _is_rounded(module):
            return False
        self._adjusted.append(Adjusted(site.layer, _get_path(site), module, adjustment or _UNCHANGED))
        return True

    def _find_factor(self, site: Site) -> float | Tensor:
        part = site.contribution
        return self.blocks[site.layer].get_parameter(part.scale).detach() if part.scale else part.factor

    def _observe(self, site: Site, route: Route, module: Any, given: Tensor, output: Tensor) -> Observed | None:
        """What a projection was given and what it lacks; None where it lacks nothing."""
        stream = reshape_by_item(self._stream.pop(site), self.batch)
        batch, tokens, _ = stream.shape
        others = widen_tensor(_flatten_rows(stream))
        if site.partner is not None:
            others = others + self._find_written(site.layer, site.partner)
        written = widen_tensor(_flatten_rows(output))
        lacking = route.find_lacking(written, others, self.tokens.align_rows(self.streams.at[site.target]))
        real = self.tokens.mark_real_rows(batch, tokens).to(written.device)
        seen = (_flatten_rows(given), written, lacking, hold_out(batch, tokens).to(written.device))
        inputs, written, lacking, held = seen if bool(real.all()) else [value[real] for value in seen]
        negligible = _NEGLIGIBLE_ROUNDED if output.dtype in NARROW else _NEGLIGIBLE
        if float(lacking.square().sum()) <= negligible * float(written.square().sum()):
            return None
        where = choose_sum_device(written.device)
        bias = None if module.bias is None else module.bias.to(where)
        rows = (value.to(where) for value in (written, lacking, held))
        return Observed(inputs.to(where), get_weight_matrix(module).T.to(where), bias, *rows)

    def _find_written(self, layer: int, kind: Kind) -> Tensor:
        """What a part of a parallel block adds to the stream: where it has not run yet, what it added in the parent."""
        written = self._written.get((layer, kind))
        return self.tokens.align_rows(self.streams.written[layer, kind]) if written is None else written


def _is_rounded(module: nn.Module) -> TypeGuard[QuantisedLinear]:
    """Whether the weights of a module are rounded by its inputs, or these have a scale that is chosen."""
    return isinstance(module, QuantisedLinear) and (
        module.format.inputs is Inputs.FIXED or makes_up_for_errors(module.format, module.in_features)
    )


def _is_ternary(module: nn.Module) -> bool:
    """Whether all that a module's format has is what its weights are: with others it would lose most of them."""
    return isinstance(module, QuantisedLinear) and module.format.ternary


def _get_path(site: Site) -> str:
    assert site.contribution.projection is not None, "only projections are watched"
    return site.contribution.projection


def hold_out(batch: int, tokens: int) -> Tensor:
    """(batch · tokens,) bool: every eighth item, of few every last; of a single one its last tokens."""
    if batch == 1:
        return torch.arange(tokens) >= tokens - tokens // HELD
    every = min(HELD, batch)
    return (torch.arange(batch) % every == every - 1).repeat_interleave(tokens)


def _flatten_rows(value: Tensor) -> Tensor:
    return value.reshape(-1, value.shape[-1])


def _find_shared(model: nn.Module) -> set[int]:
    """Parameters, by identity, that the model has in more than one place."""
    counts = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
    return {parameter for parameter, count in counts.items() if count > 1}


def _add(model: Any, module: Any, adjustment: Adjustment) -> None:
    """Give a projection new weights of its own, rounded to what the parent's files hold."""
    if adjustment.weight is not None:
        turned = isinstance(module, Conv1D)
        change = adjustment.weight if turned else adjustment.weight.T
        module.weight = _build_changed(model, module.weight, change)
    if adjustment.bias is not None:
        module.bias = _build_changed(model, module.bias, adjustment.bias)


def _build_changed(model: Any, old: Tensor, change: Tensor) -> nn.Parameter:
    wide = old.to(change.device).double() + change
    new = wide.to(torch.promote_types(old.dtype, torch.float32)).contiguous().to(old.device)
    return nn.Parameter(round_as_stored(model, new, old), requires_grad=old.requires_grad)

"""A part whose matrices have weights of fewer bits."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pruning.anatomy.agreement import describe_difference, get_first_output
from pruning.anatomy.contribution import BlockAnatomy
from pruning.anatomy.copying import copy_module
from pruning.anatomy.probe import Call, run_or_refuse
from pruning.kinds.surgery import Surgery
from pruning.surgery.linear import get_weight_matrix, is_linear
from pruning.surgery.quantised_linear import QuantisedLinear, round_inputs, round_weights
from pruning.surgery.replacement import replace_modules
from search_spaces.kinds import Kind
from search_spaces.level import Level
from search_spaces.unit import Choice, find_kind
from search_spaces.weight_formats import ALL_FORMATS, FORMATS, Inputs, WeightFormat

AXIS = "bits"
_MIN_BLOCK = 16  # inputs
_SCALE_BYTES = 4  # float32


@dataclass(frozen=True)
class QuantisedPart(Surgery):
    """The matrices of the part `kind`; norms, softmax and the residual stream stay as they are."""

    kind: Kind

    def find_levels(self, call: Call, anatomy: BlockAnatomy) -> tuple[Level, ...]:
        """Every format, where all matrices are modules that are called, so that what stands in for them is, too.

        That of ternary weights is among them, whatever the weights are.
        """
        matrices = [call.module.get_submodule(path) for path in self.find_matrices(call.module, anatomy)]
        if not matrices or not self._agrees(call, anatomy, FORMATS["w4"]):
            return ()
        kind = find_kind(self.kind, AXIS)
        return tuple(Level.on(AXIS, kind.parse(name)) for name in ALL_FORMATS if _suits(ALL_FORMATS[name], matrices))

    def build_modules(
        self, block: nn.Module, anatomy: BlockAnatomy, level: Level, chosen: tuple[Choice, ...]
    ) -> dict[str, nn.Module]:
        """The matrices in the level's format."""
        return self._build(block, anatomy, self.get_format(level))

    def _build(self, block: nn.Module, anatomy: BlockAnatomy, format: WeightFormat) -> dict[str, nn.Module]:
        paths = self.find_matrices(block, anatomy)
        return {path: QuantisedLinear.of(block.get_submodule(path), format) for path in paths}

    def count_saved_bytes(self, block: nn.Module, anatomy: BlockAnatomy, level: Level, size: int) -> float:
        """Those of the matrices, whose last blocks are filled up."""
        format, saved = self.get_format(level), 0.0
        for path in self.find_matrices(block, anatomy):
            outputs, inputs = get_weight_matrix(block.get_submodule(path)).shape
            together = format.choose_block(inputs)
            blocks = -(-inputs // together)
            zero = format.inputs is Inputs.CALL  # which has a zero point for every output
            saved += outputs * (size * inputs - blocks * (together * format.bits / 8 + _SCALE_BYTES) - zero)
        return saved

    def get_format(self, level: Level) -> WeightFormat:
        """The format of a level."""
        value = level.get_value(AXIS)
        assert value is not None, "a level of this kind has a format"
        return ALL_FORMATS[find_kind(self.kind, AXIS).describe(value)]

    def find_matrices(self, block: nn.Module, anatomy: BlockAnatomy) -> tuple[str, ...]:
        """Paths of the part's linear modules; none where other modules of it have matrices, as a mixture's experts."""
        owners = {
            f"{member}.{path}".rstrip("."): module
            for member in anatomy.get_contribution(self.kind).members
            for path, module in block.get_submodule(member).named_modules()
            if any(parameter.ndim > 1 for parameter in module.parameters(recurse=False))
        }
        return tuple(owners) if all(is_linear(module) for module in owners.values()) else ()

    @torch.no_grad()
    def _agrees(self, call: Call, anatomy: BlockAnatomy, format: WeightFormat) -> bool:
        """Whether the block computes what it does where the inputs and weights of its matrices are rounded."""
        quantised = copy_module(call.module, share_tensors=True)
        replace_modules(quantised, self._build(call.module, anatomy, format))
        rounded = copy_module(call.module)
        paths = self.find_matrices(call.module, anatomy)
        with _round_everything(rounded, paths, format):
            expected = get_first_output(run_or_refuse(rounded, *call.args, **call.kwargs))
        return describe_difference(lambda: quantised(*call.args, **call.kwargs), expected) is None


def _suits(format: WeightFormat, matrices: list[nn.Module]) -> bool:
    """Whether the blocks of matrices are long enough for their scales to be worth it."""
    return all(format.choose_block(get_weight_matrix(module).shape[1]) >= _MIN_BLOCK for module in matrices)


@contextmanager
def _round_everything(block: nn.Module, paths: tuple[str, ...], format: WeightFormat) -> Iterator[None]:
    """A block, changed, whose matrices are given rounded inputs and have rounded weights."""

    def round_given(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (round_inputs(args[0], format), *args[1:])

    modules = [block.get_submodule(path) for path in paths]
    for module in modules:
        matrix = get_weight_matrix(module)
        matrix.copy_(round_weights(matrix, format))
    handles = [module.register_forward_pre_hook(round_given) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()

"""Formats of fewer bits for the weights of a linear module, and how its inputs are rounded for the product."""

from dataclasses import dataclass
from enum import StrEnum

PROCESSOR, TENSORRT = "onnxruntime-cpu", "tensorrt"  # runtimes, as targets name them
WHOLE, FLOATING = "int8", "fp8"  # the arithmetic of products with fewer bits, as data sheets have its peaks
LARGEST_FLOATING = 448  # of E4M3: four bits of exponent, three of mantissa
_SCALE_BYTES = 4  # of one block or channel, float32


class Inputs(StrEnum):
    """How the inputs of a product are rounded to 8 bits, if they are."""

    BLOCKS = "blocks"  # a scale for each block of a token, as the weights have it
    CALL = "call"  # one scale and zero point for all inputs of a call
    FIXED = "fixed"  # one scale for all calls, found on calibration items
    EXACT = "exact"  # not at all


@dataclass(frozen=True)
class WeightFormat:
    """Whole numbers with a scale, symmetric about zero; products of whole numbers are summed in int32.

    Floating ones are those of E4M3 (OCP 8-bit floating point) instead, with a scale.

    Attributes:
        name: as a level has it: `mlp.3:bits=w4`.
        bits: of a weight.
        block: how many consecutive inputs share a scale, at most. None: all weights of an output do.
        inputs: how they are rounded.
        runtime: that multiplies in it.
        full_range: the largest weight of those that share a scale becomes −2^(bits−1), and the scale has the opposite
            sign of it; else it becomes ±(2^(bits−1) − 1), and scales are positive.
        ternary: for weights that are −s, 0 and s only, which lose nothing.
        whole: a runtime takes no blocks that are not full, so they are as short as it takes.
        floating: weights and inputs are numbers of E4M3.

    Example:
        >>> FORMATS["w4"].weight_bytes
        0.625
    """

    name: str
    bits: int
    block: int | None
    inputs: Inputs = Inputs.BLOCKS
    runtime: str = PROCESSOR
    full_range: bool = True
    ternary: bool = False
    whole: bool = False
    floating: bool = False

    def choose_block(self, inputs: int) -> int:
        """How many of a matrix's inputs share a scale."""
        block = self.block or inputs
        while self.whole and inputs % block:
            block //= 2
        return block

    @property
    def weight_bytes(self) -> float:
        """Bytes of a weight with its part of the scale."""
        return self.bits / 8 + (0.0 if self.block is None else _SCALE_BYTES / self.block)

    @property
    def arithmetic(self) -> str | None:
        """What is multiplied: int8 or fp8; None where weights are expanded to the precision of the inputs."""
        if self.inputs is Inputs.EXACT:
            return None
        return FLOATING if self.floating else WHOLE

    @property
    def largest(self) -> int:
        """The largest number that a scale is multiplied with."""
        return LARGEST_FLOATING if self.floating else 2 ** (self.bits - 1) - 1


# The formats that ONNX Runtime multiplies in without expanding them first: blocks of 32 suit all widths.
FORMATS = {
    each.name: each
    for each in (
        WeightFormat("int8", 8, None, Inputs.CALL, full_range=False),
        WeightFormat("w8", 8, 32),
        WeightFormat("w4", 4, 32),
    )
}
# Of the blocks that it multiplies in with 2 bits the longest are fastest, and ternary weights lose nothing by them.
W2 = WeightFormat("w2", 2, 128, full_range=False, ternary=True)
# What TensorRT fuses of a graph: scales are positive, and blocks are whole.
W8A8 = WeightFormat("w8a8", 8, None, Inputs.FIXED, TENSORRT, full_range=False)
FP8 = WeightFormat("fp8", 8, None, Inputs.FIXED, TENSORRT, full_range=False, floating=True)
W4A16 = WeightFormat("w4a16", 4, 64, Inputs.EXACT, TENSORRT, full_range=False, whole=True)
ALL_FORMATS = FORMATS | {each.name: each for each in (W2, W8A8, FP8, W4A16)}


def list_formats(runtime: str) -> dict[str, WeightFormat]:
    """The formats that a runtime multiplies in, by name."""
    return {name: format for name, format in ALL_FORMATS.items() if format.runtime == runtime}

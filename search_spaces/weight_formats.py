"""Formats of fewer bits for the weights of a linear module, and how its inputs are rounded for the product."""

from dataclasses import dataclass

_SCALE_BYTES = 4  # of one block or channel, float32


@dataclass(frozen=True)
class WeightFormat:
    """Whole numbers with a scale, symmetric about zero; products are summed in int32.

    Attributes:
        name: as a level has it: `mlp.3:bits=w4`.
        bits: of a weight. Inputs have 8.
        block: how many consecutive inputs share a scale, for weights and inputs alike. None: all weights of an output
            share one, and all inputs of a call share a scale and a zero point.

    Example:
        >>> FORMATS["w4"].weight_bytes
        0.625
    """

    name: str
    bits: int
    block: int | None

    @property
    def weight_bytes(self) -> float:
        """Bytes of a weight with its part of the scale."""
        return self.bits / 8 + (0.0 if self.block is None else _SCALE_BYTES / self.block)


# The formats that ONNX Runtime multiplies in without expanding them first: blocks of 32 suit all widths.
FORMATS = {
    each.name: each for each in (WeightFormat("int8", 8, None), WeightFormat("w8", 8, 32), WeightFormat("w4", 4, 32))
}

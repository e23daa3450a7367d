"""Heads with weights of fewer bits; an embedding that has the same weights keeps them as they are."""

from dataclasses import dataclass

from pruning.anatomy.contribution import BlockAnatomy
from pruning.anatomy.probe import Call
from pruning.kinds.quantised_part import QuantisedPart
from search_spaces.kinds import Kind
from search_spaces.weight_formats import WeightFormat


@dataclass(frozen=True)
class _QuantisedHead(QuantisedPart):
    def _agrees(self, call: Call, anatomy: BlockAnatomy, format: WeightFormat) -> bool:
        """Nothing is left to try: the head is one linear module, which the model was seen to call once."""
        return True


SURGERY = _QuantisedHead(Kind.HEAD)

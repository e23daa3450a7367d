"""Attentions that are dropped."""

from unit_kind import MATRICES, UnitKindContract, block_of, silence


class TestAttention(UnitKindContract):
    name = "attention"
    choices = ("attention.1",)

    def mask(self, model, family, choice) -> None:
        silence(block_of(model, family, choice).get_submodule(MATRICES[family][1]))

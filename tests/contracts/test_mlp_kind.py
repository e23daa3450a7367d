"""MLPs that are dropped."""

from unit_kind import MATRICES, UnitKindContract, block_of, silence


class TestMlp(UnitKindContract):
    name = "mlp"
    choices = ("mlp.2",)

    def mask(self, model, family, choice) -> None:
        silence(block_of(model, family, choice).get_submodule(MATRICES[family][3]))

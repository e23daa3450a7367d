"""Attentions of a decoder to its encoder that are dropped."""

from unit_kind import UnitKindContract, silence

WRITERS = {  # written by hand: the list of blocks, and what writes the contribution
    "t5": "decoder.block.{}.layer.1.EncDecAttention.o",
    "bart": "model.decoder.layers.{}.encoder_attn.out_proj",
    "whisper": "model.decoder.layers.{}.encoder_attn.out_proj",
}


class TestCrossAttention(UnitKindContract):
    name = "cross-attention"
    choices = ("cross-attention.1",)
    families = ("t5", "bart", "whisper")
    exports = more_exports = ()

    def mask(self, model, family, choice) -> None:
        silence(model.get_submodule(WRITERS[family].format(choice.layer)))

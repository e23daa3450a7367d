"""A tokenizer of bytes as people save it: small enough to be made anywhere, real enough to be read back."""

from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

SPECIAL = ("<pad>", "<s>", "</s>")  # ids 0 to 2; then the 256 bytes
SIZE = len(SPECIAL) + 256


def byte_tokenizer(folder: Path | None = None, extra: tuple[str, ...] = (), **named: str) -> PreTrainedTokenizerFast:
    """Saved in a folder, if one is given.

    Args:
        extra: special tokens beyond the bytes, as people add them without resizing a model.
        named: `pad_token` and its like; the usual ones where nothing is named.
    """
    vocabulary = {token: at for at, token in enumerate([*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    raw = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    usual = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    made = PreTrainedTokenizerFast(tokenizer_object=raw, **(named or usual))
    if extra:
        made.add_special_tokens({"additional_special_tokens": list(extra)})
    if folder is not None:
        made.save_pretrained(folder)
    return made

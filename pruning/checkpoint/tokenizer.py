"""The tokenizer that lies beside a model's weights."""

from pathlib import Path
from typing import Any

from pruning.checkpoint.config import get_first_line
from pruning.checkpoint.remote_code import prevent_asking, refuse_carried_code
from search_spaces.errors import BadData, ModelError

_FILES = ("tokenizer*", "vocab*", "merges.txt", "*.model", "*.tiktoken", "tekken.json", "spiece*", "*_tokens*.json")


def load_tokenizer(source: str | Path, trust_remote_code: bool = False) -> Any:
    """The tokenizer of a model; None for a folder that holds no tokenizer file at all.

    Args:
        source: a folder, or a hub id.
        trust_remote_code: run the Python code that the tokenizer carries.

    Raises:
        UnsafeCheckpoint: it carries code, which was not allowed.
        ModelError: it cannot be read, or has no vocabulary; the library fills that in with special tokens only.
    """
    from transformers import AutoTokenizer

    local = Path(source).is_dir()
    if local and not any(any(Path(source).glob(pattern)) for pattern in _FILES):
        return None
    prevent_asking()
    if not trust_remote_code:
        refuse_carried_code(source)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(source), local_files_only=local, trust_remote_code=trust_remote_code
        )
    except Exception as error:  # parsers of many formats, and code of its own, each with errors of their own
        raise ModelError(
            f"{source}: its tokenizer cannot be read ({get_first_line(error)}); save it again beside the weights"
        ) from error
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
        raise ModelError(
            f"{source}: its tokenizer has no vocabulary; put its files (tokenizer.json) beside the weights"
        )
    return tokenizer


def encode(tokenizer: Any, texts: str | list[str], as_targets: bool = False, **options: Any) -> Any:
    """The tokens of a text, or of each text; of targets in the language that a model translates to.

    Raises:
        BadData: it has signs that the tokenizer knows nothing for.
    """
    try:
        encoded = tokenizer(text_target=texts, **options) if as_targets else tokenizer(texts, **options)
        return encoded["input_ids"]
    except Exception as error:  # the tokenizers library raises no narrower one
        raise BadData(
            f"the tokenizer cannot split the data ({get_first_line(error)}); give it an unknown token, or other data"
        ) from error

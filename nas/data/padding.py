"""Token ids that a model can read, and the one that fills up short texts."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from search_spaces.errors import BadData


def count_vocabulary(model: Any) -> int:
    """The number of ids that a model has embeddings of."""
    return len(model.get_input_embeddings().weight)


def is_readable(token: int | None, model: Any) -> bool:
    """Whether the model has an embedding of a token."""
    return token is not None and 0 <= int(token) < count_vocabulary(model)


def check_ids(rows: Iterable[Sequence[int]], tokenizer: Any, model: Any) -> None:
    """Refuse tokens that the model has no embedding of.

    Raises:
        BadData: one is.
    """
    largest = max((max(row) for row in rows if len(row)), default=0)
    if largest >= (known := count_vocabulary(model)):
        token = tokenizer.convert_ids_to_tokens(largest)
        raise BadData(
            f"the tokenizer writes {token!r} as id {largest}, and the model has embeddings of {known} tokens (ids 0 to "
            f"{known - 1}); resize its embeddings, or put the tokenizer that belongs to it beside the weights"
        )


def pad_id(model: Any, tokenizer: Any) -> int:
    """What fills up a text: the model's own padding token, which tells it where a text ends; else the tokenizer's.

    Where neither has one that the model can read, one that ends no text.
    """
    own = model.config.get_text_config().pad_token_id
    if is_readable(own, model):
        return int(own)
    ending = tokenizer("a")["input_ids"][-1:]
    offered = (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id, *range(len(ending) + 1))
    return next(int(token) for token in offered if is_readable(token, model) and token not in ending)


def needs_padding(model: Any) -> bool:
    """Whether a model reads texts as wholes, in batches, and has no padding token that it can read."""
    if model.main_input_name != "input_ids" or model.can_generate():
        return False
    return not is_readable(model.config.get_text_config().pad_token_id, model)


def settle_padding(model: Any, tokenizer: Any) -> None:
    """Give a model that has no padding token the one that its texts are filled up with.

    Classifiers built of decoders read the last token that is not padding, and refuse batches without knowing it.
    """
    model.config.get_text_config().pad_token_id = pad_id(model, tokenizer)


def pad_ids(rows: Sequence[Sequence[int]], fill: int) -> dict[str, Tensor]:
    """(n, longest) ids, filled up on the right, and their mask."""
    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest), fill)
    mask = torch.zeros_like(ids)
    for position, row in enumerate(rows):
        ids[position, : len(row)] = torch.tensor(row)
        mask[position, : len(row)] = 1
    return {"input_ids": ids, "attention_mask": mask}

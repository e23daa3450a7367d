"""Questions about images with their answers behind them, so that every token of an answer is learned."""

import torch
from torch import Tensor

from nas.data.dataset import Split
from nas.data.prompts import IGNORED


def count_answer_tokens(split: Split) -> int:
    """Of the longest answer."""
    assert split.labels is not None, "questions have answers"
    return split.labels.shape[1]


def append_answers(split: Split) -> Split:
    """The questions with all tokens of their answers but the last behind them; shorter answers are padded.

    Prompts are padded on the left, so answers begin at one place, and the last prompt token and those of the answer
    are where the next one is predicted.

    Args:
        split: with `input_ids` and `attention_mask` (questions, length), and the answers (questions, longest), ended
            by -100, as labels.
    """
    assert split.labels is not None, "questions have answers"
    answers, inputs = split.labels[:, :-1], dict(split.inputs)
    real = answers != IGNORED
    ids = torch.where(real, answers, inputs["input_ids"][:, -1:])  # any token that is no image
    inputs["input_ids"] = torch.cat([inputs["input_ids"], ids], 1)
    inputs["attention_mask"] = torch.cat([inputs["attention_mask"], real.to(inputs["attention_mask"].dtype)], 1)
    if "position_ids" in inputs:
        inputs["position_ids"] = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    if "mm_token_type_ids" in inputs:
        inputs["mm_token_type_ids"] = _append_zeros(inputs["mm_token_type_ids"], answers.shape[1])
    return Split(split.name, inputs, split.labels)


def _append_zeros(tensor: Tensor, count: int) -> Tensor:
    return torch.cat([tensor, tensor.new_zeros(len(tensor), count)], 1)

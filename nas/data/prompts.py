"""What a vision-language model is given for a question: its processor's form, or image tokens and the words."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nas.data.image_file import open_image
from nas.data.padding import check_ids, is_readable, pad_id
from nas.data.questions import Question
from pruning.anatomy.language_model import find_language_config
from pruning.checkpoint.config import get_first_line
from pruning.checkpoint.remote_code import prevent_asking, refuse_carried_code
from search_spaces.errors import BadData

IGNORED = -100  # behind the answer's last token
_FIRST = ("input_ids", "attention_mask")


def load_processor(model: Any, trust_remote_code: bool = False) -> Any:
    """The processor (tokenizer and images) in the model's folder.

    Args:
        trust_remote_code: run the Python code that it carries.

    Raises:
        UnsafeCheckpoint: it carries code, which was not allowed.
        BadData: there is none.
    """
    from transformers import AutoProcessor, ProcessorMixin

    folder = str(getattr(model, "name_or_path", "") or "")
    prevent_asking()
    if not trust_remote_code:
        refuse_carried_code(folder)
    try:
        processor = AutoProcessor.from_pretrained(
            folder, local_files_only=Path(folder).is_dir(), trust_remote_code=trust_remote_code
        )
    except Exception as error:  # it looks into many files, each with errors of its own
        raise BadData(
            f"model {folder!r} has no processor that can be read ({get_first_line(error)}); put processor_config.json "
            "and the tokenizer files beside the weights"
        ) from None
    if not isinstance(processor, ProcessorMixin):
        raise BadData(
            f"model {folder!r} has a {type(processor).__name__} and no processor for text and images; put its "
            "processor_config.json beside the weights"
        )
    tokenizer = processor.tokenizer
    tokenizer.padding_side = "left"  # the answer follows the last token
    if not is_readable(tokenizer.pad_token_id, model):
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(pad_id(model, tokenizer))
    return processor


def encode_questions(model: Any, processor: Any, questions: Sequence[Question]) -> tuple[dict[str, Tensor], Tensor]:
    """Questions and images as the model takes them, padded on the left, and the tokens of the answers.

    Returns:
        Inputs, `input_ids` (n, length) first; tensors of images have as many rows for each question, in order. And the
        answers (n, longest), filled up with -100.

    Raises:
        BadData: images that cannot be read, placeholders that do not fit the images, prompts longer than the model
            reads, or images that make unlike numbers of tokens.
    """
    texts = [_format_prompt(processor, question) for question in questions]
    images = [[open_image(path) for path in question.images] for question in questions]
    try:
        encoded = dict(processor(images=images, text=texts, padding=True, return_tensors="pt"))
    except (ValueError, IndexError, TypeError, RuntimeError) as error:
        raise BadData(f"{texts[0]!r} cannot be encoded ({error}); write plain words and readable images") from None
    taken = inspect.signature(model.forward).parameters
    encoded = {name: tensor for name, tensor in encoded.items() if name in taken and isinstance(tensor, Tensor)}
    inputs = {name: encoded.pop(name) for name in _FIRST} | encoded
    if "position_ids" in taken and "mm_token_type_ids" not in inputs:  # with these, it numbers tokens by itself
        inputs["position_ids"] = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    _check(model, inputs, len(questions))
    check_ids(inputs["input_ids"].tolist(), processor.tokenizer, model)
    return inputs, _list_answers(processor, texts, questions)


def _check(model: Any, inputs: dict[str, Tensor], items: int) -> None:
    length = inputs["input_ids"].shape[1]
    max_length = getattr(find_language_config(model), "max_position_embeddings", None) or length
    if length > max_length:
        raise BadData(
            f"a question with its images has {length} tokens and the model reads {max_length}; give smaller images"
        )
    grid = inputs.get("image_grid_thw")
    unlike = grid is not None and bool((grid.reshape(items, -1) != grid.reshape(items, -1)[0]).any())
    if unlike or any(len(tensor) % items for tensor in inputs.values()):
        raise BadData("the images make unlike numbers of tokens; bring them to one size")


def _format_prompt(processor: Any, question: Question) -> str:
    """In the form of the processor's chat template where it has one, else placeholders and the question."""
    token = getattr(processor, "image_token", "<image>")
    written, count = question.text.count(token), len(question.images)
    if written not in (0, count):
        raise BadData(
            f"question {question.text!r} has {written} times {token} and {count} images; write it once for each "
            "image, or not at all"
        )
    if getattr(processor, "chat_template", None) is None:
        return question.text if written else f"{token * count} {question.text}"
    words = question.text.replace(token, "").strip()
    content = [*({"type": "image"} for _ in question.images), {"type": "text", "text": words}]
    text: str = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    return text


def _list_answers(processor: Any, texts: Sequence[str], questions: Sequence[Question]) -> Tensor:
    """The tokens that each answer has behind its prompt."""
    rows = [
        _find_continuation(processor, text, question.answer) for text, question in zip(texts, questions, strict=True)
    ]
    answers = torch.full((len(rows), max(map(len, rows))), IGNORED)
    for position, row in enumerate(rows):
        answers[position, : len(row)] = torch.tensor(row)
    return answers


def _find_continuation(processor: Any, text: str, answer: str) -> list[int]:
    templated = getattr(processor, "chat_template", None) is not None
    before: list[int] = processor.tokenizer(text)["input_ids"]
    whole: list[int] = processor.tokenizer(f"{text}{'' if templated else ' '}{answer}")["input_ids"]
    if whole[: len(before)] == before and len(whole) > len(before):
        return whole[len(before) :]
    alone: list[int] = processor.tokenizer(answer, add_special_tokens=False)["input_ids"]
    if not alone:
        raise BadData(f"the tokenizer makes no tokens of the answer {answer!r}; write another")
    return alone

"""What a model can be tried at: to go on with a text, answer a question about an image, label, or embed."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from nas.data.image_file import open_image
from nas.data.images import normalise
from nas.data.prompts import encode_questions, load_processor
from nas.data.questions import Question
from nas.quality.embedding import DEFAULT, embed
from pruning.anatomy.language_model import find_language_config
from pruning.anatomy.part import is_encoder_decoder, is_vision_language
from pruning.checkpoint.sentence_embedding import read_sentence_embedding
from pruning.checkpoint.tokenizer import encode, load_tokenizer
from search_spaces.errors import BadData, ModelError, UsageError

Inputs = Mapping[str, Tensor]
LIKELIEST = 3  # labels that are shown
_NO_ANSWER = "-"  # a question is encoded with one, which is not read


class Task(Protocol):
    """What a model is asked for.

    Example:
        >>> task = choose_task(model, folder)
        >>> prediction = predict(model, task, task.read("def area(r):"))
    """

    @property
    def unit(self) -> str:
        """Of what is made, for a rate: `token` or `item`."""

    def read(self, words: str) -> Inputs:
        """What a person gave, as the model takes it.

        Raises:
            BadData: the model can read nothing of it.
        """

    def warm_up(self, model: Any, inputs: Inputs) -> None:
        """Run once, so that what a model does at its first call is not timed."""

    def predict(self, model: Any, inputs: Inputs) -> Tensor:
        """(tokens,) ids, (labels,) logits or (width,) embedding."""

    def describe(self, value: Tensor) -> str:
        """A prediction for people."""

    def count(self, value: Tensor) -> int:
        """How many units a prediction has."""

    def compare(self, value: Tensor, other: Tensor) -> str:
        """How far two models' predictions agree, for people."""


@dataclass(frozen=True)
class TextGeneration:
    """Goes on with a text, or writes what an encoder-decoder makes of it, always with the likeliest token.

    Example:
        >>> TextGeneration(tokenizer, max_tokens=8).unit
        'token'
    """

    tokenizer: Any
    max_tokens: int
    unit: str = "token"

    def read(self, words: str) -> Inputs:
        """Its tokens."""
        ids = torch.tensor([encode(self.tokenizer, words)], dtype=torch.long)
        if not ids.numel():
            raise BadData("the text has no token; give some words to go on with")
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def warm_up(self, model: Any, inputs: Inputs) -> None:
        """Two tokens: the prompt, and a step with a cache."""
        self._generate(model, inputs, min(2, self.max_tokens))

    def predict(self, model: Any, inputs: Inputs) -> Tensor:
        """The ids of new tokens."""
        return self._generate(model, inputs, self.max_tokens)

    def describe(self, value: Tensor) -> str:
        """The new text."""
        text: str = self.tokenizer.decode(value, skip_special_tokens=True)
        return text

    def count(self, value: Tensor) -> int:
        """New tokens."""
        return len(value)

    def compare(self, value: Tensor, other: Tensor) -> str:
        """How many tokens are the same before the first other one."""
        both = min(len(value), len(other))
        differ = (value[:both] != other[:both]).nonzero()
        same = int(differ[0]) if len(differ) else both
        return f"the first {same} of {len(other)} tokens are the same"

    def _generate(self, model: Any, inputs: Inputs, tokens: int) -> Tensor:
        made: Tensor = model.generate(**inputs, max_new_tokens=tokens, do_sample=False)
        given = 1 if is_encoder_decoder(model) else inputs["input_ids"].shape[1]  # a target begins with one token
        return made[0, given:]


@dataclass(frozen=True)
class ImageQuestion(TextGeneration):
    """Answers a question about an image.

    Attributes:
        model: whose processor reads them.
    """

    processor: Any = None
    model: Any = None
    image: Path = Path()

    def read(self, words: str) -> Inputs:
        """Question and image in the processor's form."""
        question = Question((self.image,), words, _NO_ANSWER)
        return encode_questions(self.model, self.processor, [question])[0]


@dataclass(frozen=True)
class _OneForward:
    """What is made by one run of the model."""

    unit = "item"

    def warm_up(self, model: Any, inputs: Inputs) -> None:
        """The same once."""
        self.predict(model, inputs)

    def count(self, value: Tensor) -> int:
        """One item."""
        return 1

    def predict(self, model: Any, inputs: Inputs) -> Tensor:
        """The logits of the item."""
        logits: Tensor = model(**inputs).logits[0].float()
        return logits


@dataclass(frozen=True)
class Classification(_OneForward):
    """Labels an image or a text.

    Attributes:
        names: of the labels, in order.
        reader: of what a person gave.
    """

    names: tuple[str, ...]
    reader: "ImageReader | TextReader"

    def read(self, words: str) -> Inputs:
        """The image at a path, or the tokens of a text."""
        return self.reader.read(words)

    def describe(self, value: Tensor) -> str:
        """The likeliest labels with their probabilities."""
        shares = value.softmax(-1)
        best = shares.topk(min(LIKELIEST, len(shares)))
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return ", ".join(f"{self.names[label]} ({share:.1%})" for label, share in pairs)

    def compare(self, value: Tensor, other: Tensor) -> str:
        """Whether the likeliest label is the same."""
        return "the same label" if int(value.argmax()) == int(other.argmax()) else "another label"


@dataclass(frozen=True)
class Embedding(_OneForward):
    """Embeds a text.

    Attributes:
        has_head: whether the model's trunk gives the states that are pooled.
    """

    reader: "TextReader"
    has_head: bool

    def read(self, words: str) -> Inputs:
        """Its tokens."""
        return self.reader.read(words)

    def predict(self, model: Any, inputs: Inputs) -> Tensor:
        """As the model's folder says, else the normalised mean of the tokens."""
        trunk = model.base_model if self.has_head else model
        return embed(trunk, dict(inputs), read_sentence_embedding(model) or DEFAULT)[0]

    def describe(self, value: Tensor) -> str:
        """Its first numbers."""
        first = ", ".join(f"{number:.4f}" for number in value[:4].tolist())
        return f"[{first}, …], {len(value)} numbers of length {float(value.norm()):.3f}"

    def compare(self, value: Tensor, other: Tensor) -> str:
        """Their cosine."""
        return f"cosine of both: {float(cosine_similarity(value, other, dim=0)):.4f}"


@dataclass(frozen=True)
class TextReader:
    """Reads a text for a model that takes whole texts."""

    tokenizer: Any
    max_length: int | None

    def read(self, words: str) -> Inputs:
        """Its tokens, as many as the model reads."""
        ids = encode(self.tokenizer, words, truncation=self.max_length is not None, max_length=self.max_length)
        given = torch.tensor([ids], dtype=torch.long)
        return {"input_ids": given, "attention_mask": torch.ones_like(given)}


@dataclass(frozen=True)
class ImageReader:
    """Reads an image file for a model that takes images of one size."""

    model: Any

    def read(self, words: str) -> Inputs:
        """The image at a path, in the model's size and with its statistics.

        Raises:
            BadData: it is no image.
        """
        if not Path(words).is_file():
            raise BadData(f"image {words} does not exist; this model labels images, so give the path of one")
        image, size = open_image(Path(words)), getattr(self.model.config, "image_size", None)
        if size is not None:
            height, width = (size, size) if isinstance(size, int) else size
            image = image.resize((width, height))
        grey = getattr(self.model.config, "num_channels", 3) == 1
        return {"pixel_values": normalise(np.array(image.convert("L") if grey else image)[None], self.model)}


def choose_task(
    model: Any, folder: str | Path, image: Path | None = None, max_tokens: int = 64, trust_remote_code: bool = False
) -> Task:
    """What a model can be tried at.

    Args:
        folder: of its tokenizer.
        image: that a vision-language model is asked about.
        max_tokens: that are generated at most.
        trust_remote_code: run the Python code that tokenizer or processor carry.

    Raises:
        UsageError: an image is missing, or the model takes none.
        ModelError: it has no tokenizer, or takes other inputs.
    """
    if is_vision_language(model):
        return _ask_about(model, image, max_tokens, trust_remote_code)
    if image is not None:
        raise UsageError(f"--image {image}: {type(model).__name__} is asked about no image; leave --image out")
    if model.main_input_name == "pixel_values":
        return Classification(_list_labels(model), ImageReader(model))
    if model.main_input_name != "input_ids":
        raise ModelError(f"{type(model).__name__} takes {model.main_input_name}; only texts and images are tried")
    tokenizer = load_tokenizer(folder, trust_remote_code)
    if tokenizer is None:
        raise ModelError(f"{folder}: no tokenizer lies beside the weights; put its files there")
    if model.can_generate():
        return TextGeneration(tokenizer, max_tokens)
    reader = TextReader(tokenizer, getattr(find_language_config(model), "max_position_embeddings", None))
    has_head = model.get_output_embeddings() is not None
    if has_head or not _gives_logits(model):
        return Embedding(reader, has_head)
    return Classification(_list_labels(model), reader)


def _ask_about(model: Any, image: Path | None, max_tokens: int, trust_remote_code: bool) -> Task:
    if image is None:
        raise UsageError(f"{type(model).__name__} answers questions about images; give one with --image FILE")
    if not image.is_file():
        raise BadData(f"image {image} does not exist; give the path of an image")
    processor = load_processor(model, trust_remote_code)
    return ImageQuestion(processor.tokenizer, max_tokens, processor=processor, model=model, image=image)


def _gives_logits(model: Any) -> bool:
    return model.base_model is not model  # a head on a trunk


def _list_labels(model: Any) -> tuple[str, ...]:
    names = model.config.id2label
    return tuple(str(names.get(label, label)) for label in range(model.config.num_labels))

"""How an embedding model makes one vector of a text: the tokens that are pooled, and what is done to the result.

The rules are those of Sentence Transformers, whose files beside the weights `pruning.checkpoint.sentence_files` reads.
A model that has such files carries what they say with it, through pruning and export.
"""

import hashlib
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

_ATTRIBUTE = "nas_sentence_embedding"
COSINE = "cosine"


class Pooling(StrEnum):
    """Which of a text's tokens make its vector; the names are those of `1_Pooling/config.json`."""

    CLS = "cls"
    LAST = "lasttoken"
    MAX = "max"
    MEAN = "mean"
    MEAN_SQRT = "mean_sqrt_len_tokens"
    WEIGHTED_MEAN = "weightedmean"


_WORDS = {
    Pooling.CLS: "the first token",
    Pooling.LAST: "the last token",
    Pooling.MAX: "the maximum over the tokens",
    Pooling.MEAN: "the mean of the tokens",
    Pooling.MEAN_SQRT: "the sum of the tokens over the root of their number",
    Pooling.WEIGHTED_MEAN: "the mean of the tokens, later ones weighing more",
}


class Layer(Protocol):
    """A step after the pooling."""

    def __call__(self, vectors: Tensor) -> Tensor:
        """(batch, width) to (batch, another width)."""

    def randomise(self) -> "Layer":
        """The same with random weights."""

    @property
    def words(self) -> str:
        """What it does."""


@dataclass(frozen=True)
class Normalize:
    """Vectors of length 1."""

    words = "normalised"

    def __call__(self, vectors: Tensor) -> Tensor:
        """Divided by their lengths."""
        return functional.normalize(vectors, dim=-1)

    def randomise(self) -> "Normalize":
        """It has no weights."""
        return self


@dataclass(frozen=True, eq=False)
class Dense:
    """A linear layer and an activation, a class of `torch.nn`; with `residual`, the input is added to the result.

    `residual` is a matrix (out, in) where the two differ in width, else None stands for the input itself.
    """

    weight: Tensor
    bias: Tensor | None
    activation: str
    adds_input: bool = False
    residual: Tensor | None = None

    @property
    def words(self) -> str:
        """The width it leads to."""
        return f"through a dense layer to {len(self.weight)} numbers"

    def __call__(self, vectors: Tensor) -> Tensor:
        """(batch, in) to (batch, out)."""
        activation: nn.Module = getattr(nn, self.activation)()
        result: Tensor = activation(functional.linear(vectors, self.weight, self.bias))
        if not self.adds_input:
            return result
        return result + (vectors if self.residual is None else functional.linear(vectors, self.residual))

    def randomise(self) -> "Dense":
        """Of the same sizes."""
        return replace(
            self, weight=_randomise(self.weight), bias=_randomise(self.bias), residual=_randomise(self.residual)
        )


@dataclass(frozen=True, eq=False)
class LayerNorm:
    """A layer norm of the vectors."""

    weight: Tensor
    bias: Tensor
    words = "through a layer norm"

    def __call__(self, vectors: Tensor) -> Tensor:
        """(batch, width) as it was."""
        return functional.layer_norm(vectors, self.weight.shape, self.weight, self.bias)

    def randomise(self) -> "LayerNorm":
        """Of the same size."""
        return replace(self, weight=_randomise(self.weight), bias=_randomise(self.bias))


@dataclass(frozen=True, eq=False)
class SentenceEmbedding:
    """From a text's hidden states to its vector, and how the text is given to the model.

    Attributes:
        pooling: one or several, whose results are joined.
        layers: what follows, in order.
        similarity: by which such vectors are compared.
        max_length: tokens of a text that the model is given; None where the folder does not say.
        lower_case: whether texts are given in lower case.
        prompt: what stands before every text.
        skipped: how many tokens of the prompt, and of what the tokenizer puts before it, are not pooled.
    """

    pooling: tuple[Pooling, ...] = (Pooling.MEAN,)
    layers: tuple[Layer, ...] = (Normalize(),)
    similarity: str = COSINE
    max_length: int | None = None
    lower_case: bool = False
    prompt: str = ""
    skipped: int = 0

    def __call__(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """(batch, width) of hidden states (batch, tokens, hidden) and a mask (batch, tokens) that is 1 for real ones.

        Computed in fp32, given back in the precision of the hidden states.
        """
        states = hidden.float()
        vectors = torch.cat([_pool(mode, states, mask.float(), self.skipped) for mode in self.pooling], dim=-1)
        for layer in self.layers:
            vectors = layer(vectors)
        return vectors.to(hidden.dtype)

    def __deepcopy__(self, memo: dict[int, Any]) -> "SentenceEmbedding":
        """Itself: nothing of it changes, so pruned copies of a model share it."""
        return self

    def prepare_text(self, text: str) -> str:
        """A text as the model is given it."""
        whole = self.prompt + text
        return whole.lower() if self.lower_case else whole

    def randomise(self) -> "SentenceEmbedding":
        """The same with random weights."""
        return replace(self, layers=tuple(layer.randomise() for layer in self.layers))

    @property
    def digest(self) -> str:
        """Eight hexadecimal digits that name the function."""
        settings = [self.words, self.lower_case, self.skipped, self.similarity]
        hashed = hashlib.sha256(repr(settings).encode())
        for layer in self.layers:
            for name, value in vars(layer).items():
                hashed.update(name.encode())
                hashed.update(value.numpy().tobytes() if isinstance(value, Tensor) else repr(value).encode())
        return hashed.hexdigest()[:8]

    @property
    def words(self) -> str:
        """What a person reads."""
        steps = [" and ".join(_WORDS[mode] for mode in self.pooling), *(layer.words for layer in self.layers)]
        length = "" if self.max_length is None else f"; texts of at most {self.max_length} tokens"
        prompt = f"; {self.prompt!r} before every text" if self.prompt else ""
        return ", ".join(steps) + length + prompt


def read_sentence_embedding(model: Any) -> SentenceEmbedding | None:
    """What a model's folder says of its embeddings; None where it says nothing."""
    embedding: SentenceEmbedding | None = getattr(model, _ATTRIBUTE, None)
    return embedding


def attach(model: Any, embedding: SentenceEmbedding | None) -> None:
    """Let a model carry what its folder says; copies of the model have it too."""
    if embedding is not None:
        setattr(model, _ATTRIBUTE, embedding)


def _pool(mode: Pooling, hidden: Tensor, mask: Tensor, skipped: int) -> Tensor:
    """(batch, hidden): positions count from the first real token, so padding may be on either side."""
    first = mask.argmax(1, keepdim=True)
    indices = torch.arange(hidden.shape[1], device=hidden.device)[None] - first
    real = mask * (indices >= skipped) if skipped else mask
    match mode:
        case Pooling.CLS:
            return _select(hidden, real.argmax(1))
        case Pooling.LAST:
            return _select(hidden, (real * (indices + 1)).argmax(1))
        case Pooling.MAX:
            return hidden.masked_fill(real[..., None] == 0, -torch.inf).amax(1)
        case Pooling.WEIGHTED_MEAN:
            real = real * (indices + 1)
    count = real.sum(1, keepdim=True).clamp(min=1e-9)
    return (hidden * real[..., None]).sum(1) / (count.sqrt() if mode is Pooling.MEAN_SQRT else count)


def _select(hidden: Tensor, index: Tensor) -> Tensor:
    """The states of one token of every text."""
    return hidden.gather(1, index[:, None, None].expand(-1, 1, hidden.shape[-1]))[:, 0]


def _randomise(tensor: Any) -> Any:
    return None if tensor is None else torch.randn(tensor.shape, generator=torch.Generator().manual_seed(0))

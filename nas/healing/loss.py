"""How far a pruned model is from its parent on a few items, as something to be made smaller by training.

The outputs are compared as the search's evaluator compares them, so that what falls is what is reported. The hidden
states tell every block by itself what it lacks: where kept blocks meet, the residual stream is compared with the
parent's at the same place.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from nas.quality.classification import ClassificationEvaluator
from nas.quality.distribution import StoredDistribution
from nas.quality.embedding import DEFAULT, EmbeddingEvaluator, embed
from nas.quality.evaluator import Evaluator
from nas.quality.labels import LabelEvaluator, compute_bernoulli_divergence
from nas.quality.language import LanguageEvaluator
from nas.quality.prompt import PromptEvaluator
from pruning.anatomy.anatomy import Anatomy
from pruning.checkpoint.sentence_embedding import COSINE, read_sentence_embedding
from pruning.compensation.alignment import TokenAlignment
from pruning.compensation.sites import find_kept_layers
from pruning.compensation.streams import reshape_by_item, watch_input
from search_spaces.architecture import Architecture
from search_spaces.errors import ModelError

_TINY = 1e-12  # of a mean square


@dataclass(frozen=True)
class OutputLoss:
    """What of a model's outputs is compared, and how.

    Attributes:
        run: rows (n, outcomes or width) that a model gives for its inputs.
        compare: (n,) from the rows of a model and of its parent.
    """

    run: Callable[[Any, Mapping[str, Tensor]], Tensor]
    compare: Callable[[Tensor, Tensor], Tensor]


def find_output_loss(evaluator: Evaluator, parent: Any) -> OutputLoss:
    """The loss that belongs to an evaluator of `parent`'s candidates.

    Raises:
        ModelError: there is none for its kind of outputs.
    """
    match evaluator:
        case LanguageEvaluator():
            return OutputLoss(_compute_all_logits, compute_divergence)
        case PromptEvaluator():
            return OutputLoss(_compute_last_logits, compute_divergence)
        case ClassificationEvaluator():
            return OutputLoss(_compute_logits, compute_divergence)
        case LabelEvaluator():
            return OutputLoss(_compute_logits, lambda own, its: compute_bernoulli_divergence(its, own).mean(-1))
        case EmbeddingEvaluator():
            return OutputLoss(_build_embedder(parent), compute_relative_distance)
    raise ModelError(
        f"a {type(parent).__name__} cannot be healed: its outputs are judged by {evaluator.metric}, for which there is "
        "no training loss; heal language models, classifiers and models that give embeddings"
    )


def compute_divergence(own: Tensor, parent: Tensor) -> Tensor:
    """KL(parent || own) row by row, in nats, of logits (n, outcomes); of many outcomes the most likely are told apart.

    Which those are, `StoredDistribution` decides, as where candidates are judged.
    """
    return StoredDistribution.of(parent).compute_divergence(own)


def compute_relative_distance(own: Tensor, parent: Tensor) -> Tensor:
    """Half the squared distance, relative to the parent's squared length: 1 - cosine, where both have length 1."""
    return (own - parent).square().sum(-1) / (2 * parent.square().sum(-1)).clamp(min=_TINY)


def _compute_all_logits(model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    logits: Tensor = model(**inputs, use_cache=False).logits
    return logits.flatten(0, 1)


def _compute_last_logits(model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    logits: Tensor = model(**inputs, use_cache=False, logits_to_keep=1).logits
    return logits[:, -1]


def _compute_logits(model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    logits: Tensor = model(**inputs).logits
    return logits.float()


def _build_embedder(parent: Any) -> Callable[[Any, Mapping[str, Tensor]], Tensor]:
    """What makes an embedding of a model without its head, as the parent's folder says."""
    embedding = read_sentence_embedding(parent) or DEFAULT
    has_head = parent.get_output_embeddings() is not None

    def run(model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
        vectors = embed(model.base_model if has_head else model, dict(inputs), embedding)
        return normalize(vectors, dim=-1) if embedding.similarity == COSINE else vectors

    return run


@dataclass
class HealingLoss:
    """The loss of a pruned model on some items: that of its outputs, and of its hidden states.

    Attributes:
        parent, model: in eval mode; only the model takes gradients.
        anatomy: of the parent.
        architecture: of the model.
        outputs: what of the outputs is compared.
        hidden_weight: of the hidden states.
        arithmetic: the context in which both run.
    """

    parent: Any
    model: Any
    anatomy: Anatomy
    architecture: Architecture
    outputs: OutputLoss
    hidden_weight: float
    arithmetic: Callable[[], AbstractContextManager[Any]]
    _streams: dict[int, Tensor] = field(default_factory=dict, init=False)  # of the parent, by border
    _errors: list[Tensor] = field(default_factory=list, init=False)

    def __call__(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """The loss, a number that gradients can be taken of."""
        with self.arithmetic():
            left = find_kept_layers(self.anatomy, self.architecture)
            with torch.no_grad(), self._watch_streams(self.parent, left, self._keep(inputs)):
                wanted = self.outputs.run(self.parent, inputs)
            with self._watch_streams(self.model, list(range(len(left))), self._compare(inputs)):
                own = self.outputs.run(self.model, inputs)
        loss = self.outputs.compare(own, wanted).mean()
        if self._errors:
            loss = loss + self.hidden_weight * torch.stack(self._errors).mean()
        self._errors.clear()
        self._streams.clear()
        return loss

    def _watch_streams(
        self, model: Any, layers: list[int], see: Callable[[int], Callable[[Tensor], None]]
    ) -> ExitStack:
        """Show the stream that enters each block at `layers` but the first, and what leaves the last of the model."""
        blocks: nn.ModuleList = model.get_submodule(self.anatomy.stack)
        stack = ExitStack()
        if self.hidden_weight > 0:
            for border, layer in enumerate(layers[1:]):
                stack.callback(watch_input(blocks[layer], see(border)))
            stack.callback(_watch_end(blocks[-1], see(len(layers) - 1)))
        return stack

    def _keep(self, inputs: Mapping[str, Tensor]) -> Callable[[int], Callable[[Tensor], None]]:
        batch = len(next(iter(inputs.values())))
        return lambda border: lambda stream: self._streams.update({border: reshape_by_item(stream, batch)})

    def _compare(self, inputs: Mapping[str, Tensor]) -> Callable[[int], Callable[[Tensor], None]]:
        batch, tokens = len(next(iter(inputs.values()))), TokenAlignment.of(self.model, inputs)

        def compare_at(border: int) -> Callable[[Tensor], None]:
            def see(stream: Tensor) -> None:
                own = reshape_by_item(stream, batch)
                real = tokens.mark_real_rows(*own.shape[:2])
                wanted = tokens.align_rows(self._streams[border])[real].float()
                self._errors.append(compute_relative_error(own.flatten(0, 1)[real].float(), wanted))

            return see

        return compare_at


def compute_relative_error(own: Tensor, wanted: Tensor) -> Tensor:
    """The mean squared difference of states (tokens, d), relative to the mean square of the wanted ones."""
    return (own - wanted).square().mean() / wanted.square().mean().clamp(min=_TINY)


def _watch_end(module: nn.Module, see: Callable[[Tensor], None]) -> Callable[[], None]:
    """Show what a block returns before anybody else changes it, such as what restores the number of tokens."""

    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        see(output[0] if isinstance(output, tuple) else output)

    return module.register_forward_hook(hook, prepend=True).remove

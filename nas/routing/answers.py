"""What a model answers to the queries of a split, how sure it is, and whether its parent answers the same."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nas.quality.classification import ClassificationEvaluator
from nas.quality.evaluator import Evaluator
from nas.quality.language import LanguageEvaluator
from nas.quality.prompt import PromptEvaluator
from search_spaces.errors import UsageError

Batch = dict[str, Tensor]
_BATCH = 4  # items: a window of text has a query for every token
# By what judges a parent: the logits (queries, classes or tokens) of a batch of items.
_QUERIES: dict[type, Callable[[Any, Batch], Tensor]] = {
    ClassificationEvaluator: lambda model, batch: model(**batch).logits,
    LanguageEvaluator: lambda model, batch: model(**batch, use_cache=False).logits.flatten(0, 1),
    PromptEvaluator: lambda model, batch: model(**batch, use_cache=False, logits_to_keep=1).logits[:, -1],
}


@dataclass(frozen=True)
class Answers:
    """A query an entry: the probability of the model's own answer, and whether the parent's is the same.

    Example:
        >>> Answers(torch.tensor([0.9, 0.4]), torch.tensor([True, False])).confidence.max().item() > 0.8
        True
    """

    confidence: Tensor
    agrees: Tensor

    def __len__(self) -> int:
        return len(self.confidence)


@torch.inference_mode()
def compare_answers(model: Any, parent: Any, evaluator: Evaluator, split: str) -> Answers:
    """The answers of a model beside those of its parent, to all queries of a split.

    An item of a classifier is a query, of a language model every token of a text: which one comes next.

    Raises:
        UsageError: the models do not choose an answer, such as those that embed.
    """
    queries = _QUERIES.get(type(evaluator))
    if queries is None:
        raise UsageError(
            f"a query is routed by how sure a model is of one answer, and here is compared the {evaluator.words}; "
            "give the search of a classifier or of a language model"
        )
    confidence, agrees = list[Tensor](), list[Tensor]()
    for batch in evaluator.dataset.get_split(split).iterate_batches(_BATCH):
        own = queries(model, batch).float().softmax(-1).max(-1)
        confidence.append(own.values.cpu())
        agrees.append((own.indices == queries(parent, batch).argmax(-1)).cpu())
    return Answers(torch.cat(confidence), torch.cat(agrees))

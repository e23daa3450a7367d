"""A candidate evaluated with and without the states that others left behind."""

import torch

from pruning import prune
from pruning.inference.prefix_cache import PrefixStore, list_prefixes, make_resumable


@torch.no_grad()
def evaluate_through_store(model, anatomy, architecture, inputs):
    """(logits of a full pass, of one that resumes from what the same candidate left, how many blocks were skipped)."""
    expected = prune(model, architecture, anatomy=anatomy)(**inputs, use_cache=False).logits
    store = PrefixStore()
    for _ in range(2):
        candidate = prune(model, architecture, anatomy=anatomy)
        prefixes = list_prefixes(architecture)[:2]  # the blocks behind these run
        make_resumable(candidate, anatomy, prefixes, store)
        resumed = candidate(**inputs, use_cache=False).logits
    return expected, resumed, store.skipped

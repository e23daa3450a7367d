"""The digest of a model's weights, and weights that are none."""

import pytest
import torch
from families import build

from nas.parent.parent import compute_weights_digest
from search_spaces.errors import ModelError


def test_one_weight_changes_the_digest() -> None:
    model = build("llama")
    before = compute_weights_digest(model)
    assert compute_weights_digest(build("llama")) == before
    with torch.no_grad():
        model.model.layers[2].mlp.up_proj.weight[0, 0] += 1
    assert compute_weights_digest(model) != before


def test_weights_that_are_no_numbers_are_refused_by_name() -> None:
    """In any block: what reads the structure looks at one block of each kind only."""
    model = build("llama")
    with torch.no_grad():
        model.model.layers[2].mlp.up_proj.weight[0, 0] = torch.nan
    with pytest.raises(ModelError, match=r"layers\.2\.mlp\.up_proj\.weight.*NaN"):
        compute_weights_digest(model)

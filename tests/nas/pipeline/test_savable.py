"""What could not be saved is left out of a search, or refused, before it begins."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import transformers
from families import FAMILIES, build, filled

from nas.parent.parent import ParentModel, load_parent_model
from nas.pipeline.savable import restrict_to_savable
from pruning.checkpoint.writing import check_config
from search_spaces.errors import ArchitectureError, ModelError
from search_spaces.kinds import STRUCTURE, Kind
from search_spaces.servable import Servable, restrict
from search_spaces.space import Space
from search_spaces.unit import Unit

SIZES = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
         "intermediate_size": 48, "vocab_size": 96, "max_position_embeddings": 64}  # fmt: skip


def build_parent(model: Any, folder: Path) -> ParentModel:
    model.save_pretrained(folder)
    return load_parent_model(str(folder))


def vanilla(parent: ParentModel) -> Space:
    return restrict(parent.anatomy.build_space(STRUCTURE), Servable.VANILLA)


def diff_llama() -> Any:
    """The scale of its attention is made from the block's index."""
    return filled(lambda: transformers.DiffLlamaForCausalLM(transformers.DiffLlamaConfig(**SIZES)))


def test_blocks_that_leave_others_as_they_are_may_all_go(tmp_path: Path) -> None:
    parent = build_parent(build("llama"), tmp_path)
    assert restrict_to_savable(vanilla(parent), parent, Servable.VANILLA) == vanilla(parent)


def test_for_plain_classes_only_blocks_go_that_move_no_other(tmp_path: Path) -> None:
    parent = build_parent(diff_llama(), tmp_path)
    assert restrict_to_savable(vanilla(parent), parent, Servable.VANILLA).choices == (Unit(3, Kind.BLOCK).dropped,)
    every = parent.anatomy.build_space(STRUCTURE)
    assert restrict_to_savable(every, parent, Servable.ANY) == every
    first = dataclasses.replace(vanilla(parent), choices=(Unit(0, Kind.BLOCK).dropped, Unit(1, Kind.BLOCK).dropped))
    with pytest.raises(ArchitectureError, match=r"every block of .* depends on its place"):
        restrict_to_savable(first, parent, Servable.VANILLA)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_what_its_config_says(family: str) -> None:
    check_config(build(family))


def test_a_parent_that_its_config_does_not_describe_is_refused() -> None:
    model = build("llama")
    model.config.num_attention_heads = 8
    with pytest.raises(ModelError, match=r"differs from the one that was loaded \(model\.layers\.0\.self_attn"):
        check_config(model)

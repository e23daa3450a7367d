"""Levels are tried when a block is read: what a family forbids is not offered, and faults of ours are not hidden."""

from typing import Any

import pytest
import torch

from nas.families.tiny_config import build_tiny_config
from nas.families.trials import build_tiny_model
from pruning.anatomy.anatomy import read_anatomy
from pruning.anatomy.contribution import read_block
from pruning.anatomy.probe import BlockTrace, find_stream, record_inputs, trace_block
from pruning.kinds import SURGERIES, Surgery, find_savings
from search_spaces.errors import UnreadableModel
from search_spaces.unit import list_kinds


@pytest.fixture(scope="module")
def tape() -> BlockTrace:
    model = build_tiny_model("LlamaForCausalLM", build_tiny_config("llama"))
    blocks = model.model.layers
    arguments = record_inputs(model, blocks, use_cache=False)[0]
    return trace_block(blocks[0], arguments, find_stream(arguments).shape[-1])


class _Failing(Surgery):
    def __init__(self, error: Exception) -> None:
        self.error = error

    def find_levels(self, call: Any, anatomy: Any) -> Any:
        raise self.error


def test_what_a_family_does_not_run_with_is_not_offered(tape: BlockTrace, monkeypatch: pytest.MonkeyPatch) -> None:
    block = read_block(0, tape, 32)
    usual = find_savings(tape.block, block)
    monkeypatch.setitem(SURGERIES, "mlp", _Failing(UnreadableModel("it fails")))
    left = find_savings(tape.block, block)
    assert {str(choice) for choice in usual.keys() - left.keys()} == {"mlp.0"}


def test_a_fault_of_ours_is_not_hidden(tape: BlockTrace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SURGERIES, "mlp", _Failing(KeyError("a fault")))
    with pytest.raises(KeyError, match="a fault"):
        find_savings(tape.block, read_block(0, tape, 32))


@torch.no_grad()
def test_a_linear_map_stands_in_for_a_part_that_returns_a_list() -> None:
    anatomy = read_anatomy(build_tiny_model("OpenAIGPTLMHeadModel", build_tiny_config("openai-gpt")))
    assert "attention-linear" in {name for choice in anatomy.choices for name in list_kinds(choice)}

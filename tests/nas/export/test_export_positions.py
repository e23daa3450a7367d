"""Positions that change with the length: files are right on both sides of it, and one that is not is found out."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import transformers as hf
from families import build, filled, mark_rest_slow

from latency_models.runtime_ort import open_session
from latency_models.workload import Phase
from nas.export.graph_editing import ParentGraph
from nas.export.onnx_export import export_onnx, list_input_names
from nas.export.parity import Trial, check_parity, list_trials
from pruning.anatomy.anatomy import read_anatomy
from pruning.anatomy.positions import find_longest_sequence
from pruning.surgery.prune import prune
from search_spaces import Architecture
from search_spaces.errors import ExportError

ORIGINAL = 16  # tokens; beyond them the frequencies are others
WINNER = Architecture.from_words("mlp attn+mlp")
LONG = torch.randint(3, 96, (1, 40), generator=torch.Generator().manual_seed(0))
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
         "intermediate_size": 48, "vocab_size": 96, "pad_token_id": 0}  # fmt: skip
ROTARY = {
    "longrope": {"factor": 4.0, "original_max_position_embeddings": ORIGINAL, "short_factor": [1.0] * 4,
                 "long_factor": [5.0] * 4},
    "dynamic": {"factor": 3.0},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": ORIGINAL},
}  # fmt: skip


def rotary(kind: str) -> Any:
    settings = {"rope_type": kind, "rope_theta": 1e4, **ROTARY[kind]}
    most = ORIGINAL if kind == "dynamic" else 4 * ORIGINAL
    config = hf.LlamaConfig(**SIZES, max_position_embeddings=most, rope_parameters=settings)
    return filled(lambda: hf.LlamaForCausalLM(config))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], SimpleNamespace]:
    """Gives a kind's parent, its file, and the logits of the parent for `LONG` right after it was traced."""

    @cache
    @torch.no_grad()
    def export(kind: str) -> SimpleNamespace:
        model = rotary(kind)
        path = export_onnx(model, tmp_path_factory.mktemp(kind) / "parent.onnx")
        return SimpleNamespace(model=model, path=path, logits=model(input_ids=LONG, use_cache=False).logits.numpy())

    return export


@torch.no_grad()
def first_run(kind: str, words: str, ids: torch.Tensor) -> np.ndarray:
    """What a model that never ran before gives in plain PyTorch."""
    model = prune(rotary(kind), Architecture.from_words(words))
    return model(input_ids=ids, use_cache=False).logits.numpy()


@pytest.mark.parametrize("kind", mark_rest_slow(ROTARY, ["longrope"]))
def test_a_file_is_right_on_both_sides_of_the_length_at_which_frequencies_change(
    kind: str, exported, tmp_path: Path
) -> None:
    """That of a parent which never ran long before it was traced, and that of a winner derived from it."""
    model, parent = exported(kind).model, exported(kind).path
    anatomy = read_anatomy(model)
    winner = ParentGraph.read(parent, anatomy, model).derive(WINNER, tmp_path / "winner.onnx")
    for path, words in ((parent, "attn+mlp attn+mlp"), (winner, WINNER.words)):
        session = open_session(path, 1)
        for length in (ORIGINAL - 1, ORIGINAL, ORIGINAL + 1, 40, 5):  # the short one last: nothing is left of others
            ids = torch.randint(3, 96, (2, length), generator=torch.Generator().manual_seed(length))
            expected = first_run(kind, words, ids)
            indices = np.broadcast_to(np.arange(length), (2, length))
            feed = {"input_ids": ids.numpy(), "attention_mask": np.ones((2, length), np.int64), "position_ids": indices}
            found = session.run(None, feed)[0]
            assert np.abs(found - expected).max() < 1e-4 * max(1.0, np.abs(expected).max()), (words, length)
        assert check_parity(prune(model, Architecture.from_words(words), anatomy=anatomy), path) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("kind", ROTARY)
@pytest.mark.parametrize("phase", [Phase.PREFILL, Phase.DECODE])
def test_cached_files_too(phase: Phase, kind: str, tmp_path: Path) -> None:
    model = rotary(kind)
    anatomy = read_anatomy(model)
    parent = export_onnx(model, tmp_path / "parent.onnx", phase=phase)
    winner = ParentGraph.read(parent, anatomy, model).derive(WINNER, tmp_path / "winner.onnx")
    assert check_parity(model, parent, phase) < 1e-4
    assert check_parity(prune(model, WINNER, anatomy=anatomy), winner, phase) < 1e-4


def test_a_trace_leaves_the_model_as_it_was(exported) -> None:
    np.testing.assert_array_equal(exported("longrope").logits, first_run("longrope", "attn+mlp attn+mlp", LONG))


def test_a_file_that_is_wrong_beyond_a_length_only_is_found_out(exported, tmp_path: Path) -> None:
    """As one that was traced with the frequencies of short sequences: right for every prompt of up to 16 tokens."""
    path = tmp_path / "model.onnx"
    proto = onnx.load(str(exported("longrope").path))
    changed = 0
    for node in proto.graph.node:
        if node.op_type == "Where" and len(node.input) == 3 and node.input[1] != node.input[2]:
            node.input[1], changed = node.input[2], changed + 1
            break
    assert changed
    onnx.save(proto, str(path))
    with pytest.raises(ExportError, match="differs from the model"):
        check_parity(exported("longrope").model, path)


def test_files_are_tried_around_every_length_of_the_config() -> None:
    assert {(trial.words, trial.first) for trial in list_trials(rotary("longrope"))} >= {(14, 0), (19, 0)}
    assert {(trial.words, trial.first) for trial in list_trials(rotary("dynamic"))} >= {(14, 0), (19, 0)}
    far = rotary("yarn")
    far.config.rope_parameters["original_max_position_embeddings"] = 32768
    assert {(30, 32736), (35, 32736)} <= {
        (trial.words, trial.first) for trial in list_trials(far)
    }  # few tokens, far away
    assert Trial(1, 11) in list_trials(build("mistral"))  # beyond a window of 8
    assert max(trial.words for trial in list_trials(build("gpt2"))) == 64  # the last learned position
    assert all(trial.words + trial.first < 16 for trial in list_trials(build("llama")))
    assert "position_ids" not in list_input_names(build("bert"))
    assert max(trial.words for trial in list_trials(build("bert"))) == 64


@pytest.mark.parametrize(("family", "most"), [("gpt2", 64), ("bert", 64), ("opt", 64), ("llama", None), ("vit", None)])
def test_how_many_tokens_a_model_has_learned_positions_for(family: str, most: int | None) -> None:
    assert find_longest_sequence(build(family)) == most


@torch.no_grad()
def test_the_longest_sequence_is_the_longest_that_runs() -> None:
    for family in ("gpt2", "opt", "roberta"):  # RoBERTa loses two rows to its padding
        model = build(family)
        most = find_longest_sequence(model)
        assert most is not None
        model(input_ids=torch.full((1, most), 5))
        with pytest.raises((IndexError, RuntimeError)):
            model(input_ids=torch.full((1, most + 1), 5))

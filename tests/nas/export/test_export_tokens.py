"""Exported files of models that drop tokens: any batch, prompts of any length, and engines."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from families import DECODERS, ENCODERS, VISION, build

from latency_models.runtime_ort import open_session
from latency_models.workload import Phase
from nas.export.onnx_export import ONNX_RUNTIME_OPSET, export_for_onnx_runtime, make_example_inputs
from nas.export.parity import check_parity
from nas.export.tensorrt_export import InputRange, build_engine, export_tensorrt_onnx
from pruning.surgery.prune import prune
from search_spaces import Architecture, Positions, Reducer, Reduction, Schedule, Scorer


def reduced(family: str, text: str = "1=0.5,3=0.1", words: str = "attn+mlp " * 4, **choices: object) -> object:
    scorer = Scorer.LAST if family in DECODERS else Scorer.MEAN
    reduction = Reduction(**{"scorer": scorer, **choices})
    return prune(build(family), Architecture.from_words(words.strip()).replace_tokens(Schedule.parse(text, reduction)))


@pytest.mark.slow  # a decoder is exported below, a ViT in the contract test of the kind
@pytest.mark.parametrize("family", [*DECODERS, *ENCODERS, *VISION])
def test_a_file_computes_what_the_model_does(family: str, tmp_path: Path) -> None:
    """With native attention, at shapes that it was not traced at."""
    model, phase = reduced(family), Phase.PREFILL if family in DECODERS else Phase.FORWARD
    opset, reason = export_for_onnx_runtime(model, tmp_path / "model.onnx", check_parity, phase)
    assert opset == ONNX_RUNTIME_OPSET, reason


@pytest.mark.parametrize(
    ("family", "choices"),
    [
        ("llama", {"positions": Positions.COMPACTED, "words": "attn+mlp attn+mlp removed removed", "text": "1=0.5"}),
        pytest.param("llama", {"positions": Positions.COMPACTED}, marks=pytest.mark.slow),
        pytest.param("gemma2", {"scorer": Scorer.RANDOM}, marks=pytest.mark.slow),
    ],
)
@torch.no_grad()
def test_a_prompt_s_file_takes_prompts_too_short_to_drop_from(
    family: str, choices: dict[str, object], tmp_path: Path
) -> None:
    """How many tokens stay follows from the length in the file as it does in the model; padding is dropped first."""
    model = reduced(family, **choices)
    opset, reason = export_for_onnx_runtime(model, path := tmp_path / "model.onnx", check_parity, Phase.PREFILL)
    assert opset == ONNX_RUNTIME_OPSET, reason
    session = open_session(path, 1)
    names = [output.name for output in session.get_outputs()]
    for length in (2, 36, 37, 38, 39, 44, 60):
        given = make_example_inputs(model, 2, length)
        given["attention_mask"][1, : length // 4] = 0
        given["position_ids"] = (given["attention_mask"].cumsum(1) - 1).clamp(min=0)
        found = session.run(None, {name: tensor.numpy() for name, tensor in given.items()})
        cache = model(**given, use_cache=True)
        np.testing.assert_allclose(found[0], cache.logits[:, -1:].numpy(), rtol=1e-4, atol=1e-4)
        lengths = [layer.keys.shape[2] for layer in cache.past_key_values.layers]
        assert [found[names.index(f"present.{block}.key")].shape[2] for block in range(len(lengths))] == lengths


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "reducer", "stages"),
    [
        ("bert", Reducer.RECYCLE, "1=0.5,3=0.2"),
        ("bert", Reducer.MERGE, "1=0.9,3=0.6"),
        ("bert", Reducer.MERGE, "1=0.658,2=0.329,3=0.164"),  # halves, and a second round at some lengths
        ("llama", Reducer.RECYCLE, "1=0.9,3=0.5"),
    ],
)
@torch.no_grad()
def test_joined_tokens_are_right_at_any_length(family: str, reducer: Reducer, stages: str, tmp_path: Path) -> None:
    """Where stages gather or merge one token, two, or many."""
    model, phase = reduced(family, stages, reducer=reducer), Phase.PREFILL if family in DECODERS else Phase.FORWARD
    export_for_onnx_runtime(model, path := tmp_path / "model.onnx", check_parity, phase)
    session = open_session(path, 1)
    for length in (2, 5, 8, 14, 21, 27, 37, 42, 50, 63):
        given = make_example_inputs(model, 2, length)
        given["attention_mask"][1, : length // 5] = 0
        if "position_ids" in given:
            given["position_ids"] = (given["attention_mask"].cumsum(1) - 1).clamp(min=0)
        found = session.run(None, {name: tensor.numpy() for name, tensor in given.items()})[0]
        expected = model(**given).logits.numpy()
        real = given["attention_mask"].bool().numpy() if family in ENCODERS else (slice(None), slice(-1, None))
        found = found[real] if family in ENCODERS else found
        np.testing.assert_allclose(found, expected[real], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["vit", pytest.param("llama", marks=pytest.mark.slow)])
def test_an_engine_is_built_of_a_model_that_drops_tokens(family: str, tmp_path: Path) -> None:
    """Without a GPU, for one that is named; prompts of 40 to 60 tokens."""
    pytest.importorskip("tensorrt_rtx", reason="engines need nas[tensorrt-rtx]")
    model = reduced(family, "1=0.5", "attn+mlp attn+mlp removed removed")
    phase = Phase.PREFILL if family in DECODERS else Phase.FORWARD
    path = export_tensorrt_onnx(model, tmp_path / "model.onnx", phase)
    operators = {node.op_type for node in onnx.load(str(path)).graph.node}
    assert "TopK" in operators
    assert "Attention" not in operators
    assert check_parity(model, path, phase) < 1e-4
    build_engine(path, tmp_path / "model.engine", InputRange((1, 40), (2, 48), (4, 60)), compute_capability="SM89")
    assert (tmp_path / "model.engine").stat().st_size > 10_000

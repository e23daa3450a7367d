"""Files of decoders with windows of attention: prompts, steps from a bounded cache, and what is refused."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from families import build, example

from latency_models.workload import Phase
from nas.export.onnx_export import export_onnx
from nas.export.parity import check_parity
from pruning.anatomy.anatomy import read_anatomy
from pruning.surgery.prune import prune
from search_spaces import Architecture, Choice, Reduction
from search_spaces.errors import ArchitectureError

SINKS = 4
NAMES = ("attention.0:window=3", "attention.1", "attention.2:window=5")


def prune_windows(family: str = "llama"):
    model = build(family)
    return prune(model, Architecture(4, frozenset(map(Choice.parse, NAMES))), anatomy=read_anatomy(model))


@pytest.fixture(scope="module")
def decode_file(tmp_path_factory) -> tuple[object, Path]:
    pruned = prune_windows()
    return pruned, export_onnx(pruned, tmp_path_factory.mktemp("files") / "decode.onnx", phase=Phase.DECODE)


def test_steps_from_a_bounded_cache_are_what_the_model_gives(decode_file) -> None:
    """From an empty cache, too; padded prompts and long ones are among the trials."""
    pruned, path = decode_file
    assert check_parity(pruned, path, Phase.DECODE) < 1e-4


def test_a_file_generates_what_the_model_does_without_a_cache(decode_file) -> None:
    from onnxruntime import InferenceSession

    pruned, path = decode_file
    session = InferenceSession(str(path))
    tokens = example(pruned, tokens=20)["input_ids"].numpy()
    mask = np.ones_like(tokens)
    mask[0, :9] = 0
    positions = np.maximum(mask.cumsum(1) - 1, 0)
    with torch.no_grad():
        given = (torch.from_numpy(each) for each in (tokens, mask, positions))
        expected = pruned(**dict(zip(("input_ids", "attention_mask", "position_ids"), given, strict=True))).logits
    past = {}
    for layer, window in ((0, 3), (2, 5), (3, None)):
        held = 0 if window is None else SINKS
        past |= {f"past.{layer}.{name}": np.zeros((2, 2, held, 8), np.float32) for name in ("key", "value")}
    names = [node.name for node in session.get_outputs()]
    wanted = {node.name for node in session.get_inputs()}
    ends = (6, 11, *range(12, 21))
    for begin, end in zip((0, *ends), ends, strict=False):
        feed = {"input_ids": tokens[:, begin:end], "position_ids": positions[:, begin:end]}
        feed |= {"attention_mask": mask[:, :end]} | past
        logits, *presents = session.run(None, {name: each for name, each in feed.items() if name in wanted})
        past = {name.replace("present", "past"): each for name, each in zip(names[1:], presents, strict=True)}
        rows = [1] if end <= 9 else [0, 1]  # the padded row has no token before
        assert np.abs(logits[rows, -1] - expected[rows, end - 1].numpy()).max() < 1e-4
    assert [past[f"past.{layer}.key"].shape[2] for layer in (0, 2, 3)] == [SINKS + 2, SINKS + 4, 20]


def test_axes_of_windows_have_names_of_their_own(decode_file) -> None:
    graph = onnx.load(str(decode_file[1])).graph
    axes = {value.name: value.type.tensor_type.shape.dim[2].dim_param for value in graph.input if "past." in value.name}
    assert {axes[f"past.{layer}.value"] for layer in (0, 2, 3)} == {"sinks_held_3", "sinks_held_5", "past"}


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_prompt_leaves_what_the_window_shows(family: str, tmp_path: Path) -> None:
    pruned = prune_windows(family)
    path = export_onnx(pruned, tmp_path / "prefill.onnx", phase=Phase.PREFILL)
    assert check_parity(pruned, path, Phase.PREFILL) < 1e-4


def test_a_window_and_a_schedule_are_refused_together() -> None:
    model = build("llama")
    both = Architecture(4, frozenset(map(Choice.parse, ("attention.2:window=5", "tokens.1=0.5"))), Reduction())
    with pytest.raises(ArchitectureError, match="blocks 2 see a window of tokens"):
        prune(model, both, anatomy=read_anatomy(model))

"""Decoding after a prompt that lost tokens, from what crosses the border of the files alone, as `generate` decodes."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from families import DECODERS, build, example, mark_rest_slow
from torch import Tensor

from latency_models.runtime_ort import open_session
from latency_models.workload import Phase, Workload
from nas.export.cached_export import build_cached_tracing, compute_axis_size, is_past
from nas.export.onnx_export import (
    ONNX_RUNTIME_OPSET,
    export_for_onnx_runtime,
    make_example_inputs,
    make_workload_inputs,
)
from nas.export.parity import check_parity
from nas.export.stage_cache import list_cache_stages
from pruning.surgery.prune import prune
from search_spaces import Architecture, Positions, Reduction, Schedule, Scorer

STEPS = 8
LENGTHS = (41, 54)  # 4 + 32 stay: 5 and 18 tokens may go
PARTS = ("attn+mlp attn+mlp attn+mlp attn+mlp", "attn+mlp removed mlp attn+mlp", "mlp mlp attn+mlp attn")
CASES = list(itertools.product([*DECODERS, "llava"], Positions))
FAST = [*itertools.product(["llama", "gemma2", "gpt_neox", "gpt2"], Positions), ("llava", Positions.COMPACTED)]
Run = Callable[[Phase, dict[str, np.ndarray]], dict[str, np.ndarray]]


def reduced(
    family: str, positions: Positions = Positions.KEPT, words: str = PARTS[0], stages: str = "1=0.5,3=0.25"
) -> Any:
    model = build(family)
    model.get_output_embeddings().weight.data[:8] = 0  # never a special token
    schedule = Schedule.parse(stages, Reduction(Scorer.LAST, positions=positions))
    return prune(model, Architecture.from_words(words).replace_tokens(schedule))


def eager(model: Any) -> Run:
    """What the exporter traces, run as it is."""

    def run(phase: Phase, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        given = {name: torch.from_numpy(array) for name, array in feed.items()}
        tracing = build_cached_tracing(model, phase, make_example_inputs(model, 2, 57))
        with torch.no_grad():
            found = tracing.module(*(given[name] for name in tracing.inputs))
        assert set(given) == set(tracing.inputs)
        return {name: tensor.numpy() for name, tensor in zip(tracing.outputs, found, strict=True)}

    return run


def files(folder: Path) -> Run:
    sessions = {phase: open_session(folder / f"{phase}.onnx", 1) for phase in (Phase.PREFILL, Phase.DECODE)}

    def run(phase: Phase, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        session = sessions[phase]
        wanted = {node.name for node in session.get_inputs()}
        assert {name for name in wanted if is_past(name)} == {name for name in feed if is_past(name)}
        outputs = session.run(None, {name: feed[name] for name in wanted})
        return dict(zip([node.name for node in session.get_outputs()], outputs, strict=True))

    return run


def message(run: Run, prompt: dict[str, Tensor]) -> list[list[int]]:
    """Greedy answers: what one call hands over is what the next is given, under another name."""
    feed, tokens = {name: tensor.numpy() for name, tensor in prompt.items()}, []
    mask, positions = feed["attention_mask"], feed["position_ids"][:, -1:]
    given = run(Phase.PREFILL, feed)
    while len(tokens) < STEPS:
        tokens.append(given.pop("logits")[:, -1].argmax(-1)[:, None])
        mask, positions = np.concatenate([mask, np.ones_like(mask[:, :1])], 1), positions + 1
        past = {name.replace("present", "past"): array for name, array in given.items()}
        new = {"input_ids": tokens[-1], "attention_mask": mask, "position_ids": positions}
        given = run(Phase.DECODE, new | past)
    return np.concatenate(tokens, 1).tolist()


def prompt_of(model: Any, length: int, batch: int = 2) -> dict[str, Tensor]:
    """The last row is padded on the left."""
    given = make_example_inputs(model, batch, length, seed=length)
    if "pixel_values" in given:
        given |= example(model, batch, length - 10)  # other pixels
    if batch > 1:
        given["attention_mask"][-1, :3] = 0
        if "pixel_values" in given:  # an image stays whole
            given["input_ids"] = torch.cat([torch.full((batch, 3), 9), given["input_ids"]], 1)[:, :length]
    given["position_ids"] = (given["attention_mask"].cumsum(1) - 1).clamp(min=0)
    return given


@torch.no_grad()
def expected(model: Any, prompt: dict[str, Tensor]) -> list[list[int]]:
    settings = {"max_new_tokens": STEPS, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    given = {name: tensor for name, tensor in prompt.items() if name != "position_ids"}
    return model.generate(**given, **settings)[:, -STEPS:].tolist()


@pytest.mark.parametrize(("family", "positions"), mark_rest_slow(CASES, FAST))
def test_what_is_handed_over_is_enough_to_decode(family: str, positions: Positions) -> None:
    model = reduced(family, positions)
    for length in LENGTHS:
        prompt = prompt_of(model, length)
        assert message(eager(model), prompt) == expected(model, prompt)


@pytest.mark.parametrize("words", PARTS[1:])
def test_fewer_parts_and_fewer_tokens_decode_together(words: str) -> None:
    """Names are those of the schedule, also where a block is gone and its stage acts at the next."""
    model = reduced("llama", Positions.COMPACTED, words)
    prompt = prompt_of(model, 57)
    assert message(eager(model), prompt) == expected(model, prompt)
    names = [name for stage in list_cache_stages(model) for name in stage.name_tensors("past")]
    assert names == ["past.1.mask", "past.1.shift", "past.3.mask", "past.3.shift"]


def test_each_stage_has_a_length_of_its_own() -> None:
    """And in a stage a window holds what it can of what is left."""
    model = reduced("gemma2", stages="1=0.5,2=0.25")
    tracing = build_cached_tracing(model, Phase.DECODE, make_example_inputs(model, 2, 57))
    counted = {
        name: (tensor.shape[index], axes[index].__name__)
        for (name, tensor), axes in zip(tracing.inputs.items(), tracing.axes, strict=True)
        if is_past(name) and (index := 1 if name.endswith("mask") else 2)
    }
    assert [counted[f"past.{block}.key"] for block in range(4)] == [
        (7, "held_8"), (46, "past_1"), (7, "held_8_2"), (41, "past_2")
    ]  # fmt: skip
    assert counted["past.1.mask"] == (46, "past_1")
    assert counted["past.2.mask"] == (41, "past_2")
    sizes = {"past_1": 12, "held_8": 7, "held_8_2": 7, "held_512_2": 12}
    assert {axis: compute_axis_size(axis, 3, 12) for axis in sizes} == sizes


def test_arrays_of_a_workload_are_those_that_a_prompt_leaves() -> None:
    model = reduced("llama", Positions.COMPACTED)
    arrays = make_workload_inputs(model, Workload.parse("decode:batch=2,past=56"))
    assert arrays["attention_mask"].shape == (2, 57)
    assert [arrays[f"past.{block}.key"].shape[2] for block in range(4)] == [56, 46, 46, 41]
    assert arrays["past.1.mask"].shape == (2, 46)
    assert arrays["past.3.shift"].tolist() == [[15], [15]]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "positions"),
    [("llama", Positions.KEPT), ("llama", Positions.COMPACTED), ("gemma2", Positions.KEPT), ("llava", Positions.KEPT)],
)
def test_files_generate_what_the_model_does(family: str, positions: Positions, tmp_path: Path) -> None:
    """With native attention, at batches and lengths that they were not traced at."""
    model = reduced(family, positions)
    for phase in (Phase.PREFILL, Phase.DECODE):
        opset, reason = export_for_onnx_runtime(model, tmp_path / f"{phase}.onnx", check_parity, phase)
        assert opset == ONNX_RUNTIME_OPSET, reason
    decode = onnx.load(str(tmp_path / "decode.onnx")).graph
    prefill = onnx.load(str(tmp_path / "prefill.onnx")).graph
    assert [node.name for node in prefill.output] == [node.name for node in decode.output]
    for batch, length in ((1, LENGTHS[0]), (3, LENGTHS[1])):
        prompt = prompt_of(model, length, batch)
        assert message(files(tmp_path), prompt) == expected(model, prompt)

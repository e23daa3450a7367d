"""Files of a vision-language model: an image and words in, and the same answers as the model's."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from families import IMAGE_ID, build, example

from latency_models.runtime_ort import open_session
from latency_models.targets import HOST, find_target
from latency_models.workload import Phase, Workload
from nas.export.cached_export import is_past
from nas.export.graph_editing import ParentGraph
from nas.export.onnx_export import (
    TENSORRT_OPSET,
    export_onnx,
    list_input_names,
    make_example_inputs,
    make_workload_inputs,
)
from nas.export.parity import check_parity
from nas.export.tensorrt_export import InputRange, build_engine, export_tensorrt_onnx
from nas.parent.shape import read_shape
from nas.tokens.space import add_tokens
from pruning.anatomy.anatomy import read_anatomy
from pruning.reduction.layout import read_token_layout
from pruning.surgery.prune import prune
from search_spaces import Architecture, Kind, Reduction, Schedule
from search_spaces.errors import BadData, ExportError, UsageError

CACHED = (Phase.PREFILL, Phase.DECODE)
HALF = Schedule.parse("1=0.5", Reduction())
WORDS = ("mlp attn removed attn+mlp", "attn+mlp mlp mlp attn")
STEPS = 4


@pytest.fixture
def parent(export_parent):
    """A llava, its anatomy, and its files by phase."""
    made = {phase: export_parent("llava", phase) for phase in CACHED}
    model, anatomy = made[Phase.PREFILL].model, made[Phase.PREFILL].anatomy
    return SimpleNamespace(model=model, anatomy=anatomy, files={phase: each.path for phase, each in made.items()})


def derive(parent, words: str, folder: Path) -> dict[Phase, Path]:
    architecture = Architecture.from_words(words)
    return {
        phase: ParentGraph.read(path, parent.anatomy, parent.model).derive(architecture, folder / f"{phase}.onnx")
        for phase, path in parent.files.items()
    }


def run(path: Path, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    session = open_session(path, 1)
    feed = {node.name: feed[node.name] for node in session.get_inputs()}
    return dict(zip([node.name for node in session.get_outputs()], session.run(None, feed), strict=True))


def generate(files: dict[Phase, Path], prompt: dict[str, np.ndarray]) -> np.ndarray:
    """Greedy answers from the files alone: (batch, STEPS)."""
    mask, message = prompt["attention_mask"], []
    positions = (mask.cumsum(-1) - 1).clip(min=0)
    given = run(files[Phase.PREFILL], {**prompt, "position_ids": positions})
    for _ in range(STEPS):
        message.append(given["logits"][:, -1].argmax(-1)[:, None])
        mask, positions = np.concatenate([mask, mask[:, :1] * 0 + 1], 1), positions[:, -1:] + 1
        past = {name.replace("present", "past"): value for name, value in given.items() if name != "logits"}
        new = {"input_ids": message[-1], "attention_mask": mask, "position_ids": positions}
        given = run(files[Phase.DECODE], new | past)
    return np.concatenate(message, 1)


def test_files_agree_with_the_model_at_other_shapes(parent) -> None:
    for phase, path in parent.files.items():
        assert check_parity(parent.model, path, phase) < 1e-4
    prefill = onnx.load(str(parent.files[Phase.PREFILL])).graph
    assert [node.name for node in prefill.input] == ["pixel_values", "input_ids", "attention_mask", "position_ids"]
    decode = onnx.load(str(parent.files[Phase.DECODE])).graph
    assert "pixel_values" not in [node.name for node in decode.input]
    # No shape that follows from values: engines take them slowly or not at all.
    assert not {"NonZero", "ScatterND"} & {node.op_type for node in prefill.node}


@pytest.mark.parametrize("words", WORDS)
def test_derived_files_answer_as_the_pruned_model(words: str, parent, tmp_path: Path) -> None:
    model = prune(parent.model, Architecture.from_words(words), anatomy=parent.anatomy)
    files = derive(parent, words, tmp_path)
    prompt = example(model, batch=3, tokens=7)
    prompt["input_ids"] = torch.cat([torch.zeros(3, 2, dtype=torch.long), prompt["input_ids"]], dim=1)
    prompt["attention_mask"] = (prompt["input_ids"] != 0).long()  # padded on the left
    settings = {"max_new_tokens": STEPS, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    with torch.no_grad():
        expected = model.generate(**prompt, **settings)[:, -STEPS:]
    actual = generate(files, {name: tensor.numpy() for name, tensor in prompt.items()})
    assert np.array_equal(actual, expected.numpy())


@pytest.mark.slow
def test_a_pruned_model_exports_itself_with_plain_operators(parent, tmp_path: Path) -> None:
    model = prune(parent.model, Architecture.from_words(WORDS[0]), anatomy=parent.anatomy)
    path = export_onnx(model, tmp_path / "pruned.onnx", TENSORRT_OPSET, Phase.PREFILL)
    assert check_parity(model, path, Phase.PREFILL) < 1e-4


def test_the_arrays_of_a_workload_hold_one_image_a_prompt(parent) -> None:
    arrays = make_workload_inputs(parent.model, Workload.parse("prefill:batch=3,seq=25"))
    assert arrays["pixel_values"].shape == (3, 3, 12, 12)
    assert arrays["input_ids"].shape == (3, 25)
    assert (arrays["input_ids"] == IMAGE_ID).sum(1).tolist() == [9] * 3
    logits = run(parent.files[Phase.PREFILL], arrays)["logits"]
    assert logits.shape == (3, 1, 96)
    decode = make_workload_inputs(parent.model, Workload.parse("decode:batch=2,past=20"))
    assert "pixel_values" not in decode
    assert run(parent.files[Phase.DECODE], decode)["logits"].shape == (2, 1, 96)
    with pytest.raises(ExportError, match="9 image tokens in a prompt of 9; give at least seq=10"):
        make_workload_inputs(parent.model, Workload.parse("prefill:batch=1,seq=9"))


def test_where_an_image_s_size_decides_the_files_take_words_only() -> None:
    model = build("qwen2_vl")
    assert list_input_names(model) == ("input_ids", "attention_mask", "position_ids")
    inputs = make_example_inputs(model, 2, 5)
    with torch.no_grad():
        assert model(**inputs, use_cache=False).logits.shape == (2, 5, 96)


@pytest.mark.slow
@pytest.mark.parametrize("phase", [Phase.FORWARD, Phase.PREFILL, Phase.DECODE])
def test_files_of_words_only_are_those_of_the_model(phase: Phase, tmp_path: Path) -> None:
    """Whole, and with a schedule: it drops image tokens, of which there are none."""
    model = build("qwen2_vl")
    for each in (model, prune(model, Architecture(4).replace_tokens(HALF))):
        path = export_onnx(each, tmp_path / "model.onnx", phase=phase)
        assert check_parity(each, path, phase) < 1e-4
        given = {node.name for node in onnx.load(str(path)).graph.input if not is_past(node.name)}
        assert given == {"input_ids", "attention_mask", "position_ids"}


def test_dropping_tokens_of_images_of_any_size_is_refused_for_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the search, before anything is measured; and by the model, should somebody trace it with an image."""
    model = build("qwen2_vl")
    anatomy = read_anatomy(model)
    parent = SimpleNamespace(id="qwen2_vl", model=model, anatomy=anatomy, shape=read_shape(model, anatomy))
    space, prompt = anatomy.build_space((Kind.ATTENTION,)), Workload.parse("prefill:batch=1,seq=60")
    for tokens in ("search", "fastv:2=0.5"):
        with pytest.raises(UsageError, match="files need a fixed number; take --tokens off"):
            add_tokens(space, parent, find_target(HOST), prompt, tokens)
    reduced = prune(model, Architecture(4).replace_tokens(HALF))
    given = example(model, batch=2, tokens=4)
    assert reduced(**given).logits.shape[1] == given["input_ids"].shape[1] - 5  # in PyTorch 4 of 9 stay
    layout = read_token_layout(model, anatomy)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    with pytest.raises(BadData, match="no fixed number of tokens; trace with a model that fixes it"):
        layout.read(given, torch.zeros(2, given["input_ids"].shape[1], 32))


@pytest.mark.slow
def test_an_engine_is_built_that_takes_images(parent, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="engines need nas[tensorrt-rtx]")
    model = prune(parent.model, Architecture.from_words(WORDS[0]), anatomy=parent.anatomy)
    path = export_tensorrt_onnx(model, tmp_path / "prefill.onnx", Phase.PREFILL)
    ranges = InputRange((1, 11), (2, 20), (4, 32))
    assert build_engine(path, tmp_path / "model.engine", ranges, compute_capability="SM89").startswith("tensorrt")
    assert (tmp_path / "model.engine").stat().st_size > 10_000

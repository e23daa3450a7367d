"""Prefill and decode files, chained as a person would run them, against the model without a cache."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from families import DECODERS, build
from other_families import latent_attention

from latency_models.runtime_ort import open_session
from latency_models.workload import Phase, Workload
from nas.export.onnx_export import ONNX_RUNTIME_OPSET, export_onnx, make_workload_inputs
from nas.export.parent_export import ParentExport
from nas.export.parity import check_parity
from nas.progress import Silent
from pruning.surgery.prune import prune
from search_spaces import Architecture
from search_spaces.errors import ExportError

PHASES = (Phase.PREFILL, Phase.DECODE)
PARENT = "attn+mlp attn+mlp attn+mlp attn+mlp"
# Attention of layer 0; a block; all attention; all MLPs; in hybrids all full attentions, then all sliding ones.
PATTERNS = ("mlp attn+mlp attn attn+mlp", "attn+mlp removed mlp attn+mlp", "mlp mlp mlp mlp", "attn attn attn attn",
            "attn+mlp mlp attn+mlp mlp", "mlp attn+mlp mlp attn+mlp")  # fmt: skip
QUICK = "gemma2"  # attention in a window and over everything, by turns
SLOW = [pytest.param(family, marks=pytest.mark.slow) for family in DECODERS if family != QUICK]
EVERY = [QUICK, *SLOW]
TWO = [QUICK, pytest.param("llama", marks=pytest.mark.slow)]
STEPS = 4


@pytest.fixture
def exported(export_parent):
    """A family's parent with the graphs of both cached phases, and the folder of their files."""

    def parent(family: str):
        files = {phase: export_parent(family, phase) for phase in PHASES}
        of_prefill = files[Phase.PREFILL]
        graphs = {phase: files[phase].graph for phase in PHASES}
        paths = {phase: files[phase].path for phase in PHASES}
        return SimpleNamespace(model=of_prefill.model, anatomy=of_prefill.anatomy, graphs=graphs, paths=paths)

    return parent


@pytest.mark.parametrize("family", EVERY)
@pytest.mark.parametrize("phase", PHASES)
def test_the_export_equals_the_model(phase: Phase, family: str, exported) -> None:
    parent = exported(family)
    assert check_parity(parent.model, parent.paths[phase], phase) < 1e-4


def test_keys_and_values_of_unlike_size_have_their_own_shapes() -> None:
    given = make_workload_inputs(
        latent_attention(), Workload(Phase.DECODE, 2, 1, 5)
    )  # a latent of 16, rotated keys of 8
    assert (given["past.0.key"].shape, given["past.0.value"].shape) == ((2, 1, 5, 16), (2, 1, 5, 8))


@pytest.mark.slow
def test_keys_and_values_of_unlike_size_cross_the_border_of_a_file(tmp_path: Path) -> None:
    model = latent_attention()
    path = export_onnx(model, tmp_path / "decode.onnx", phase=Phase.DECODE)
    assert check_parity(model, path, Phase.DECODE) < 1e-4


def test_a_decoder_that_hands_over_no_cache_is_refused() -> None:
    model = build("llama")
    whole = model.forward

    def forward(*args, **kwargs):
        output = whole(*args, **kwargs)
        output.past_key_values = None
        return output

    model.forward = forward
    with pytest.raises(ExportError, match="LlamaForCausalLM returns no cache"):
        make_workload_inputs(model, Workload(Phase.DECODE, 1, 1, 5))


def derive(parent, words: str, folder: Path) -> dict[Phase, Path]:
    architecture = Architecture.from_words(words)
    return {phase: graph.derive(architecture, folder / f"{phase}.onnx") for phase, graph in parent.graphs.items()}


def generated(files: dict[Phase, Path], ids: np.ndarray, mask: np.ndarray, prompt: int) -> list[np.ndarray]:
    """Logits of the last prompt token and of every token after it, each (batch, vocabulary)."""
    positions = (mask.cumsum(-1) - 1).clip(min=0)
    past: dict[str, np.ndarray] = {}
    logits = []
    for end in range(prompt, ids.shape[1] + 1):
        session = open_session(files[Phase.DECODE if past or logits else Phase.PREFILL], 1)
        start = end - 1 if logits else 0
        given = {
            "input_ids": ids[:, start:end],
            "attention_mask": mask[:, :end],
            "position_ids": positions[:, start:end],
        }
        wanted = {node.name for node in session.get_inputs()}
        assert {name for name in wanted if name.startswith("past.")} == set(past) or not logits
        feed = {name: array for name, array in (given | past).items() if name in wanted}
        outputs = dict(zip([node.name for node in session.get_outputs()], session.run(None, feed), strict=True))
        logits.append(outputs.pop("logits")[:, 0])
        past = {name.replace("present", "past"): array for name, array in outputs.items()}
    return logits


@torch.no_grad()
def without_cache(model, ids: np.ndarray, mask: np.ndarray, prompt: int) -> list[np.ndarray]:
    positions = torch.from_numpy((mask.cumsum(-1) - 1).clip(min=0))
    tensors = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask), "position_ids": positions}
    return list(model(**tensors, use_cache=False).logits[:, prompt - 1 :].numpy().swapaxes(0, 1))


def prompts(batch: int, tokens: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    ids = np.random.default_rng(seed).integers(3, 96, (batch, tokens))
    return ids, np.ones_like(ids)


def assert_generates(files: dict[Phase, Path], model, ids: np.ndarray, mask: np.ndarray, prompt: int) -> None:
    actual, expected = generated(files, ids, mask, prompt), without_cache(model, ids, mask, prompt)
    assert len(actual) == len(expected) == ids.shape[1] - prompt + 1
    assert np.abs(np.array(actual) - np.array(expected)).max() < 1e-4 * max(1.0, np.abs(expected).max())


@pytest.mark.parametrize("family", EVERY)
@pytest.mark.parametrize("words", [PARENT, *PATTERNS])
def test_derived_files_generate_what_the_model_gives_without_a_cache(
    words: str, family: str, exported, tmp_path: Path
) -> None:
    parent = exported(family)
    pruned = prune(parent.model, Architecture.from_words(words), anatomy=parent.anatomy)
    files = derive(parent, words, tmp_path)
    for batch, prompt in ((1, 3), (3, 12)):  # within a window of 8 tokens and beyond it
        assert_generates(files, pruned, *prompts(batch, prompt + STEPS), prompt)


@pytest.mark.parametrize("family", EVERY)
@pytest.mark.parametrize("words", [PARENT, PATTERNS[0], "mlp mlp mlp mlp"])
def test_a_prompt_can_be_read_with_the_decode_file_alone(words: str, family: str, exported, tmp_path: Path) -> None:
    """In one go and in pieces, from an empty cache; then token by token."""
    parent = exported(family)
    pruned = prune(parent.model, Architecture.from_words(words), anatomy=parent.anatomy)
    session = open_session(derive(parent, words, tmp_path)[Phase.DECODE], 1)
    ids, mask = prompts(2, 14)
    expected = without_cache(pruned, ids, mask, 1)  # after every token
    for pieces in ((11, 1, 1, 1), (1, 6, 4, 3)):
        empty = make_workload_inputs(pruned, Workload.parse("decode:batch=2,past=1"))
        past = {name: array[:, :, :0] for name, array in empty.items() if name.startswith("past.")}
        end = 0
        for piece in pieces:
            start, end = end, end + piece
            given = {
                "input_ids": ids[:, start:end],
                "attention_mask": mask[:, :end],
                "position_ids": np.broadcast_to(np.arange(start, end), (2, piece)),
            }
            wanted = {node.name for node in session.get_inputs()}
            feed = {name: array for name, array in (given | past).items() if name in wanted}
            logits, *presents = session.run(None, feed)
            names = [node.name for node in session.get_outputs()][1:]
            past = {name.replace("present", "past"): array for name, array in zip(names, presents, strict=True)}
            bound = 1e-4 * max(1.0, np.abs(expected[end - 1]).max())
            assert np.abs(logits[:, 0] - expected[end - 1]).max() < bound, (piece, end)


@pytest.mark.parametrize("family", EVERY)
def test_a_prompt_padded_on_the_left_is_generated_from(family: str, exported, tmp_path: Path) -> None:
    parent = exported(family)
    ids, mask = prompts(2, 14)
    mask[1, :6] = 0
    words = PATTERNS[0]
    pruned = prune(parent.model, Architecture.from_words(words), anatomy=parent.anatomy)
    assert_generates(derive(parent, words, tmp_path), pruned, ids, mask, 10)


@pytest.mark.slow  # one that is exported in any case is compared with an edited file in test_export_pruned.py
@pytest.mark.parametrize(
    ("family", "words"),
    [
        *((family, "mlp attn removed attn+mlp") for family in DECODERS),
        *((family, "mlp mlp mlp mlp") for family in ("llama", QUICK)),
    ],
)
def test_a_pruned_model_exports_itself_under_the_names_of_its_parent_s_blocks(
    family: str, words: str, exported, tmp_path: Path
) -> None:
    parent = exported(family)
    pruned = prune(parent.model, Architecture.from_words(words), anatomy=parent.anatomy)
    files = {phase: export_onnx(pruned, tmp_path / f"{phase}.onnx", phase=phase) for phase in PHASES}
    assert_generates(files, pruned, *prompts(3, 12 + STEPS), 12)
    derived = derive(parent, words, tmp_path / "derived")
    for phase in PHASES:
        own, parents = onnx.load(str(files[phase])).graph, onnx.load(str(derived[phase])).graph
        assert [node.name for node in own.output] == [node.name for node in parents.output]
        assert [node.name for node in own.input] == [node.name for node in parents.input]


@pytest.mark.parametrize("family", TWO)
def test_a_dropped_attention_has_no_cache_in_the_file(family: str, exported, tmp_path: Path) -> None:
    files = derive(exported(family), "mlp attn+mlp attn removed", tmp_path)
    decode = onnx.load(str(files[Phase.DECODE])).graph
    ends = ["1.key", "1.value", "2.key", "2.value"]
    assert [node.name for node in decode.output] == ["logits", *(f"present.{end}" for end in ends)]
    assert [node.name for node in decode.input if "past" in node.name] == [f"past.{end}" for end in ends]
    prefill = onnx.load(str(files[Phase.PREFILL])).graph
    assert [node.name for node in prefill.output] == [node.name for node in decode.output]


@pytest.mark.parametrize("family", TWO)
@pytest.mark.parametrize("words", [PARENT, "mlp attn+mlp mlp attn+mlp", "mlp mlp mlp mlp"])
def test_the_arrays_of_a_workload_fit_the_file(words: str, family: str, exported, tmp_path: Path) -> None:
    parent = exported(family)
    files = derive(parent, words, tmp_path)
    pruned = prune(parent.model, Architecture.from_words(words), anatomy=parent.anatomy)
    for text in ("prefill:batch=2,seq=9", "decode:batch=2,past=20", "decode:batch=1,past=3"):
        workload = Workload.parse(text)
        session = open_session(files[workload.phase], 1)
        wanted = {node.name for node in session.get_inputs()}
        arrays = make_workload_inputs(pruned, workload)
        assert set(arrays) == wanted
        logits, *presents = session.run(None, arrays)
        assert logits.shape == (workload.batch, 1, 96)
        held = [present.shape[2] for present in presents]
        assert all(kept == workload.past + workload.sequence or kept == 7 for kept in held)
        of_parent = make_workload_inputs(parent.model, workload)  # winners are measured with the parent's arrays
        assert {name: of_parent[name].shape for name in wanted} == {name: arrays[name].shape for name in wanted}


def test_a_window_bounds_what_is_handed_over(exported) -> None:
    past = make_workload_inputs(exported(QUICK).model, Workload.parse("decode:batch=2,past=20"))
    assert past["past.0.key"].shape == (2, 2, 7, 8)  # a window of 8 tokens, the new one included
    assert past["past.1.key"].shape == (2, 2, 20, 8)
    assert past["attention_mask"].shape == (2, 21)
    assert past["position_ids"].tolist() == [[20], [20]]
    assert 0.8 < past["past.1.key"].std() < 1.2


@pytest.mark.parametrize("family", ["bert", "vit"])
@pytest.mark.parametrize("phase", PHASES)
def test_a_model_without_a_cache_is_refused(phase: Phase, family: str, tmp_path: Path) -> None:
    model = build(family)
    for ask in (
        lambda: export_onnx(model, tmp_path / "model.onnx", phase=phase),
        lambda: make_workload_inputs(model, Workload.parse(str(phase))),
    ):
        with pytest.raises(ExportError, match=f"has no phase {phase}.*use forward"):
            ask()


def test_a_decoder_without_a_head_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"LlamaModel has no phase decode.*use forward"):
        export_onnx(build("llama").base_model, tmp_path / "model.onnx", phase=Phase.DECODE)


@pytest.mark.parametrize("phase", PHASES)
def test_a_file_of_another_model_is_found_out(phase: Phase, exported) -> None:
    path = exported(QUICK).paths[phase]
    with pytest.raises(ExportError, match="differs from the model"):
        check_parity(build(QUICK, seed=5), path, phase)


def test_a_file_that_forgets_what_it_was_given_is_found_out(exported, tmp_path: Path) -> None:
    parent = exported(QUICK)
    proto = onnx.load(str(parent.paths[Phase.DECODE]))
    for node in proto.graph.node:  # layer 3 keeps its past keys but not the new one in their place
        for index, name in enumerate(node.input):
            if node.op_type == "Concat" and name == "past.3.key":
                node.input[index] = "past.3.value"
    onnx.save(proto, str(tmp_path / "decode.onnx"))
    with pytest.raises(ExportError, match="differs from the model"):
        check_parity(parent.model, tmp_path / "decode.onnx", Phase.DECODE)


def test_the_parent_is_kept_once_per_phase_with_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def export(model, path: Path, check, phase: Phase, traced, dtype) -> tuple[int, str]:
        asked.append(phase)
        path.write_text(phase)
        path.with_name(f"{path.name}.data").write_text("weights")  # as for a model too large for one file
        return ONNX_RUNTIME_OPSET, ""

    monkeypatch.setattr("nas.export.exporters.export_for_onnx_runtime", export)
    parent = SimpleNamespace(model=None, cache=tmp_path / "digest")
    for _ in range(2):
        paths = {phase: ParentExport(parent, Silent(), phase).path for phase in Phase}
    assert asked == list(Phase)
    assert [path.read_text() for path in paths.values()] == list(Phase)
    assert ParentExport(parent, Silent()).path == paths[Phase.FORWARD]
    beside = {f"{path.name}.data" for path in paths.values()}
    assert {file.name for file in parent.cache.iterdir()} == beside | {path.name for path in paths.values()}

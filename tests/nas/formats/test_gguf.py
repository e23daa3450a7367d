"""GGUF files, read back and computed by hand as llama.cpp does: neighbours rotate together, parts by arrays."""

from pathlib import Path

import pytest
import torch
from byte_tokenizer import byte_tokenizer
from deployed_format import write_source
from families import build
from llama_by_hand import attend, gate, norm

from nas.formats.gguf import FILE, GgufFormat
from nas.formats.source import Source
from nas.progress import Silent
from pruning.surgery.prune import prune
from search_spaces import Architecture, Choice

gguf = pytest.importorskip("gguf", reason="files for llama.cpp need nas[gguf]")
IDS = torch.arange(8, 20)
NAMES = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
         "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
         "mlp.down_proj": "ffn_down"}  # fmt: skip


def export(source: Source, folder: Path):
    folder.mkdir()
    GgufFormat().export(source, folder, Silent())
    return gguf.GGUFReader(folder / FILE)


def read_field(reader, name: str):
    (architecture,) = [reader.fields["general.architecture"].contents()]
    return reader.fields[f"{architecture}.{name}"].contents()


def halve(matrix: torch.Tensor, size: int) -> torch.Tensor:
    """Rows of neighbours (0, 1), (2, 3) … as rows of halves."""
    order = [*range(0, size, 2), *range(1, size, 2)]
    return matrix.view(-1, size, matrix.shape[1])[:, order].reshape(matrix.shape)


def run_by_hand(reader) -> torch.Tensor:
    tensors = {each.name: torch.tensor(gguf.quants.dequantize(each.data, each.tensor_type)) for each in reader.tensors}
    blocks, size = read_field(reader, "block_count"), read_field(reader, "attention.key_length")
    epsilon, theta = (read_field(reader, name) for name in ("attention.layer_norm_rms_epsilon", "rope.freq_base"))
    heads, groups, widths = (
        value if isinstance(value, list) else [value] * blocks
        for value in (read_field(reader, name) for name in
                      ("attention.head_count", "attention.head_count_kv", "feed_forward_length"))
    )  # fmt: skip
    stream = tensors["token_embd.weight"][IDS]
    for at in range(blocks):
        weights = {f"{ours}.weight": tensors.get(f"blk.{at}.{theirs}.weight") for ours, theirs in NAMES.items()}
        if heads[at]:
            for name in ("q", "k"):
                key = f"self_attn.{name}_proj.weight"
                weights[key] = halve(weights[key], size)
            given = norm(stream, tensors[f"blk.{at}.attn_norm.weight"], epsilon)
            stream = stream + attend(given, weights, heads[at], heads[at] // groups[at], theta)
        assert len(weights["mlp.gate_proj.weight"]) == widths[at] > 0
        stream = stream + gate(norm(stream, tensors[f"blk.{at}.ffn_norm.weight"], epsilon), weights)
    return norm(stream, tensors["output_norm.weight"], epsilon) @ tensors["output.weight"].T


@pytest.mark.parametrize(
    ("architecture", "kind"),
    [
        (Architecture.from_words("attn+mlp removed attn+mlp attn+mlp"), "llama"),
        (Architecture.from_words("attn+mlp mlp attn+mlp attn"), "deci"),
        (Architecture(4).drop(Choice.parse("mlp.1:width=0.5")), "deci"),
    ],
    ids=lambda value: getattr(value, "words", value),
)
@torch.no_grad()
def test_a_file_holds_the_model(architecture: Architecture, kind: str, tmp_path: Path) -> None:
    source = write_source(tmp_path / "model", architecture=architecture)
    reader = export(source, tmp_path / "gguf")
    assert reader.fields["general.architecture"].contents() == kind
    assert torch.allclose(run_by_hand(reader), source.model(input_ids=IDS[None]).logits[0], atol=1e-4)


@torch.no_grad()
def test_heads_may_be_fewer_in_one_block(tmp_path: Path) -> None:
    source = write_source(tmp_path / "model", architecture=Architecture(4).drop(Choice.parse("attention.2:heads=0.5")))
    reader = export(source, tmp_path / "gguf")
    assert read_field(reader, "attention.head_count") == [4, 4, 2, 4]
    assert read_field(reader, "attention.head_count_kv") == [2, 2, 1, 2]
    assert torch.allclose(run_by_hand(reader), source.model(input_ids=IDS[None]).logits[0], atol=1e-4)


@torch.no_grad()
def test_weights_of_few_bits_stay_few(tmp_path: Path) -> None:
    levels = ("mlp.1:bits=w4", "attention.2:bits=w8", "head:bits=w8")
    source = write_source(tmp_path / "model", architecture=Architecture(4).drop(*map(Choice.parse, levels)))
    reader = export(source, tmp_path / "gguf")
    types = {each.name: each.tensor_type.name for each in reader.tensors}
    few = {name: kind for name, kind in types.items() if kind != "F32"}
    wanted = {f"blk.1.ffn_{name}.weight": "Q4_0" for name in ("gate", "up", "down")}
    wanted |= {f"blk.2.attn_{name}.weight": "Q8_0" for name in ("q", "k", "v", "output")}
    assert few == wanted | {"output.weight": "Q8_0"}
    assert read_field(reader, "feed_forward_length") == [48, 64, 48, 48]  # 64: rows of whole blocks
    expected = source.model(input_ids=IDS[None]).logits[0]  # whose inputs are rounded, too
    assert float((run_by_hand(reader) - expected).abs().max()) < 3e-2 * float(expected.abs().max())


@pytest.mark.parametrize(
    ("choice", "words"),
    [("mlp.1:bits=int8", "not known"), ("mlp.1:form=linear", "not known"), ("head:bits=w2", "not known")],
)
def test_levels_that_llama_cpp_has_not_are_refused(choice: str, words: str) -> None:
    pruned = prune(build("llama"), Architecture(4).drop(Choice.parse(choice)))
    refusal = GgufFormat().find_refusal(Source(pruned, Path(), plain=False))
    assert refusal is not None
    assert words in refusal.reason
    assert refusal.nearest == Architecture(4)


def test_a_tokenizer_is_written_where_llama_cpp_has_its_kind(tmp_path: Path) -> None:
    source = write_source(tmp_path / "model")
    assert export(source, tmp_path / "without").fields["tokenizer.ggml.model"].contents() == "no_vocab"
    byte_tokenizer(source.folder)
    with pytest.raises(Exception, match="resize the model first"):  # 259 words, and a model of 96
        export(source, tmp_path / "larger")


@pytest.mark.slow
def test_llama_cpp_gives_what_the_model_gives(tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp", reason="needs llama-cpp-python")
    source = write_source(tmp_path / "model", architecture=Architecture.from_words("attn+mlp mlp attn removed"))
    from nas.formats.deliver import write_checked

    assert write_checked(GgufFormat(), source, tmp_path / "gguf", Silent()).same_tokens > 0

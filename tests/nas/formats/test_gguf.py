"""GGUF files, read back and computed by hand as llama.cpp does: neighbours rotate together, parts by arrays."""

from pathlib import Path

import pytest
import torch
from byte_tokenizer import byte_tokenizer
from deployed_format import write_source
from llama_by_hand import attend, gate, norm

from nas.formats.gguf import FILE, GgufFormat
from nas.formats.source import Source
from nas.progress import Silent
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
    tensors = {each.name: torch.tensor(each.data.copy()) for each in reader.tensors}
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

"""`gguf`: one file for llama.cpp, of its architecture `llama` where all blocks are alike, else of `deci`.

`deci` has the number of heads and the width of each block in arrays. llama.cpp gives wrong logits, in silence, where an
attention has no MLP beside it, so such a block gets an MLP of zeros. Weights have the bits that the search gave them,
else float32; `llama-quantize` makes other types of it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nas.export.companions import carry_companions
from nas.formats.format import Answers, FormatBase, NotRun, Probe, Refusal
from nas.formats.gguf_types import BLOCK, TYPES, add_tensor, check_written, choose_file_type
from nas.formats.llama_layout import LlamaBlock, find_llama_refusal, pad_mlp, read_llama_blocks
from nas.formats.parity import answer, build_probe
from nas.formats.source import Source
from nas.progress import Progress
from pruning.anatomy.language_model import find_language_config
from pruning.surgery.quantised_linear import QuantisedLinear
from search_spaces.errors import ExportError
from search_spaces.unit import Choice, find_kind
from search_spaces.weight_formats import WeightFormat

FILE = "model.gguf"
_PLAIN, _UNEVEN = "llama", "deci"  # architectures of llama.cpp
_BITS = "bits"
_NO_WORDS = "no_vocab"  # a file of ids only
_ATTENTION = {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output"}
_MLP = {"gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down"}
_CONTEXT = 128  # tokens that are made room for when the file is checked


@dataclass(frozen=True)
class GgufFormat(FormatBase):
    """`model.gguf`, with the tokenizer in it where llama.cpp has its kind."""

    name: str = "gguf"
    needs: Mapping[str, str] = field(default_factory=lambda: {"gguf": "pip install 'nas[gguf]'"})

    def find_refusal(self, source: Source) -> Refusal | None:
        """What is not of Llama's maths, a first block without an attention, and blocks that rows are no multiple of."""
        return find_llama_refusal(source, _takes) or _refuse_rows(source)

    def export(self, source: Source, folder: Path, progress: Progress) -> None:
        """Write the file."""
        import gguf

        hidden = source.model.config.hidden_size
        blocks = list(read_llama_blocks(source.model))
        filled = [_fill_mlp(block, hidden) for block in blocks]
        alike = _are_alike(blocks) and _are_alike(filled)
        tensors, formats = _list_tensors(source.model, filled), _list_formats(source.model, filled)
        writer = gguf.GGUFWriter(str(folder / FILE), _PLAIN if alike else _UNEVEN)
        _add_sizes(writer, source.model, filled, alike)
        writer.add_file_type(choose_file_type(tensors, formats))
        if formats:
            writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        _add_tokenizer(writer, source)
        for name, tensor in tensors.items():
            add_tensor(writer, name, tensor, formats.get(name))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        check_written(folder / FILE, tensors, formats)
        carry_companions(source.model, source.folder, folder)

    def build_probe(self, source: Source) -> Probe:
        """The shared one."""
        return build_probe(source.model)

    def ask(self, source: Source, folder: Path, probe: Probe) -> Answers | NotRun:
        """What llama.cpp answers, where its Python package is installed."""
        if find_spec("llama_cpp") is None:
            return NotRun("not run: llama-cpp-python is not installed here; all tensors were read back and compared")
        import llama_cpp

        words = "" if _has_known_words(source.folder) else "token ids only: llama.cpp has no tokenizer of this kind"
        note = "; ".join(filter(None, ["keys and values in float32", words]))
        return answer(f"llama.cpp ({llama_cpp.__version__})", lambda: _Loaded(folder / FILE), probe, note)


def _takes(choice: Choice) -> bool:
    """Whether a level is known there: fewer neurons, fewer heads, or one of two formats."""
    axes = dict(choice.level.axes)
    bits = axes.pop(_BITS, None)
    known = bits is None or find_kind(choice.kind, _BITS).describe(bits) in TYPES
    return known and axes.keys() <= {"width", "heads"}


def _refuse_rows(source: Source) -> Refusal | None:
    """Where a row of a matrix of few bits is no whole number of blocks; neurons that are missing are added."""
    for name, module in source.model.named_modules():
        if not isinstance(module, QuantisedLinear) or name.endswith("down_proj"):
            continue
        length, format = module.weight.shape[1], module.format.name
        if length % BLOCK:
            return Refusal(f"{name} has rows of {length} weights in {format}; there it takes a multiple of {BLOCK}")
    return None


def _are_alike(blocks: list[LlamaBlock]) -> bool:
    """Whether every block has both parts, of one width and one number of heads."""
    sizes = {(block.width, *(len(block.attention.get(name, ())) for name in ("q_proj", "k_proj"))) for block in blocks}
    return len(sizes) == 1 and all(next(iter(sizes)))


def _fill_mlp(block: LlamaBlock, hidden: int) -> LlamaBlock:
    """A block with an MLP of zeros where it has none, and with zeros up to whole blocks where it has few bits."""
    if not block.mlp:
        norms = block.norms | {"post_attention_layernorm": torch.ones(hidden)}
        return replace(block, mlp=pad_mlp({}, hidden), norms=norms)
    return replace(block, mlp=pad_mlp(block.mlp, hidden, BLOCK)) if "down_proj" in block.formats else block


def _add_sizes(writer: Any, model: Any, blocks: list[LlamaBlock], alike: bool) -> None:
    config = find_language_config(model)
    size = config.head_dim
    heads, kv_heads = zip(*(block.count_heads(size) for block in blocks), strict=True)
    widths = [block.width for block in blocks]
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(len(blocks))
    writer.add_head_count(heads[0] if alike else list(heads))
    writer.add_head_count_kv(kv_heads[0] if alike else list(kv_heads))
    writer.add_feed_forward_length(widths[0] if alike else widths)
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(size)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)


def _list_tensors(model: Any, blocks: list[LlamaBlock]) -> dict[str, Tensor]:
    """Every tensor by llama.cpp's name."""
    size = find_language_config(model).head_dim
    tensors = {
        "token_embd.weight": model.model.embed_tokens.weight, "output_norm.weight": model.model.norm.weight,
        "output.weight": model.lm_head.weight,
    }  # fmt: skip
    for at, block in enumerate(blocks):
        own = {_ATTENTION[name]: matrix for name, matrix in block.attention.items()}
        for name in ("attn_q", "attn_k"):
            if name in own:
                own[name] = _interleave(own[name], size)
        own |= {_MLP[name]: matrix for name, matrix in block.mlp.items()}
        own["ffn_norm"] = block.norms["post_attention_layernorm"]
        if block.attention:
            own["attn_norm"] = block.norms["input_layernorm"]
        tensors |= {f"blk.{at}.{name}.weight": tensor for name, tensor in own.items()}
    return {name: tensor.detach().float().contiguous() for name, tensor in tensors.items()}


def _list_formats(model: Any, blocks: list[LlamaBlock]) -> dict[str, WeightFormat]:
    """The formats of few bits, by llama.cpp's name of the tensor."""
    names = _ATTENTION | _MLP
    formats = {
        f"blk.{at}.{names[name]}.weight": format for at, block in enumerate(blocks)
        for name, format in block.formats.items()
    }  # fmt: skip
    if isinstance(model.lm_head, QuantisedLinear):
        formats["output.weight"] = model.lm_head.format
    return formats


def _interleave(matrix: Tensor, size: int) -> Tensor:
    """Rows of queries or keys so that the two that are rotated together are neighbours, as llama.cpp takes them."""
    rows, columns = matrix.shape
    return matrix.view(rows // size, 2, size // 2, columns).transpose(1, 2).reshape(rows, columns)


def _read_tokenizer(folder: Path) -> dict[str, Any]:
    """`tokenizer.json`; empty where there is none."""
    path = folder / "tokenizer.json"
    return dict(json.loads(path.read_text())) if path.is_file() else {}


def _has_known_words(folder: Path) -> bool:
    """Whether a folder has a tokenizer of pairs of bytes that splits texts as GPT-2's does: any other would be
    taken for it in silence."""
    document = _read_tokenizer(folder)
    splits = document.get("pre_tokenizer") or {}
    is_bytes = splits.get("type") == "ByteLevel" and splits.get("use_regex") and not splits.get("add_prefix_space")
    return bool(is_bytes and document["model"]["type"] == "BPE" and not document.get("normalizer"))


def _add_tokenizer(writer: Any, source: Source) -> None:
    import gguf

    settings, count = source.model.generation_config, find_language_config(source.model).vocab_size
    if not _has_known_words(source.folder):
        writer.add_tokenizer_model(_NO_WORDS)
        return
    document = _read_tokenizer(source.folder)
    words = {at: word for word, at in document["model"]["vocab"].items()}
    types = dict.fromkeys(words, gguf.TokenType.NORMAL)
    for added in document["added_tokens"]:
        words[added["id"]] = added["content"]
        types[added["id"]] = gguf.TokenType.CONTROL if added["special"] else gguf.TokenType.USER_DEFINED
    if max(words) >= count:
        raise ExportError(f"the tokenizer has {max(words) + 1} words and the model {count}; resize the model first")
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in document["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([words.get(at, f"[unused {at}]") for at in range(count)])
    writer.add_token_types([types.get(at, gguf.TokenType.UNUSED) for at in range(count)])
    writer.add_token_merges(merges)
    writer.add_add_bos_token(False)
    end = settings.eos_token_id[0] if isinstance(settings.eos_token_id, list) else settings.eos_token_id
    named = ((writer.add_bos_token_id, settings.bos_token_id), (writer.add_eos_token_id, end),
             (writer.add_pad_token_id, settings.pad_token_id))  # fmt: skip
    for add, token in named:
        if token is not None:
            add(token)


class _Loaded:
    """A file in llama.cpp."""

    def __init__(self, path: Path) -> None:
        """Load it."""
        import llama_cpp

        exact = llama_cpp.GGML_TYPE_F32
        self._model = llama_cpp.Llama(
            str(path), n_ctx=_CONTEXT, logits_all=True, verbose=False, type_k=exact, type_v=exact, flash_attn=False
        )

    def run(self, inputs: Mapping[str, Any]) -> np.ndarray:
        """(batch, tokens, vocabulary), one row after another."""
        return np.stack([self._read(row.tolist()) for row in inputs["input_ids"]])

    def step(self, prompt: Tensor) -> np.ndarray:
        """The prompt but for its last token is read, then that one."""
        self._read(prompt[0, :-1].tolist())
        return self._continue(int(prompt[0, -1]))

    def generate(self, prompt: Tensor, count: int, stop: tuple[int, ...]) -> list[int]:
        """One token after another."""
        tokens = [int(self._read(prompt[0].tolist())[-1].argmax())]
        while len(tokens) < count and tokens[-1] not in stop:
            tokens.append(int(self._continue(tokens[-1]).argmax()))
        return tokens

    def _read(self, tokens: list[int]) -> np.ndarray:
        self._model.reset()
        self._model.eval(tokens)
        return np.array(self._model.scores[: len(tokens)])

    def _continue(self, token: int) -> np.ndarray:
        self._model.eval([token])
        return np.array(self._model.scores[self._model.n_tokens - 1])

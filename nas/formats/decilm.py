"""`decilm`: a folder of model type nemotron-nas, whose `block_configs` say block by block what there is.

vLLM, TensorRT-LLM, SGLang and mlx-lm read such folders. None of them runs here: the fields, the widths that they derive
and the names of the weights are checked, and the report says that nothing was run.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file

from nas.export.companions import carry_companions
from nas.formats.format import Answers, FormatBase, NotRun, Probe, Refusal
from nas.formats.llama_layout import LlamaBlock, convert_to_stored, find_llama_refusal, pad_mlp, read_llama_blocks
from nas.formats.parity import build_probe
from nas.formats.source import Source
from nas.progress import Progress
from pruning.anatomy.language_model import find_language_config
from search_spaces.errors import ExportError

_ATTENTION: dict[str, type] = {
    "n_heads_in_group": int, "no_op": bool, "replace_with_linear": bool, "sparsify": type(None),
    "window_length": type(None), "num_sink_tokens": type(None), "unshifted_sink": bool,
    "use_prefill_window_in_sink_attention": bool,
}  # fmt: skip
_FFN: dict[str, type] = {"ffn_mult": float, "no_op": bool, "replace_with_linear": bool, "sparsify": type(None)}
_SIZES = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings", "vocab_size", "rms_norm_eps",
)  # fmt: skip
_CODE = "configuration_decilm.py"
_WIDTH_STEP = 256
_CONFIG_CODE = '''"""The config of a nemotron-nas model, whose `block_configs` engines read by attribute."""

from types import SimpleNamespace

from transformers import PretrainedConfig


class DeciLMConfig(PretrainedConfig):
    model_type = "nemotron-nas"
    keys_to_ignore_at_inference = ["past_key_values"]

    def __init__(self, block_configs=None, **kwargs):
        super().__init__(**kwargs)
        self.block_configs = [
            SimpleNamespace(**{part: SimpleNamespace(**settings) for part, settings in block.items()})
            for block in block_configs or []
        ]

    def to_dict(self):
        blocks, self.block_configs = self.block_configs, []
        document = super().to_dict()
        self.block_configs = blocks
        document["block_configs"] = [{part: vars(value).copy() for part, value in vars(b).items()} for b in blocks]
        return document
'''


@dataclass(frozen=True)
class DeciLmFormat(FormatBase):
    """Config with its code, weights under Llama's names without those of dropped parts, tokenizer."""

    name: str = "decilm"

    def find_refusal(self, source: Source) -> Refusal | None:
        """What is not of Llama's maths, and a first block without an attention."""
        return find_llama_refusal(source)

    def export(self, source: Source, folder: Path, progress: Progress) -> None:
        """Write the folder."""
        blocks = list(read_llama_blocks(source.model))
        config = _build_config(source.model, blocks)
        model = source.model.model
        weights = {"model.embed_tokens.weight": model.embed_tokens.weight, "model.norm.weight": model.norm.weight}
        if not config["tie_word_embeddings"]:
            weights["lm_head.weight"] = source.model.lm_head.weight
        for at, block in enumerate(blocks):
            own = {f"self_attn.{name}": matrix for name, matrix in block.attention.items()}
            padded = pad_mlp(block.mlp, config["hidden_size"]) if block.mlp else {}
            own |= {f"mlp.{name}": matrix for name, matrix in padded.items()} | block.norms
            weights |= {f"model.layers.{at}.{name}.weight": tensor for name, tensor in own.items()}
        stored = {name: convert_to_stored(source, tensor.detach()) for name, tensor in weights.items()}
        config["torch_dtype"] = str(stored["model.embed_tokens.weight"].dtype).removeprefix("torch.")
        save_file(stored, folder / "model.safetensors", {"format": "pt"})
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        (folder / _CODE).write_text(_CONFIG_CODE)
        carry_companions(source.model, source.folder, folder)

    def build_probe(self, source: Source) -> Probe:
        """The shared one."""
        return build_probe(source.model)

    def ask(self, source: Source, folder: Path, probe: Probe) -> Answers | NotRun:
        """Nothing runs it here; its fields and weights are checked."""
        check_schema(folder)
        return NotRun("not run: no engine that reads it is here; fields, widths and names of weights were checked")


def _build_config(model: Any, blocks: list[LlamaBlock]) -> dict[str, Any]:
    config, settings = find_language_config(model), model.generation_config
    tied = model.lm_head.weight is model.model.embed_tokens.weight
    return {
        "architectures": ["DeciLMForCausalLM"],
        "auto_map": {"AutoConfig": f"{_CODE.removesuffix('.py')}.DeciLMConfig"},
        "model_type": "nemotron-nas",
        "hidden_size": config.hidden_size, "num_hidden_layers": len(blocks),
        "num_attention_heads": config.num_attention_heads, "num_key_value_heads": None, "intermediate_size": None,
        "hidden_act": config.hidden_act, "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_parameters["rope_theta"], "rope_scaling": None,
        "max_position_embeddings": config.max_position_embeddings, "vocab_size": config.vocab_size,
        "tie_word_embeddings": tied, "attention_bias": False, "mlp_bias": False,
        "bos_token_id": settings.bos_token_id, "eos_token_id": settings.eos_token_id,
        "pad_token_id": settings.pad_token_id,
        "block_configs": [_describe_block(block, config) for block in blocks],
    }  # fmt: skip


def _describe_block(block: LlamaBlock, config: Any) -> dict[str, Any]:
    heads, kv_heads = block.count_heads(config.head_dim)
    width = block.width + -block.width % _WIDTH_STEP
    attention = {
        "n_heads_in_group": heads // kv_heads if heads else None, "no_op": not heads, "replace_with_linear": False,
        "sparsify": None, "window_length": None, "num_sink_tokens": None, "unshifted_sink": False,
        "use_prefill_window_in_sink_attention": False,
    }  # fmt: skip
    mult = 3 * width / (2 * config.hidden_size) if width else None
    return {
        "attention": attention,
        "ffn": {"ffn_mult": mult, "no_op": not width, "replace_with_linear": False, "sparsify": None},
    }


def compute_width(mult: float, hidden: int) -> int:
    """The neurons that engines derive from `ffn_mult`: two thirds of so many times the stream, up to a multiple of
    256."""
    neurons = int(2 * mult * hidden / 3)
    return neurons + -neurons % _WIDTH_STEP


def check_schema(folder: Path) -> None:
    """Compare a folder field by field with what engines read.

    Raises:
        ExportError: a field is missing or of another type, or a weight is missing, left over or of another shape.
    """
    config = json.loads((folder / "config.json").read_text())
    if config.get("architectures") != ["DeciLMForCausalLM"] or config.get("model_type") != "nemotron-nas":
        raise ExportError("config.json is of another architecture or model type than nemotron-nas")
    for name in _SIZES:
        if not isinstance(config.get(name), (int, float)):
            raise ExportError(f"config.json: {name} is {config.get(name)!r}, no number")
    if len(config["block_configs"]) != config["num_hidden_layers"]:
        raise ExportError("config.json: block_configs are not as many as num_hidden_layers")
    for at, block in enumerate(config["block_configs"]):
        for part, fields in (("attention", _ATTENTION), ("ffn", _FFN)):
            _check_part(f"block_configs[{at}].{part}", block[part], fields)
    with safe_open(str(folder / "model.safetensors"), "pt") as file:
        found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    expected = _list_shapes(config)
    wrong = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
    if wrong:
        name = wrong[0]
        raise ExportError(f"{name} is {found.get(name)} in the file and {expected.get(name)} by the config")


def _check_part(place: str, given: dict[str, Any], fields: dict[str, type]) -> None:
    if given.keys() != fields.keys():
        raise ExportError(f"{place} has the fields {', '.join(sorted(given))}, not {', '.join(sorted(fields))}")
    size = next(iter(fields))  # of what is not there, it is null
    for name, wanted in fields.items():
        expected = type(None) if name == size and given["no_op"] else wanted
        if type(given[name]) is not expected:
            raise ExportError(f"{place}.{name} is {given[name]!r}, not of type {expected.__name__}")


def _list_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """The weights that an engine looks for, and their shapes."""
    hidden = config["hidden_size"]
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config["vocab_size"], hidden), "model.norm.weight": (hidden,),
    }  # fmt: skip
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (config["vocab_size"], hidden)
    for at, block in enumerate(config["block_configs"]):
        prefix = f"model.layers.{at}"
        if not block["attention"]["no_op"]:
            keys = hidden // block["attention"]["n_heads_in_group"]
            shapes[f"{prefix}.input_layernorm.weight"] = (hidden,)
            sizes = {"q": (hidden, hidden), "k": (keys, hidden), "v": (keys, hidden), "o": (hidden, hidden)}
            shapes |= {f"{prefix}.self_attn.{name}_proj.weight": shape for name, shape in sizes.items()}
        if not block["ffn"]["no_op"]:
            width = compute_width(block["ffn"]["ffn_mult"], hidden)
            shapes[f"{prefix}.post_attention_layernorm.weight"] = (hidden,)
            sizes = {"gate": (width, hidden), "up": (width, hidden), "down": (hidden, width)}
            shapes |= {f"{prefix}.mlp.{name}_proj.weight": shape for name, shape in sizes.items()}
    return shapes

"""Parents as they are found: heads of their own, other precisions, classes unnamed, weights left over or quantised."""

import itertools
import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from families import build, example, filled, mark_rest_slow
from safetensors.torch import load_file, save_file
from torch import nn

from pruning.checkpoint import load, load_parent, save
from pruning.inference.widening import copy_in_float32
from pruning.surgery.prune import prune
from search_spaces import Architecture
from search_spaces.errors import ArchitectureError, ModelError, UnusedWeights

PARTS = Architecture.from_words("mlp removed attn attn+mlp")
BLOCKS = Architecture.from_words("attn+mlp removed attn+mlp attn+mlp")
ROBERTA = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 48,
           "vocab_size": 96, "max_position_embeddings": 66, "pad_token_id": 1, "type_vocab_size": 1}  # fmt: skip


def outputs(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(**example(model))[0]


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    document = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in document.items() if value is not ...}))


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def dtypes(folder: Path) -> dict[str, torch.dtype]:
    return {name: t.dtype for path in folder.glob("*.safetensors") for name, t in load_file(path).items()}


# Heads that the config says are tied.


@pytest.mark.parametrize("architecture", [PARTS, BLOCKS])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "llava"])
def test_a_head_of_its_own_stays_one_though_the_config_ties_it(
    family: str, architecture: Architecture, tmp_path: Path
) -> None:
    original = build(family)
    original.get_output_embeddings().weight = nn.Parameter(torch.randn(96, 32) * 0.12)
    original.config.tie_word_embeddings = False
    original.save_pretrained(tmp_path / "parent")
    edit(tmp_path / "parent", tie_word_embeddings=True)
    parent = load_parent(tmp_path / "parent")
    assert torch.equal(outputs(parent), outputs(original))
    assert torch.equal(outputs(load(tmp_path / "parent")), outputs(original))
    pruned = prune(parent, architecture)
    save(pruned, tmp_path / "once")
    again = load(tmp_path / "once")
    assert torch.equal(outputs(again), outputs(pruned))
    again.tie_weights()  # as resizing its embeddings would
    assert torch.equal(outputs(again), outputs(pruned))
    assert json.loads((tmp_path / "once" / "config.json").read_text())["tie_word_embeddings"] is False


@pytest.mark.parametrize("architecture", [PARTS, BLOCKS])
def test_a_head_that_is_tied_in_part_comes_back_so(architecture: Architecture, tmp_path: Path) -> None:
    original = build("bert")
    original.cls.predictions.decoder.weight = nn.Parameter(torch.randn(96, 32) * 0.12)
    assert original.cls.predictions.decoder.bias is original.cls.predictions.bias
    original.all_tied_weights_keys.pop("cls.predictions.decoder.weight")
    original.save_pretrained(tmp_path / "parent")
    parent = load_parent(tmp_path / "parent")
    assert torch.equal(outputs(parent), outputs(original))
    pruned = prune(parent, architecture)
    save(pruned, tmp_path / "once")
    again = load(tmp_path / "once")
    assert torch.equal(outputs(again), outputs(pruned))
    assert again.cls.predictions.decoder.bias is again.cls.predictions.bias


@pytest.mark.parametrize("architecture", [PARTS, BLOCKS])
def test_a_head_that_is_tied_against_the_config_comes_back_with_its_weights(
    architecture: Architecture, tmp_path: Path
) -> None:
    parent = build("llama")
    parent.lm_head.weight = parent.model.embed_tokens.weight
    pruned = prune(parent, architecture)
    save(pruned, tmp_path)
    assert torch.equal(outputs(load(tmp_path)), outputs(pruned))


@pytest.mark.parametrize("architecture", [PARTS, BLOCKS])
@pytest.mark.parametrize(
    "make",
    [
        lambda: transformers.XLMRobertaForMaskedLM(transformers.XLMRobertaConfig(**ROBERTA)),
        lambda: transformers.CamembertForMaskedLM(transformers.CamembertConfig(**ROBERTA)),
        lambda: transformers.XLMRobertaForCausalLM(transformers.XLMRobertaConfig(**ROBERTA, is_decoder=True)),
    ],
)
def test_a_head_that_stands_before_its_trunk_comes_back(
    make: Callable[[], Any], architecture: Architecture, tmp_path: Path
) -> None:
    filled(make).save_pretrained(tmp_path / "parent")
    parent = load_parent(tmp_path / "parent")
    pruned = prune(parent, architecture)
    save(pruned, tmp_path / "once")
    assert torch.equal(outputs(load(tmp_path / "once")), outputs(pruned))
    size = sum(tensor.nbytes for tensor in load_file(tmp_path / "once" / "model.safetensors").values())
    assert size == 4 * pruned.num_parameters()  # the tied matrix is there once


# What no folder would give back.


def _scale_an_attention(model: Any) -> None:
    model.model.layers[0].self_attn.scaling *= 2


def _turn_positions(model: Any) -> None:
    model.model.rotary_emb.inv_freq.mul_(2)  # a buffer that is not saved


@pytest.mark.parametrize("words", ["attn removed mlp attn+mlp", "attn+mlp removed attn+mlp attn+mlp"])
@pytest.mark.parametrize(
    ("change", "says"), [(_scale_an_attention, r"layers\.0\.self_attn"), (_turn_positions, "outputs are off by")]
)
def test_what_would_come_back_as_another_model_is_not_saved(
    change: Callable[[Any], None], says: str, words: str, tmp_path: Path
) -> None:
    pruned = prune(build("llama"), Architecture.from_words(words))
    change(pruned)
    with pytest.raises(ArchitectureError, match=says) as caught:
        save(pruned, tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelError):
        load(tmp_path)


def test_few_positions_are_enough_to_compare(tmp_path: Path) -> None:
    sizes = {**ROBERTA, "max_position_embeddings": 16}
    model = filled(lambda: transformers.RobertaForMaskedLM(transformers.RobertaConfig(**sizes)))
    save(prune(model, PARTS), tmp_path)
    assert load(tmp_path).num_parameters()


# Precisions.


STORED = itertools.product(["auto", "float32", ...], [torch.bfloat16, torch.float16, torch.float32], [PARTS, BLOCKS])
STORED_FAST = [
    ("auto", torch.bfloat16, PARTS),
    ("auto", torch.float32, BLOCKS),
    ("float32", torch.float16, PARTS),
    ("float32", torch.bfloat16, BLOCKS),
    (..., torch.bfloat16, BLOCKS),
    (..., torch.float32, PARTS),
]


@pytest.mark.parametrize(("named", "dtype", "architecture"), mark_rest_slow(STORED, STORED_FAST))
def test_what_is_cut_from_a_parent_is_stored_as_the_parent_is(
    architecture: Architecture, dtype: torch.dtype, named: Any, tmp_path: Path
) -> None:
    original = build("llama").to(dtype)
    original.save_pretrained(tmp_path / "parent", max_shard_size="20KB")
    edit(tmp_path / "parent", dtype=named)
    parent = load_parent(tmp_path / "parent")
    assert outputs(parent).dtype == torch.float32
    pruned = prune(parent, architecture)
    save(pruned, tmp_path / "once")
    assert set(dtypes(tmp_path / "once").values()) == {dtype}
    assert load(tmp_path / "once").dtype == dtype
    assert torch.equal(outputs(load(tmp_path / "once", dtype=torch.float32)), outputs(pruned))


@pytest.mark.parametrize("architecture", [PARTS, BLOCKS])
def test_weights_that_are_stored_wider_than_the_rest_stay_so(architecture: Architecture, tmp_path: Path) -> None:
    build("llama").to(torch.bfloat16).save_pretrained(tmp_path / "parent")
    torch.manual_seed(0)
    rewrite(
        tmp_path / "parent",
        lambda weights: {name: torch.rand(32) + 0.5 if "norm" in name else t for name, t in weights.items()},
    )
    pruned = prune(load_parent(tmp_path / "parent"), architecture)
    save(pruned, tmp_path / "once")
    for name, dtype in dtypes(tmp_path / "once").items():
        assert dtype == (torch.float32 if "norm" in name else torch.bfloat16)
    assert torch.equal(outputs(load(tmp_path / "once", dtype=torch.float32)), outputs(pruned))


def test_every_config_within_a_config_names_the_dtype(tmp_path: Path) -> None:
    build("llava").to(torch.bfloat16).save_pretrained(tmp_path / "parent")
    save(prune(load_parent(tmp_path / "parent"), PARTS), tmp_path / "once")
    document = json.loads((tmp_path / "once" / "config.json").read_text())
    named = {document["dtype"], document["text_config"]["dtype"], document["vision_config"]["dtype"]}
    assert named == {"bfloat16"}
    assert set(dtypes(tmp_path / "once").values()) == {torch.bfloat16}


def test_what_was_trained_since_loses_nothing(tmp_path: Path) -> None:
    build("llama").to(torch.bfloat16).save_pretrained(tmp_path / "parent")
    pruned = prune(copy_in_float32(load_parent(tmp_path / "parent")), PARTS)
    with torch.no_grad():
        for parameter in pruned.parameters():
            parameter.mul_(1.001)
    save(pruned, tmp_path / "once")
    assert torch.equal(outputs(load(tmp_path / "once")), outputs(pruned))


def test_an_asked_precision_is_stored(tmp_path: Path) -> None:
    build("llama").to(torch.bfloat16).save_pretrained(tmp_path / "parent")
    save(prune(load_parent(tmp_path / "parent", dtype=torch.float32), PARTS), tmp_path / "once")
    assert set(dtypes(tmp_path / "once").values()) == {torch.float32}


# Classes that are not named.


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral", "bert", "distilbert", "vit", "llava", "electra"])
@pytest.mark.parametrize("named", [..., ["NoSuchClassForCausalLM"]])
def test_a_class_that_is_not_named_is_the_one_that_the_weights_fit(family: str, named: Any, tmp_path: Path) -> None:
    original = build(family)
    original.save_pretrained(tmp_path)
    edit(tmp_path, architectures=named)
    found = load_parent(tmp_path)
    assert type(found) is type(original)
    assert torch.equal(outputs(found), outputs(original))


def test_a_tied_head_is_not_lost_either(tmp_path: Path) -> None:
    filled(lambda: transformers.LlamaForCausalLM(_tied_llama())).save_pretrained(tmp_path)
    assert "lm_head.weight" not in dtypes(tmp_path)
    edit(tmp_path, architectures=...)
    assert type(load_parent(tmp_path)) is transformers.LlamaForCausalLM


def test_weights_that_fit_a_model_with_and_without_a_head_are_refused(tmp_path: Path) -> None:
    filled(lambda: transformers.LlamaModel(_tied_llama())).save_pretrained(tmp_path)
    edit(tmp_path, architectures=...)
    with pytest.raises(ModelError, match='fit LlamaForCausalLM and LlamaModel; add "architectures"') as caught:
        load_parent(tmp_path)
    assert "\n" not in str(caught.value)


def test_weights_that_fit_nothing_are_refused(tmp_path: Path) -> None:
    build("llama").save_pretrained(tmp_path)
    edit(tmp_path, architectures=...)
    rewrite(tmp_path, lambda weights: {k: t for k, t in weights.items() if k != "model.norm.weight"})
    with pytest.raises(ModelError, match="fit none of this family"):
        load_parent(tmp_path)


def _tied_llama() -> Any:
    config = build("llama").config
    config.tie_word_embeddings = True
    return config


# Weights that the model does not use.


def test_blocks_that_the_config_does_not_count_are_refused(tmp_path: Path) -> None:
    build("llama").save_pretrained(tmp_path)
    edit(tmp_path, num_hidden_layers=3)
    with pytest.raises(ModelError, match=r"more blocks than its config counts .*model\.layers\.3\.") as caught:
        load_parent(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["model.layers.0.self_attn.q_proj.bias", "lm_head.bias", "model.layers.1.self_attn.q_proj.lora_A.weight"]
)
def test_weights_inside_the_model_that_it_has_no_place_for_are_refused(name: str, tmp_path: Path) -> None:
    build("llama").save_pretrained(tmp_path)
    rewrite(tmp_path, lambda weights: {**weights, name: torch.ones(32)})
    with pytest.raises(ModelError, match=f"no place for {name}"):
        load_parent(tmp_path)


def test_a_head_of_another_task_is_left_out_and_said(tmp_path: Path) -> None:
    original = build("bert")
    original.save_pretrained(tmp_path)
    rewrite(tmp_path, lambda weights: {**weights, "cls.seq_relationship.weight": torch.ones(2, 32)})
    with pytest.warns(UnusedWeights, match=r"1 weights that a BertForMaskedLM does not use .*cls\.seq_relationship"):
        found = load_parent(tmp_path)
    assert torch.equal(outputs(found), outputs(original))


def test_masks_of_old_checkpoints_are_no_weights(tmp_path: Path) -> None:
    original = build("gpt2")
    original.save_pretrained(tmp_path)
    masks = {"transformer.h.0.attn.bias": torch.ones(1, 1, 64, 64, dtype=torch.bool)}
    masks |= {"transformer.h.0.attn.masked_bias": torch.tensor(-1e4)}
    masks |= {"transformer.h.0.attn.rotary_emb.inv_freq": torch.ones(4)}
    rewrite(tmp_path, lambda weights: {**weights, **masks})
    with warnings.catch_warnings():
        warnings.simplefilter("error", UnusedWeights)
        assert torch.equal(outputs(load_parent(tmp_path)), outputs(original))


def test_a_weight_of_another_shape_is_named(tmp_path: Path) -> None:
    build("llama").save_pretrained(tmp_path)
    rewrite(tmp_path, lambda weights: {**weights, "lm_head.weight": torch.ones(90, 32)})
    with pytest.raises(ModelError, match=r"lm_head\.weight is 90 x 32 in its files and 96 x 32 by its config"):
        load_parent(tmp_path)


def test_weights_that_cannot_be_put_together_are_named(tmp_path: Path) -> None:
    build("mixtral").save_pretrained(tmp_path)
    expert = "model.layers.1.block_sparse_moe.experts.2.w1.weight"
    rewrite(tmp_path, lambda weights: {**weights, expert: torch.ones(7, 9)})
    with pytest.raises(ModelError, match=r"layers\.1\.mlp\.experts") as caught:
        load_parent(tmp_path)
    assert "report" not in str(caught.value)
    assert "\n" not in str(caught.value)


# Quantised ones and adapters.


@pytest.fixture(scope="module")
def plain_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    build("llama").save_pretrained(folder)
    return folder


@pytest.fixture
def llama(plain_llama: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(plain_llama, tmp_path / "model"))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "gptq, 4 bits"),
        ({"quantization_config": {"quant_method": "awq", "w_bit": 4}}, "awq, 4 bits"),
        ({"quantization_config": {"load_in_4bit": True}}, "bitsandbytes"),
        ({"quantization_config": {"quant_method": "fp8"}}, "fp8"),
        ({"quantization_config": {"quant_method": "mxfp4"}}, "mxfp4"),
        ({"quantization_config": {"quant_method": "something new"}}, "something new"),
        ({"compression_config": {"quant_method": "compressed-tensors"}}, "compressed-tensors"),
        ({"quantization": {"group_size": 64, "bits": 4}}, "an unnamed method, 4 bits"),
        ({"text_config": {"quantization_config": {"quant_method": "hqq"}}}, "hqq"),
    ],
)
def test_a_quantised_checkpoint_is_called_so(changes: dict[str, Any], says: str, llama: Path) -> None:
    edit(llama, **changes)
    with pytest.raises(ModelError, match=rf"is quantised \({says}\)") as caught:
        load_parent(llama)
    assert "\n" not in str(caught.value)


def test_an_empty_entry_says_nothing(llama: Path) -> None:
    edit(llama, quantization_config=None)
    assert load_parent(llama).num_parameters()


def test_files_of_older_tools_tell_too(llama: Path) -> None:
    (llama / "quantize_config.json").write_text(json.dumps({"bits": 8, "group_size": 128}))
    with pytest.raises(ModelError, match=r"quantised \(GPTQ, 8 bits\)"):
        load_parent(llama)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8, torch.uint8])
def test_weights_that_are_codes_tell_by_themselves(dtype: torch.dtype, llama: Path) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    rewrite(llama, lambda weights: {**weights, name: weights[name].to(dtype)})
    with pytest.raises(ModelError, match=rf"quantised \({name}"):
        load_parent(llama)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"max_position_embeddings": None}, "config cannot be read .*'max_position_embeddings'.* expected int"),
        ({"attention_dropout": "none"}, "config cannot be read .*attention_dropout"),
        ({"rope_parameters": "linear"}, "config cannot be read .*rope_parameters"),
        ({"num_key_value_heads": 0}, "cannot be loaded"),
        ({"vocab_size": 0}, "cannot be loaded"),
        ({"transformers_weights": 1}, "transformers_weights in its config.json is 1"),
    ],
)
def test_wrong_values_in_a_config_are_one_clear_line(changes: dict[str, Any], says: str, llama: Path) -> None:
    edit(llama, **changes)
    with pytest.raises(ModelError, match=says) as caught:
        load_parent(llama)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["weight._data", "W_q", "codes", "Qidxs", "weight:_weight_qdata"])
def test_codes_under_other_tools_names_tell_too(name: str, llama: Path) -> None:
    own = f"model.layers.0.mlp.up_proj.{name}"
    rewrite(llama, lambda weights: {**weights, own: torch.ones(48, 32, dtype=torch.int16)})
    with pytest.raises(ModelError, match=rf"quantised \({own}"):
        load_parent(llama)


def test_double_precision_is_no_code(llama: Path) -> None:
    rewrite(llama, lambda weights: {name: tensor.double() for name, tensor in weights.items()})
    assert load_parent(llama).dtype is torch.float32


def test_a_folder_of_gguf_files_is_called_so(tmp_path: Path) -> None:
    (tmp_path / "model-Q4_K_M.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelError, match=r"no config\.json but model-Q4_K_M\.gguf, and GGUF files are not read"):
        load_parent(tmp_path)


def test_blocks_that_predict_further_are_left_out_with_a_warning(llama: Path) -> None:
    """GLM-4.5 and its like have one behind the last block, which the config counts apart."""
    last = "model.layers.3."
    again = {f"model.layers.4.{name}": (32, 32) for name in ("eh_proj.weight", "mlp.up_proj.weight")}
    rewrite(llama, lambda weights: {**weights, **{name: torch.zeros(shape) for name, shape in again.items()}})
    with pytest.raises(ModelError, match="more blocks"):
        load_parent(llama)
    edit(llama, num_nextn_predict_layers=1)
    with pytest.warns(UnusedWeights, match="2 weights that a LlamaForCausalLM does not use"):
        model = load_parent(llama)
    assert any(name.startswith(last) for name in model.state_dict())


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_an_adapter_is_refused(name: str, llama: Path) -> None:
    (llama / name).write_text("{}")
    with pytest.raises(ModelError, match="holds an adapter"):
        load_parent(llama)


@pytest.mark.parametrize("asked", ["flash_attention_2", "flash_attention_3", "flex_attention", "nonsense"])
def test_an_attention_that_is_not_installed_here_is_torch_s_own(asked: str, llama: Path) -> None:
    expected = outputs(load_parent(llama))
    edit(llama, _attn_implementation=asked, attn_implementation=asked, experts_implementation="deepgemm")
    assert torch.equal(outputs(load_parent(llama)), expected)

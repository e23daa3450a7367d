"""Pruned folders through Transformers' Auto classes and Sentence Transformers, once their family is registered."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import transformers as hf
from families import build, mark_rest_slow
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForImageClassification
from transformers.models.auto import modeling_auto

from nas.parent.reference_models import find_reference
from nas.quality.embedding import embed
from pruning.checkpoint import load, load_parent, register, save
from pruning.checkpoint.sentence_embedding import read_sentence_embedding
from pruning.surgery.prune import prune
from search_spaces import Architecture, Kind, Unit
from search_spaces.errors import ModelError, UsageError

AUTOS = [getattr(modeling_auto, name) for name in dir(modeling_auto) if name.startswith("AutoModel")]
PARTS = Architecture(4).drop(Unit(0, Kind.ATTENTION), Unit(2, Kind.MLP), Unit(3, Kind.BLOCK))
IDS = torch.arange(8, 20)[None]


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    """What is registered holds for a process, and other tests have the library as it was."""
    registries = [hf.CONFIG_MAPPING._extra_content, *(auto._model_mapping._extra_content for auto in AUTOS)]
    before = [dict(registry) for registry in registries]
    yield
    for registry, was in zip(registries, before, strict=True):
        registry.clear()
        registry.update(was)


@pytest.mark.parametrize("family", mark_rest_slow(["llama", "gpt2", "qwen3"]))
def test_a_decoder_is_read_whole_or_without_its_head_and_generates(family: str, tmp_path: Path) -> None:
    pruned = prune(build(family), PARTS)
    save(pruned, tmp_path)
    with pytest.raises(ValueError, match="nas_"):
        AutoModelForCausalLM.from_pretrained(tmp_path)
    assert register(tmp_path) == register(tmp_path) == f"nas_{pruned.config.model_type.removeprefix('nas_')}"
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(model(input_ids=IDS).logits, pruned(input_ids=IDS).logits)
    assert torch.equal(AutoModel.from_pretrained(tmp_path)(IDS)[0], pruned.base_model(IDS)[0])
    wanted = pruned.generate(IDS, max_new_tokens=4, do_sample=False)
    assert torch.equal(model.generate(IDS, max_new_tokens=4, do_sample=False), wanted)
    assert AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16).dtype == torch.bfloat16
    with pytest.raises(UsageError, match="device_map='auto'"):
        AutoModelForCausalLM.from_pretrained(tmp_path, device_map="auto")


def test_an_auto_class_that_never_gave_the_parent_s_class_gives_none(tmp_path: Path) -> None:
    save(prune(build("llama"), PARTS), tmp_path)
    register(tmp_path)
    with pytest.raises(ValueError, match="Unrecognized configuration class"):
        AutoModelForImageClassification.from_pretrained(tmp_path)


def test_a_folder_that_everybody_reads_needs_nothing(tmp_path: Path) -> None:
    save(prune(build("llama"), Architecture(4).drop(Unit(3, Kind.BLOCK))), tmp_path)
    assert register(tmp_path) == "llama"
    assert type(AutoModelForCausalLM.from_pretrained(tmp_path)) is hf.LlamaForCausalLM
    with pytest.raises(ModelError, match=r"no config\.json"):
        register(tmp_path / "nowhere")


def test_sentence_transformers_embeds_with_a_pruned_model_as_it_is_judged(tmp_path: Path) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    reference = find_reference("minilm")
    assert reference is not None
    pruned = prune(load_parent(reference.folder), Architecture(6).drop(Unit(1, Kind.ATTENTION), Unit(2, Kind.MLP)))
    save(pruned, tmp_path, reference.folder)
    register(tmp_path)
    texts = ["how do I read a file?", "a longer text about something else altogether"]
    found = sentence_transformers.SentenceTransformer(str(tmp_path)).encode(texts, convert_to_tensor=True)
    model = load(tmp_path)
    inputs = hf.AutoTokenizer.from_pretrained(tmp_path)(texts, padding=True, return_tensors="pt")
    embedding = read_sentence_embedding(model)
    assert embedding is not None
    assert torch.allclose(found, embed(model, dict(inputs), embedding), atol=1e-5)

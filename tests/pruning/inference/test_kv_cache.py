"""A pruned decoder that remembers decodes as one that does not, whatever was dropped."""

import itertools
import random

import pytest
import torch
from families import DECODERS, build, example, mark_rest_slow
from transformers import DynamicCache, GPTNeoConfig, GPTNeoForCausalLM, StaticCache

from pruning.anatomy.anatomy import read_anatomy
from pruning.inference.kv_cache import PrunedCache
from pruning.surgery.prune import prune
from search_spaces import Architecture, Kind, Unit
from search_spaces.architecture import drop_from_parent
from search_spaces.errors import ArchitectureError
from search_spaces.space import is_empty

PREFIX, LENGTH = 5, 14  # past the sliding window of 8 tokens
EXHAUSTIVE = ("llama", "gemma2", "gpt_neox", "gpt2")  # one family of each cache and residual class
UNITS = [Unit(layer, kind) for layer in range(4) for kind in (Kind.ATTENTION, Kind.MLP)]


@pytest.fixture(scope="module")
def parents():
    built = {}

    def parent(family: str):
        if family not in built:
            model = build(family)
            built[family] = (model, read_anatomy(model))
        return built[family]

    return parent


def every_pattern() -> list[Architecture]:
    subsets = itertools.chain.from_iterable(itertools.combinations(UNITS, n) for n in range(len(UNITS)))
    return [drop_from_parent(4, units).merge_blocks() for units in subsets]


def some_patterns(count: int) -> list[Architecture]:
    """Attention gone in layer 0, in all layers, in all but one; then random ones."""
    attention = [Unit(layer, Kind.ATTENTION) for layer in range(4)]
    chosen = [attention[:1], attention, attention[:3], attention[1:], [*attention[:2], Unit(3, Kind.BLOCK)]]
    rng = random.Random(1)
    chosen += [rng.sample(UNITS, rng.randint(1, 7)) for _ in range(count)]
    made = [drop_from_parent(4, units).merge_blocks() for units in chosen]
    return [architecture for architecture in made if not is_empty(architecture)]


@torch.no_grad()
def cached_logits(model, ids: torch.Tensor, mask: torch.Tensor | None = None, **more) -> torch.Tensor:
    """Logits of every position: a prefix in one step, then token by token."""
    pieces, cache = [], more.pop("past_key_values", None)
    for start, end in [(0, PREFIX), *((n, n + 1) for n in range(PREFIX, ids.shape[1]))]:
        step = {} if mask is None else {"attention_mask": mask[:, :end]}
        if mask is not None:
            step["position_ids"] = positions(mask)[:, start:end]
        out = model(input_ids=ids[:, start:end], past_key_values=cache, use_cache=True, **step)
        cache = out.past_key_values
        pieces.append(out.logits)
    return torch.cat(pieces, dim=1)


def positions(mask: torch.Tensor) -> torch.Tensor:
    return (mask.cumsum(-1) - 1).clamp(min=0)


def largest(difference: torch.Tensor, reference: torch.Tensor) -> float:
    return float(difference.abs().max() / reference.abs().max().clamp(min=1))


def check(model, ids: torch.Tensor) -> None:
    with torch.no_grad():
        expected = model(input_ids=ids, use_cache=False).logits
    actual = cached_logits(model, ids)
    assert largest(actual - expected, expected) < 2e-5, model.config.nas_architecture["dropped"]


@pytest.mark.slow
@pytest.mark.parametrize("family", EXHAUSTIVE)
def test_every_pattern_decodes_as_without_a_cache(family: str, parents) -> None:
    parent, anatomy = parents(family)
    ids = example(parent, batch=2, tokens=LENGTH)["input_ids"]
    for architecture in every_pattern():
        check(prune(parent, architecture, anatomy=anatomy, share_weights=True), ids)


@pytest.mark.parametrize("family", mark_rest_slow(DECODERS))
def test_sampled_patterns_decode_as_without_a_cache(family: str, parents) -> None:
    parent, anatomy = parents(family)
    ids = example(parent, batch=2, tokens=LENGTH)["input_ids"]
    for architecture in some_patterns(20):
        check(prune(parent, architecture, anatomy=anatomy, share_weights=True), ids)


@torch.no_grad()
def greedy(model, ids: torch.Tensor, mask: torch.Tensor, steps: int) -> torch.Tensor:
    """Greedy generation written out, recomputing everything at every step."""
    for _ in range(steps):
        logits = model(input_ids=ids, attention_mask=mask, position_ids=positions(mask), use_cache=False).logits
        ids = torch.cat([ids, logits[:, -1:].argmax(-1)], dim=1)
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
    return ids


@pytest.mark.parametrize("family", mark_rest_slow(DECODERS))
def test_generate_with_left_padding_equals_recomputing_everything(family: str, parents) -> None:
    parent, anatomy = parents(family)
    ids = example(parent, batch=2, tokens=6)["input_ids"]
    mask = torch.ones_like(ids)
    mask[0, :2] = 0
    settings = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    for architecture in some_patterns(4):
        model = prune(parent, architecture, anatomy=anatomy, share_weights=True)
        expected = greedy(model, ids, mask, 8) if family != "opt" else greedy_by_mask(model, ids, mask, 8)
        actual = model.generate(input_ids=ids, attention_mask=mask, **settings)
        assert torch.equal(actual, expected), architecture.words


@torch.no_grad()
def greedy_by_mask(model, ids: torch.Tensor, mask: torch.Tensor, steps: int) -> torch.Tensor:
    """For models that compute positions from the mask themselves."""
    for _ in range(steps):
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        ids = torch.cat([ids, logits[:, -1:].argmax(-1)], dim=1)
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
    return ids


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2"])
def test_left_padded_decoding_step_by_step(family: str, parents) -> None:
    parent, anatomy = parents(family)
    ids = example(parent, batch=2, tokens=LENGTH)["input_ids"]
    mask = torch.ones_like(ids)
    mask[1, :3] = 0
    for architecture in some_patterns(6):
        model = prune(parent, architecture, anatomy=anatomy, share_weights=True)
        with torch.no_grad():
            out = model(input_ids=ids, attention_mask=mask, position_ids=positions(mask), use_cache=False)
        actual = cached_logits(model, ids, mask)
        real = mask.bool()
        assert largest(actual[real] - out.logits[real], out.logits) < 2e-5, architecture.words


def test_beam_search_reorders_the_cache(parents) -> None:
    parent, anatomy = parents("llama")
    model = prune(parent, Architecture.from_words("mlp attn+mlp mlp attn"), anatomy=anatomy)
    ids = example(parent, tokens=6)["input_ids"]
    settings = {"max_new_tokens": 6, "num_beams": 3, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    with_cache = model.generate(input_ids=ids, **settings)
    assert torch.equal(with_cache, model.generate(input_ids=ids, use_cache=False, **settings))


def test_the_cache_has_one_layer_per_kept_attention_of_its_own_type(parents) -> None:
    parent, anatomy = parents("gemma2")
    model = prune(parent, Architecture.from_words("mlp attn+mlp attn mlp"), anatomy=anatomy)
    cache = model(**example(parent), use_cache=True).past_key_values
    assert isinstance(cache, PrunedCache)
    assert [layer.is_sliding for layer in cache.layers] == [False, True]
    assert cache.get_seq_length() == 11


def test_a_caller_s_own_empty_cache_is_used_and_a_foreign_one_refused(parents) -> None:
    parent, anatomy = parents("llama")
    model = prune(parent, Architecture.parent(4).drop(Unit(0, Kind.ATTENTION)), anatomy=anatomy)
    ids = example(parent, tokens=LENGTH)["input_ids"]
    mine = DynamicCache(config=parent.config)
    expected = model(input_ids=ids, use_cache=False).logits
    assert largest(cached_logits(model, ids, past_key_values=mine) - expected, expected) < 2e-5
    assert mine.get_seq_length() == LENGTH
    filled = parent(input_ids=ids, use_cache=True).past_key_values
    with pytest.raises(ArchitectureError, match="made elsewhere"):
        model(input_ids=ids[:, :1], past_key_values=filled)
    with pytest.raises(ArchitectureError, match="StaticCache"):
        model(input_ids=ids, past_key_values=StaticCache(config=parent.config, max_cache_len=32))


def test_cropping_forgets_tokens(parents) -> None:
    parent, anatomy = parents("llama")
    model = prune(parent, Architecture.from_words("mlp attn+mlp attn+mlp attn"), anatomy=anatomy)
    ids = example(parent, tokens=LENGTH)["input_ids"]
    cache = model(input_ids=ids, use_cache=True).past_key_values
    cache.crop(8 - LENGTH)
    assert cache.get_seq_length() == 8
    tail = model(input_ids=ids[:, 8:], past_key_values=cache).logits
    expected = model(input_ids=ids, use_cache=False).logits[:, 8:]
    assert largest(tail - expected, expected) < 2e-5


def test_cropping_takes_the_library_s_sign_even_with_no_attention_left(parents) -> None:
    parent, anatomy = parents("llama")
    model = prune(parent, Architecture.from_words("mlp mlp mlp mlp"), anatomy=anatomy)
    cache = model(**example(parent), use_cache=True).past_key_values
    with pytest.raises(ValueError, match=r"crop\(5\)"):
        cache.crop(5)
    assert cache.get_seq_length() == 11


SPECULATIVE = ("mlp attn+mlp attn mlp", "attn mlp attn+mlp mlp", "mlp mlp mlp mlp")
SPECULATIVE_FAST = list(zip(("gemma2", "mistral", "llama"), SPECULATIVE, strict=True))


@pytest.mark.parametrize(
    ("family", "words"),
    mark_rest_slow(itertools.product(["llama", "gemma2", "mistral"], SPECULATIVE), SPECULATIVE_FAST),
)
def test_speculative_decoding_takes_tokens_back_past_the_window(family: str, words: str, parents) -> None:
    parent, anatomy = parents(family)
    model = prune(parent, Architecture.from_words(words), anatomy=anatomy)
    ids = example(parent, batch=1, tokens=6)["input_ids"]
    settings = {"max_new_tokens": 14, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    expected = model.generate(input_ids=ids, use_cache=False, **settings)
    assert torch.equal(model.generate(input_ids=ids, prompt_lookup_num_tokens=2, **settings), expected)
    assert torch.equal(model.generate(input_ids=ids, assistant_model=parent, **settings), expected)
    whole = parent.generate(input_ids=ids, use_cache=False, **settings)
    assert torch.equal(parent.generate(input_ids=ids, assistant_model=model, **settings), whole)


def test_an_attention_that_calls_its_index_layer_id_is_reindexed() -> None:
    sizes = {"hidden_size": 32, "num_layers": 4, "num_heads": 4, "intermediate_size": 48, "vocab_size": 96}
    kinds = {"attention_types": [[["global", "local"], 2]], "window_size": 4, "max_position_embeddings": 64}
    torch.manual_seed(0)
    parent = GPTNeoForCausalLM(GPTNeoConfig(**sizes, **kinds)).eval()
    for words in ("mlp attn+mlp attn attn+mlp", "removed attn+mlp attn+mlp mlp", "removed attn+mlp attn+mlp attn+mlp"):
        check(prune(parent, Architecture.from_words(words)), example(parent, tokens=LENGTH)["input_ids"])

"""Shapes of either stack of an encoder-decoder, and what a cross-attention costs, against sums by hand."""

from dataclasses import replace

import pytest
from families import build

from latency_models.block_shape import BlockShape, CrossAttentionShape
from latency_models.shape import ModelShape
from latency_models.work import count_flops
from latency_models.workload import Workload
from nas.parent.shape import read_shape
from pruning import read_anatomy
from pruning.anatomy.part import select_part
from pruning.anatomy.positions import count_trained_positions, find_longest_sequence
from search_spaces import Architecture, Kind, Unit

HIDDEN = 32


def read(family, part):
    model = build(family)
    select_part(model, part)
    return model, read_shape(model, read_anatomy(model))


@pytest.mark.parametrize(("family", "heads", "source"), [("t5", 4, None), ("bart", 4, None), ("whisper", 4, 12)])
def test_a_decoder_has_cross_attentions_with_their_own_keys(family, heads, source):
    _, shape = read(family, "decoder")
    square = HIDDEN * HIDDEN
    expected = CrossAttentionShape(2 * square, 2 * square, heads, 2 * HIDDEN, 2 * HIDDEN, source)
    assert [block.cross_attention for block in shape.blocks] == [expected] * 4
    assert (shape.causal, shape.outputs, shape.head_per_token, shape.tokens) == (True, 96, True, None)
    assert ModelShape.from_json(shape.to_json()) == shape


@pytest.mark.parametrize(("family", "heads", "tokens"), [("t5", 4, None), ("bart", 2, None), ("whisper", 2, 12)])
def test_an_encoder_has_none_and_no_head(family, heads, tokens):
    _, shape = read(family, "encoder")
    blocks = [shape.get_block(layer) for layer in range(shape.depth)]
    assert all(block.cross_attention is None and block.attention.heads == heads for block in blocks)
    assert (shape.causal, shape.outputs, shape.tokens) == (False, 0, tokens)


def test_the_stem_is_that_of_the_stack_s_own_file():
    model, shape = read("bart", "decoder")
    decoder = model.model.decoder
    assert shape.stem == decoder.num_parameters() - sum(p.numel() for p in decoder.layers.parameters())
    assert shape.ties_head


@pytest.mark.parametrize(("part", "positions"), [("encoder", 12), ("decoder", 64)])
def test_a_stack_has_positions_of_its_own(part, positions):
    model, _ = read("whisper", part)
    assert count_trained_positions(model) == find_longest_sequence(model) == positions


def test_a_cross_attention_costs_what_its_products_do():
    cross = CrossAttentionShape(queries=200, keys=100, heads=2, pair=20, cached=20)
    shape = ModelShape(
        1, 10, 2, 2, 5, 16, False, 0, False, True, 0, (None,), blocks=(BlockShape(None, None, cross_attention=cross),)
    )

    def count(text, of=shape):
        parent = Architecture.parent(1)
        bare = count_flops(of, parent.drop(Unit(0, Kind.CROSS_ATTENTION)), Workload.parse(text))
        return count_flops(of, parent, Workload.parse(text)) - bare

    assert count("forward:batch=3,seq=7") == 2 * 3 * (7 * 200 + 7 * 100 + 7 * 7 * 20)
    assert count("decode:batch=3,past=9") == 2 * 3 * (200 + 10 * 20)  # keys and values are in the cache
    fixed = replace(shape, blocks=(BlockShape(None, None, cross_attention=replace(cross, source=50)),))
    assert count("forward:batch=1,seq=7", fixed) == 2 * (7 * 200 + 50 * 100 + 7 * 50 * 20)

"""Encoder-decoders are judged by what they predict of the targets, whichever stack was pruned."""

import math

import pytest
import torch
from families import build, example

from nas.data.dataset import Dataset, Split
from nas.data.prompts import IGNORED
from nas.quality import choose_evaluator
from pruning import prune, read_anatomy
from pruning.anatomy.part import select_part
from search_spaces import Architecture, Kind, Unit


def dataset(model):
    splits = {}
    for seed, name in enumerate(("calibration", "validation", "test")):
        inputs = example(model, batch=5, tokens=9, seed=seed)
        mask = torch.ones_like(inputs["decoder_input_ids"])
        mask[::2, 4:] = 0
        labels = torch.where(mask.bool(), inputs["decoder_input_ids"].roll(-1, 1), IGNORED)
        splits[name] = Split(name, inputs | {"decoder_attention_mask": mask}, labels)
    return Dataset(**splits)


@pytest.mark.parametrize("family", ["t5", "whisper"])
@pytest.mark.parametrize("part", ["encoder", "decoder"])
@torch.no_grad()
def test_figures_are_those_of_whole_distributions_without_padding(family, part):
    model = build(family)
    select_part(model, part)
    data, anatomy = dataset(model), read_anatomy(model)
    evaluator = choose_evaluator(model, data)
    pruned = prune(model, Architecture.parent(anatomy.depth).drop(Unit(1, Kind.MLP)), anatomy=anatomy)
    expected, surprise = [], []
    split = data.validation
    for row in range(len(split)):
        given = {name: value[row : row + 1] for name, value in split.inputs.items()}
        count = int(given.pop("decoder_attention_mask").sum())
        p, q = (each(**given).logits[0, :count].double().log_softmax(-1) for each in (model, pruned))
        expected.append(float((p.exp() * (p - q)).sum(-1).mean()))
        surprise.append(float(-q.gather(-1, split.labels[row, :count, None]).mean()))
    quality = evaluator.evaluate(pruned)
    assert quality.per_item == pytest.approx(expected, rel=1e-3, abs=1e-6)
    assert quality.others["perplexity"] == pytest.approx(math.exp(sum(surprise) / 5), rel=1e-4)
    assert evaluator.evaluate(model).loss == pytest.approx(0, abs=1e-6)
    assert quality.loss > 1e-4
    assert evaluator.evaluate(pruned, items=4, start=2).per_item == pytest.approx(expected[2:4], rel=1e-3, abs=1e-6)


def test_a_model_without_a_head_is_refused():
    import transformers as hf

    from search_spaces.errors import UnreadableModel

    model = build("bart")
    trunk = hf.BartModel(model.config).eval()
    with pytest.raises(UnreadableModel, match="BartModel gives"):
        choose_evaluator(trunk, dataset(model))

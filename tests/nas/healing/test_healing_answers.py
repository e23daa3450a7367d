"""Questions with their answers behind them: what is compared is what each word of an answer is predicted from."""

import pytest
import torch
from families import build
from test_questions import questions

from nas.data.prompts import IGNORED
from nas.healing.answers import append_answers, count_answer_tokens
from nas.healing.loss import HealingLoss, list_watched_layers
from nas.healing.recipe import Recipe
from nas.healing.student import Student, TrainingData
from nas.quality.evaluator import choose_evaluator
from pruning.anatomy.anatomy import read_anatomy
from pruning.surgery.prune import prune
from search_spaces import Architecture

ANSWERS = torch.tensor([[20, 21, 22], [23, IGNORED, IGNORED], [24, 25, IGNORED]])
ARCHITECTURE = Architecture.from_words("attn+mlp removed attn attn+mlp")


@pytest.mark.parametrize("family", ["llava", "qwen2_vl"])
def test_the_loss_is_the_divergence_at_each_word_of_an_answer_and_behind_a_short_one(family: str, tmp_path) -> None:
    """Item by item, with nothing behind what is real: no padding takes part."""
    model = build(family)
    data = questions(model, ANSWERS, items=3)
    anatomy, candidate = read_anatomy(model), prune(model, ARCHITECTURE)
    split = data.calibration
    training_data = TrainingData(append_answers(split), count_answer_tokens(split), {})
    student = Student(model, anatomy, candidate, ARCHITECTURE, choose_evaluator(model, data), training_data)
    training = student.build_training(Recipe(steps=1, batch_items=3, hidden_weight=0.0), tmp_path / "s.pt", {})
    assert isinstance(training.loss, HealingLoss)
    training.loss.arithmetic = training.loss.teacher.arithmetic = torch.no_grad  # in fp32
    batch = next(training.items.iterate_batches(0, 3, 1))
    expected = []
    rows = len(split.inputs["pixel_values"]) // 3
    for item, answer in enumerate(ANSWERS):
        message = answer[answer != IGNORED][:2]  # the third is predicted, and nothing from it
        inputs = {name: tensor[item : item + 1] for name, tensor in split.inputs.items() if name != "pixel_values"}
        inputs["pixel_values"] = split.inputs["pixel_values"][item * rows : (item + 1) * rows]
        inputs["input_ids"] = torch.cat([inputs["input_ids"], message[None]], 1)
        inputs["attention_mask"] = torch.cat([inputs["attention_mask"], torch.ones(1, len(message))], 1).long()
        if "position_ids" in inputs:
            inputs["position_ids"] = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        if "mm_token_type_ids" in inputs:
            kinds = inputs["mm_token_type_ids"]
            inputs["mm_token_type_ids"] = torch.cat([kinds, kinds.new_zeros(1, len(message))], 1)
        with torch.no_grad():
            logits = [each(**inputs).logits[0, -1 - len(message) :] for each in (model, candidate)]
        p, q = (each.double().log_softmax(-1) for each in logits)
        expected += (p.exp() * (p - q)).sum(-1).tolist()
    assert len(expected) == 3 + 2 + 3
    assert float(training.loss(batch)) == pytest.approx(sum(expected) / len(expected), rel=1e-4)


def test_where_a_stream_is_compared_padding_behind_an_answer_does_not_count(tmp_path) -> None:
    model = build("llava")
    data = questions(model, ANSWERS, items=3)
    anatomy, candidate = read_anatomy(model), prune(model, ARCHITECTURE)
    training_data = TrainingData(append_answers(data.calibration), 3, {})
    student = Student(model, anatomy, candidate, ARCHITECTURE, choose_evaluator(model, data), training_data)
    training = student.build_training(Recipe(steps=1, batch_items=3), tmp_path / "s.pt", {})
    batch = next(training.items.iterate_batches(0, 3, 1))
    before = training.loss(batch).item()
    padding = batch.inputs["attention_mask"] == 0
    assert padding[:, -2:].sum() == 1
    batch.inputs["input_ids"][padding] = 50
    training = student.build_training(Recipe(steps=1, batch_items=3), tmp_path / "s.pt", {})  # nothing is known of it
    assert training.loss(batch).item() == pytest.approx(before, rel=1e-3)
    assert list_watched_layers(anatomy, ARCHITECTURE) == [2, 3, 4]

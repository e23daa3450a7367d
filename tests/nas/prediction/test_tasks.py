"""Trying a model: what is generated, labelled and embedded is what the model gives, by plain computations of it."""

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as hf
from families import build
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers

from nas.parent.reference_models import find_reference
from nas.prediction import choose_task, predict
from pruning.checkpoint import load_to_compute
from search_spaces.errors import BadData, ModelError, UsageError

WORDS = [f"w{number}" for number in range(90)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of a tokenizer that knows ninety words."""
    tokenizer = Tokenizer(models.WordLevel({word: 3 + index for index, word in enumerate(WORDS)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    hf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="w0").save_pretrained(tmp_path)
    return tmp_path


@torch.no_grad()
def test_a_text_is_continued_with_the_likeliest_token_each_time(folder: Path) -> None:
    model = build("llama")
    model.generation_config.eos_token_id = None
    task = choose_task(model, folder, max_tokens=6)
    inputs = task.read("w5 w6 w7")
    ids = inputs["input_ids"]
    assert ids.tolist() == [[8, 9, 10]]
    for _ in range(6):  # no cache, no generate()
        ids = torch.cat([ids, model(input_ids=ids).logits[:, -1:].argmax(-1)], 1)
    prediction = predict(model, task, inputs)
    assert prediction.value.tolist() == ids[0, 3:].tolist()
    assert (prediction.count, prediction.unit) == (6, "token")
    assert prediction.rate == pytest.approx(6 / prediction.seconds)
    assert prediction.text.split() == [WORDS[token - 3] for token in ids[0, 3:].tolist() if token >= 3]


@torch.no_grad()
def test_an_encoder_decoder_writes_its_own_text_and_not_what_it_was_given(folder: Path) -> None:
    model = build("t5")
    model.generation_config.eos_token_id = None
    task = choose_task(model, folder, max_tokens=5)
    inputs = task.read("w5 w6 w7")
    target = torch.tensor([[model.config.decoder_start_token_id]])
    for _ in range(5):  # no cache, no generate()
        logits = model(**inputs, decoder_input_ids=target).logits
        target = torch.cat([target, logits[:, -1:].argmax(-1)], 1)
    prediction = predict(model, task, inputs)
    assert prediction.value.tolist() == target[0, 1:].tolist()
    assert prediction.count == 5


def test_a_model_of_sound_is_not_tried(folder: Path) -> None:
    with pytest.raises(ModelError, match="takes input_features"):
        choose_task(build("whisper"), folder)


def test_two_continuations_agree_up_to_the_first_other_token(folder: Path) -> None:
    task = choose_task(build("llama"), folder)
    one, other = torch.tensor([5, 6, 7, 8]), torch.tensor([5, 6, 9, 8])
    assert task.compare(one, other) == "the first 2 of 4 tokens are the same"
    assert task.compare(one[:1], other) == "the first 1 of 4 tokens are the same"
    assert task.compare(other, other) == "the first 4 of 4 tokens are the same"


@torch.no_grad()
def test_a_text_is_embedded_as_the_mean_of_its_tokens_of_length_one(folder: Path) -> None:
    model = build("bert")
    task = choose_task(model, folder)
    inputs = task.read("w1 w2 w3")
    states = model.bert(**inputs).last_hidden_state[0]  # the head predicts masked tokens
    mean = states.mean(0)
    prediction = predict(model, task, inputs)
    assert torch.allclose(prediction.value, mean / mean.norm(), atol=1e-6)
    assert prediction.text.endswith("32 numbers of length 1.000")
    assert task.compare(prediction.value, -prediction.value) == "cosine of both: -1.0000"


def test_a_text_is_cut_where_the_model_reads_no_further(folder: Path) -> None:
    assert choose_task(build("bert"), folder).read(" ".join(WORDS))["input_ids"].shape == (1, 64)


@torch.no_grad()
def test_a_text_is_labelled_with_probabilities(folder: Path) -> None:
    torch.manual_seed(0)
    config = hf.BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, vocab_size=96,
        num_labels=4, id2label={0: "bad", 1: "poor", 2: "fair", 3: "good"},
    )  # fmt: skip
    model = hf.BertForSequenceClassification(config).eval()
    task = choose_task(model, folder)
    inputs = task.read("w1 w2")
    shares = model(**inputs).logits[0].softmax(-1)
    order = shares.argsort(descending=True)[:3].tolist()
    expected = ", ".join(f"{config.id2label[label]} ({float(shares[label]):.1%})" for label in order)
    assert predict(model, task, inputs).text == expected
    assert task.compare(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])) == "another label"


def test_an_image_is_labelled_as_the_same_pixels_in_an_array_are(tmp_path: Path) -> None:
    reference = find_reference("digits-vit")
    assert reference is not None
    model = load_to_compute(reference.folder)
    pixels = np.load(reference.data / "test.npz")
    right = 0
    for index in range(8):
        Image.fromarray(pixels["pixels"][index]).save(tmp_path / "digit.png")
        task = choose_task(model, reference.folder)
        prediction = predict(model, task, task.read(str(tmp_path / "digit.png")))
        right += int(prediction.value.argmax()) == pixels["labels"][index]
    assert right >= 7


def test_a_question_about_an_image_is_answered() -> None:
    reference = find_reference("digits-vlm")
    assert reference is not None
    model, image = load_to_compute(reference.folder), reference.data / "grids" / "0001.png"
    task = choose_task(model, reference.folder, image, max_tokens=4)
    assert predict(model, task, task.read("which digit is in row 1 column 1 ?")).text.strip() == "0"


def test_what_is_missing_or_too_much_is_said(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--image FILE"):
        choose_task(build("llava"), folder)
    with pytest.raises(BadData, match=r"image nothing\.png does not exist"):
        choose_task(build("llava"), folder, Path("nothing.png"))
    with pytest.raises(UsageError, match="leave --image out"):
        choose_task(build("llama"), folder, Path("digit.png"))
    with pytest.raises(BadData, match="give the path of one"):
        choose_task(build("vit"), folder).read("a digit")
    with pytest.raises(BadData, match="no token"):
        choose_task(build("llama"), folder).read("")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="no tokenizer"):
        choose_task(build("llama"), tmp_path / "empty")

"""Questions about images: read, split by image, encoded as the model is asked, judged by its answers."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from families import IMAGE_ID, build, example
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPImageProcessorPil,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessorPil,
)

from nas.data.dataset import Dataset, Split, load_dataset
from nas.data.prompts import IGNORED, encode_questions
from nas.data.questions import read_questions, split_questions
from nas.parent.parent import load_parent_model
from nas.parent.shape import read_shape
from nas.quality import choose_evaluator
from nas.quality.answers import AnswerEvaluator
from pruning.anatomy.anatomy import read_anatomy
from pruning.inference.prefix_cache import PrefixStore, list_prefixes, make_resumable
from pruning.surgery.prune import prune
from search_spaces import Architecture, Reduction, Schedule, Scorer
from search_spaces.errors import BadData

WORDS = [
    "<pad>",
    "<bos>",
    "<eos>",
    "<image>",
    "<video>",
    "<begin>",
    "<end>",
    "<unk>",
    *["how", "many", "dots", "are", "red", "blue", "?"],
]
WORDS += [str(number) for number in range(96 - len(WORDS))]
IDS = {word: position for position, word in enumerate(WORDS)}


def tokenizer() -> PreTrainedTokenizerFast:
    made = Tokenizer(models.WordLevel(IDS, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    named = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=made, **named, extra_special_tokens={"image_token": "<image>"}, padding_side="right"
    )


def processor() -> LlavaProcessor:
    size = {"height": 12, "width": 12}
    pictures = CLIPImageProcessorPil(size=size, crop_size=size, do_center_crop=False)
    return LlavaProcessor(pictures, tokenizer(), 4, "default", num_additional_image_tokens=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A llava with tokenizer and processor, as people have it."""
    path = tmp_path_factory.mktemp("llava")
    build("llava").save_pretrained(path)
    processor().save_pretrained(path)
    return path


def write(folder: Path, lines: list[dict], images: int = 8) -> Path:
    rng = np.random.default_rng(0)
    for number in range(images):
        Image.fromarray(rng.integers(0, 255, (12, 12, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    (folder / "questions.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    return folder


def line(image: int | list[int], text: str = "how many dots ?", answer: str = "3", **more: str) -> dict:
    name = f"{image}.png" if isinstance(image, int) else [f"{each}.png" for each in image]
    return {"image": name, "question": text, "answer": answer, **more}


def test_all_questions_about_an_image_or_its_copy_are_in_one_split(tmp_path: Path) -> None:
    lines = [line(number % 8, f"how many {word} ?") for number in range(16) for word in ("dots", "red", "blue")]
    write(tmp_path, lines)
    (tmp_path / "8.png").write_bytes((tmp_path / "0.png").read_bytes())
    (tmp_path / "questions.jsonl").open("a").write("\n" + json.dumps(line(8)))
    splits = split_questions(read_questions(tmp_path))
    images = {name: {q.images[0].name for q in questions} for name, questions in splits.items()}
    assert sum(len(questions) for questions in splits.values()) == 49
    assert sum(len(names) for names in images.values()) == 9  # no image in two of them
    assert any({"0.png", "8.png"} <= names for names in images.values())
    assert min(map(len, images.values())) >= 2


def test_questions_that_share_one_of_their_images_stay_together(tmp_path: Path) -> None:
    pairs = [[0, 1], [2, 3], [1, 4], [5, 6], [4, 3], [7, 7]]  # 0-1-4-3-2 hang together
    write(tmp_path, [line(pair) for pair in pairs])
    splits = split_questions(read_questions(tmp_path))
    assert sorted(len(questions) for questions in splits.values()) == [1, 1, 4]


def test_a_split_that_is_told_is_kept(tmp_path: Path) -> None:
    reported = ("test", "validation", "calibration", "test")
    write(tmp_path, [line(number, split=name) for number, name in enumerate(reported)])
    splits = split_questions(read_questions(tmp_path))
    assert [q.images[0].name for q in splits["test"]] == ["0.png", "3.png"]
    write(tmp_path, [line(0, split="test"), line(0, split="validation"), line(1, split="calibration")])
    with pytest.raises(BadData, match=r"0\.png is asked about in test and validation; give"):
        split_questions(read_questions(tmp_path))


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ([], "holds no question"),
        ([line(0), line(99)], r"line 2: image .*99\.png does not exist"),
        ([line(0), line([1, 2])], r"has 2 images and .* 1"),
        ([{"image": "0.png", "question": "how many ?"}], r"line 1: each line is an object such as"),
        ([{"image": [], "question": "how many ?", "answer": "3"}], r"line 1: each line is an object"),
        ([line(0, split="train")], "split 'train' is none of"),
        ([line(0), line(1)], "2 questions leave none for"),
    ],
)
def test_wrong_files_are_one_line(lines: list[dict], says: str, tmp_path: Path) -> None:
    write(tmp_path, lines)
    with pytest.raises(BadData, match=says) as caught:
        split_questions(read_questions(tmp_path))
    assert "\n" not in str(caught.value)
    with pytest.raises(BadData, match=r"folder with questions\.jsonl and images"):
        read_questions(tmp_path / "nowhere")


def test_a_question_becomes_image_tokens_and_words_padded_on_the_left(folder: Path, tmp_path: Path) -> None:
    lines = [line(n, "how many red dots are ?" if n % 2 else "how many ?", "12 0" if n % 2 else "7") for n in range(8)]
    parent = load_parent_model(str(folder), write(tmp_path, lines))
    data = parent.dataset
    whole = {q.images[0]: q for split in split_questions(read_questions(tmp_path)).values() for q in split}
    assert len(whole) == len(data.calibration) + len(data.validation) + len(data.test)
    for split, questions in split_questions(read_questions(tmp_path)).items():
        inputs = data.get_split(split).inputs
        assert inputs["pixel_values"].shape == (len(questions), 3, 12, 12)
        for row, question in enumerate(questions):
            ids, mask = inputs["input_ids"][row], inputs["attention_mask"][row].bool()
            expected = [1, *[IMAGE_ID] * 9, *(IDS[word] for word in question.text.split())]
            assert ids[mask].tolist() == expected
            assert mask.tolist() == sorted(mask.tolist())  # padding first
            assert inputs["position_ids"][row][mask].tolist() == list(range(len(expected)))
            answer = data.get_split(split).labels[row]
            assert answer[answer != IGNORED].tolist() == [IDS[word] for word in question.answer.split()]


def test_two_images_a_question_are_sliced_with_it(folder: Path, tmp_path: Path) -> None:
    lines = [line([n, n + 1], split="test") for n in range(5)]
    lines += [line([6, 6], split="validation"), line([7, 7], split="calibration")]
    model = load_parent_model(str(folder)).model
    test = load_dataset(model, None, write(tmp_path, lines)).test
    assert test.inputs["pixel_values"].shape[0] == 10
    batches = list(test.iterate_batches(2, items=4, start=1))
    assert [len(batch["pixel_values"]) for batch in batches] == [4, 2]
    whole = model(**test.inputs).logits
    pieces = torch.cat([model(**batch).logits for batch in batches])
    assert torch.allclose(pieces, whole[1:4], atol=1e-5)


def test_placeholders_of_its_own_must_fit_the_images(folder: Path, tmp_path: Path) -> None:
    splits = ("test", "validation", "calibration")
    model = load_parent_model(str(folder)).model
    lines = [line([2 * n, 2 * n + 1], "<image> how many <image> red ?", split=name) for n, name in enumerate(splits)]
    test = load_dataset(model, None, write(tmp_path, lines)).test
    assert (test.inputs["input_ids"][0] == IMAGE_ID).sum() == 18
    lines = [line(n, "<image> how many <image> red ?", split=name) for n, name in enumerate(splits)]
    with pytest.raises(BadData, match=r"2 times <image> and 1 images; write it once"):
        load_dataset(model, None, write(tmp_path, lines))
    (tmp_path / "0.png").write_bytes(b"no picture")
    with pytest.raises(BadData, match=r"0\.png is no readable image"):
        load_dataset(model, None, write_lines(tmp_path, [line(n, split=name) for n, name in enumerate(splits)]))


def write_lines(folder: Path, lines: list[dict]) -> Path:
    (folder / "questions.jsonl").write_text("\n".join(json.dumps(each) for each in lines))
    return folder


def test_a_chat_template_is_followed(folder: Path, tmp_path: Path) -> None:
    chatting = tmp_path / "model"
    build("llava").save_pretrained(chatting)
    made = processor()
    made.chat_template = (
        "{% for m in messages %}{% for c in m.content %}{% if c.type == 'image' %}<image> {% else %}"
        "are {{ c.text }} {% endif %}{% endfor %}{% endfor %}{% if add_generation_prompt %}red{% endif %}"
    )
    made.save_pretrained(chatting)
    lines = [line(n, split=name) for n, name in enumerate(("test", "validation", "calibration"))]
    test = load_parent_model(str(chatting), write(tmp_path, lines)).dataset.test
    words = [WORDS[position] for position in test.inputs["input_ids"][0, 10:]]
    assert words == ["are", "how", "many", "dots", "?", "red"]
    assert test.labels.tolist() == [[IDS["3"]]]


class AnySize:
    """A processor whose images make as many tokens as they are large (the library's own needs torchvision)."""

    image_token, tokenizer = "<image>", tokenizer()
    pictures = Qwen2VLImageProcessorPil(
        patch_size=4, merge_size=2, temporal_patch_size=2, size={"shortest_edge": 64, "longest_edge": 4096}
    )

    def __call__(self, images, text, **options):
        seen = self.pictures(images=[image for row in images for image in row], return_tensors="pt")
        counts = iter((seen["image_grid_thw"].prod(-1) // 4).tolist())
        text = ["".join(part if part != "<image>" else part * next(counts) for part in split(row)) for row in text]
        self.tokenizer.padding_side = "left"
        encoded = self.tokenizer(text, padding=True, return_tensors="pt")
        return encoded | seen | {"mm_token_type_ids": (encoded["input_ids"] == IMAGE_ID).int()}


def split(text: str) -> list[str]:
    return re.split("(<image>)", text)


def test_images_of_any_size_are_told_apart_by_what_they_make(tmp_path: Path) -> None:
    model, asked = build("qwen2_vl"), AnySize()
    write(tmp_path, [line([n, n + 1], "<image> how <image> many ?") for n in range(3)])
    inputs, _ = encode_questions(model, asked, read_questions(tmp_path))
    assert inputs["image_grid_thw"].shape == (6, 3)
    tokens = int(inputs["image_grid_thw"][0].prod()) // 4
    assert (inputs["input_ids"] == IMAGE_ID).sum(1).tolist() == [2 * tokens] * 3
    with torch.no_grad():
        whole = model(**inputs).logits
        pieces = torch.cat([model(**batch).logits for batch in Split("test", inputs).iterate_batches(2)])
    assert torch.allclose(whole, pieces, atol=1e-5)
    Image.new("RGB", (24, 12)).save(tmp_path / "3.png")
    with pytest.raises(BadData, match="unlike numbers of tokens; bring them to one size"):
        encode_questions(model, asked, read_questions(tmp_path))


def test_a_model_without_a_processor_is_told_so(tmp_path: Path) -> None:
    build("llava").save_pretrained(tmp_path / "model")
    parent = load_parent_model(str(tmp_path / "model"), write(tmp_path, [line(n) for n in range(4)]))
    with pytest.raises(BadData, match=r"no processor.*put processor_config\.json"):
        _ = parent.dataset


def questions(model, answers: torch.Tensor, items: int = 6) -> Dataset:
    """Random questions with these answers (items, tokens)."""

    def split(name: str, seed: int) -> Split:
        inputs = example(model, batch=items, tokens=4, seed=seed)
        inputs["attention_mask"][0, :1] = 0
        if model.config.model_type == "llava":
            inputs["position_ids"] = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        return Split(name, inputs, answers)

    return Dataset(split("calibration", 1), split("validation", 2), split("test", 3))


@torch.no_grad()
def message(model, dataset: Dataset, words: int) -> torch.Tensor:
    """What the model generates, with its cache: (items, words)."""
    inputs = {name: v for name, v in dataset.test.inputs.items() if name != "position_ids"}
    settings = {"max_new_tokens": words, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    return model.generate(**inputs, **settings)[:, -words:]


@pytest.mark.parametrize("family", ["llava", "qwen2_vl"])
def test_exact_answers_are_those_that_generating_gives(family: str) -> None:
    model = build(family)
    model.lm_head.weight.data[:8] = 0  # never a special token
    candidate = prune(model, Architecture.from_words("attn+mlp mlp attn+mlp attn+mlp"))
    answers = message(candidate, questions(model, torch.zeros(6, 3)), 3)
    answers[0, 1] += 1  # wrong at the second word
    answers[1, 0] += 1
    answers[2, 1:] = IGNORED  # a short one, right
    answers[3, 2] += 1
    evaluator = choose_evaluator(model, questions(model, answers))
    assert isinstance(evaluator, AnswerEvaluator)
    quality = evaluator.evaluate(candidate, "test")
    assert (quality.metric, quality.value, quality.items) == ("accuracy", pytest.approx(3 / 6), 6)


@pytest.mark.parametrize("resumed", [False, True])
@pytest.mark.parametrize("scorer", [Scorer.LAST, Scorer.MEAN, Scorer.KEYS])
@pytest.mark.parametrize("family", ["llava", "qwen2_vl"])
def test_what_stays_is_decided_once_by_the_question(family: str, scorer: Scorer, resumed: bool) -> None:
    """Answers of five words are those of `generate`, whoever ranks; also where passes resume from another candidate."""
    model = build(family)
    model.lm_head.weight.data[:8] = 0
    architecture = Architecture(4).replace_tokens(Schedule.parse("2=0.12", Reduction(scorer)))
    candidate = prune(model, architecture)
    answers = message(candidate, questions(model, torch.zeros(6, 5)), 5)
    answers[0, 4] += 1
    answers[1, 2:] = IGNORED
    dataset = questions(model, answers)
    evaluator = AnswerEvaluator(model, dataset)
    if resumed:
        store, anatomy = PrefixStore(), read_anatomy(model)
        for each in (Architecture(4), architecture):
            candidate = prune(model, each, anatomy=anatomy)
            make_resumable(candidate, anatomy, list_prefixes(each), store)
            quality = evaluator.evaluate(candidate, "test")
        assert store.skipped > 0
    quality = evaluator.evaluate(candidate, "test")
    assert quality.value == pytest.approx(5 / 6)


def test_what_a_model_would_rather_say_does_not_count() -> None:
    """A penalty for words that were said already is not the likeliest word; afterwards it is as it was."""
    model = build("llava")
    model.lm_head.weight.data[:8] = 0
    answers = message(model, questions(model, torch.zeros(6, 4)), 4)
    model.generation_config.repetition_penalty = 50.0
    model.generation_config.eos_token_id = int(answers[0, 1])
    dataset = questions(model, answers)
    assert AnswerEvaluator(model, dataset).evaluate(model, "test").value == 1
    assert model.generation_config.repetition_penalty == 50.0


def test_the_loss_is_the_divergence_of_the_first_word() -> None:
    model = build("llava")
    candidate = prune(model, Architecture.from_words("attn+mlp mlp attn attn+mlp"))
    dataset = questions(model, torch.full((6, 1), 20))
    evaluator = AnswerEvaluator(model, dataset)
    with torch.no_grad():
        p, q = (m(**dataset.test.inputs).logits[:, -1].log_softmax(-1) for m in (model, candidate))
    expected = (p.exp() * (p - q)).sum(-1)
    quality = evaluator.evaluate(candidate, "test")
    assert quality.per_item == pytest.approx(tuple(expected.tolist()), abs=1e-5)
    assert quality.loss == pytest.approx(float(expected.mean()), abs=1e-5)
    assert quality.others["agreement"] == pytest.approx(float((p.argmax(-1) == q.argmax(-1)).float().mean()))
    assert evaluator.evaluate(model, "test").loss == pytest.approx(0, abs=1e-6)
    halves = evaluator.evaluate(candidate, "test", 3).join(evaluator.evaluate(candidate, "test", 6, 3))
    assert halves.loss == pytest.approx(quality.loss, abs=1e-5)  # other batches, other sums
    assert halves.others.keys() == quality.others.keys()


def test_the_shape_is_the_language_model_s_with_its_image_tokens() -> None:
    model = build("llava")
    shape = read_shape(model, read_anatomy(model))
    assert (shape.droppable, shape.tokens, shape.causal, shape.outputs) == (9, None, True, 96)
    assert str(shape.choose_default_workload(small=True)) == "prefill:batch=1,seq=25"
    other = build("qwen2_vl")
    assert read_shape(other, read_anatomy(other)).droppable is None  # an image makes as many as it is large

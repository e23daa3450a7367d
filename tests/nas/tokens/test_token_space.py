"""What `--tokens` asks for: units, a schedule, who chooses, what is judged, and what is refused."""

from math import comb
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from families import build

from latency_models.targets import HOST, find_target
from latency_models.workload import Phase, Workload
from nas.data.dataset import Dataset, Split
from nas.parent.shape import read_shape
from nas.quality.prompt import PROMPTS, PromptEvaluator, build_prompts
from nas.request.choices import check_tokens
from nas.request.quantities import Budget
from nas.request.search_request import SearchRequest, parse_units
from nas.tokens.describe import describe_schedule
from nas.tokens.space import (
    add_tokens,
    check_workload,
    choose_default_reduction,
    choose_workload_with_tokens,
    keep_tokens_only,
)  # fmt: skip
from pruning.anatomy.anatomy import read_anatomy
from pruning.surgery.prune import prune
from search_spaces import Architecture, Kind, Reduction, Schedule, Scorer, Unit
from search_spaces.errors import UsageError
from search_spaces.servable import Servable

PROMPT = Workload(Phase.PREFILL, 1, 60)
IMAGES = Workload(Phase.FORWARD, 8, 10)


def parent(family: str) -> SimpleNamespace:
    """What of a parent is asked for here."""
    model = build(family)
    anatomy = read_anatomy(model)
    return SimpleNamespace(
        id=family, model=model, anatomy=anatomy, shape=read_shape(model, anatomy), tokenizer=None, cache=Path("none")
    )


@pytest.fixture(scope="module")
def llama() -> SimpleNamespace:
    return parent("llama")


@pytest.fixture(scope="module")
def vit() -> SimpleNamespace:
    return parent("vit")


def space_of(found: SimpleNamespace):
    return found.anatomy.build_space((Kind.ATTENTION, Kind.MLP))


def test_stages_may_be_before_each_block_but_the_first(vit) -> None:
    space = add_tokens(space_of(vit), vit, find_target(HOST), IMAGES, "search")
    steps = space.steps
    assert {unit.layer for unit in steps} == {1, 2, 3}
    assert {step.level.get_value("keep") for step in steps} == {750, 500, 350, 250, 125}
    assert space.structure == space_of(vit).choices
    assert keep_tokens_only(space).choices == steps
    assert space.reduction == Reduction(Scorer.CLASS)


def test_ratios_are_at_the_ends_of_the_target_s_steps(llama) -> None:
    """At 512 tokens an accelerator's tile is 64: what is left, with the 36 that stay anyway, is a multiple of it."""
    long = Workload(Phase.PREFILL, 1, 512)
    space = add_tokens(space_of(llama), llama, find_target("jetson-orin"), long, "search")
    permille = sorted({step.level.get_value("keep") for step in space.steps})
    assert len(permille) >= 3
    for each in permille:
        left = 36 + 476 * each // 1000
        assert left % 64 == 0 or (left + 1) % 64 == 0  # thousandths may be too coarse by a token


def test_a_preset_is_fixed(vit) -> None:
    space = add_tokens(space_of(vit), vit, find_target(HOST), IMAGES, "pyramiddrop:1=0.5,3=0.25")
    assert str(space.fixed) == "1=0.5,3=0.25"
    assert space.fixed.reduction.scorer is Scorer.CLASS
    assert space.start.tokens == space.fixed
    with pytest.raises(UsageError, match="none leaves nothing to search"):
        keep_tokens_only(space)


def test_off_changes_nothing(vit) -> None:
    assert add_tokens(space_of(vit), vit, find_target(HOST), IMAGES, "off") == space_of(vit)


def test_what_other_engines_load_has_all_tokens(vit) -> None:
    with pytest.raises(UsageError, match="other engines drop no tokens"):
        add_tokens(space_of(vit), vit, find_target(HOST), IMAGES, "search", Servable.VANILLA)


def test_too_short_a_text_has_no_tokens_to_spare(llama) -> None:
    with pytest.raises(UsageError, match="no tokens to drop"):
        add_tokens(space_of(llama), llama, find_target(HOST), Workload(Phase.PREFILL, 1, 36), "search")


@pytest.mark.parametrize(
    ("family", "scorer"),
    [("llama", "last"), ("vit", "class"), ("clip", "class"), ("siglip", "mean"), ("bert", "mean")],
)
def test_who_is_asked_for_attention(family: str, scorer: str) -> None:
    assert choose_default_reduction(parent(family)).scorer == scorer


def test_a_decoder_drops_tokens_of_its_prompt(llama, vit) -> None:
    forward = Workload(Phase.FORWARD, 1, 60)
    assert choose_workload_with_tokens(llama, forward, "search") == PROMPT
    assert choose_workload_with_tokens(llama, forward, "off") == forward
    assert choose_workload_with_tokens(vit, IMAGES, "search") == IMAGES
    with pytest.raises(UsageError, match="write --workload prefill:batch=1,seq=60"):
        check_workload(llama, forward, "search")
    check_workload(llama, PROMPT, "search")
    check_workload(llama, forward, "off")


@pytest.mark.parametrize("text", ["off", "search", "pyramiddrop", "pyramiddrop:1=0.5", "tome:0.1"])
def test_names(text: str) -> None:
    assert check_tokens(text) == text


@pytest.mark.parametrize("text", ["on", "off:1", "search:0.5", "piramiddrop:1=0.5", ""])
def test_other_names_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"is none of off, search, pyramiddrop"):
        check_tokens(text)


def test_a_request_and_back(tmp_path: Path) -> None:
    request = SearchRequest("host", Budget.parse("0.6x"), tmp_path, units=parse_units("none"), tokens="fastv:2=0.5")
    request.save()
    assert SearchRequest.load(tmp_path) == request
    (tmp_path / "request.json").write_text((tmp_path / "request.json").read_text().replace('"fastv:2=0.5"', '"off"'))
    assert SearchRequest.load(tmp_path).tokens == "off"


def test_a_request_of_an_earlier_version_has_tokens_off(tmp_path: Path) -> None:
    import json

    SearchRequest("host", Budget.parse("0.6x"), tmp_path).save()
    document = json.loads((tmp_path / "request.json").read_text())
    del document["tokens"]
    (tmp_path / "request.json").write_text(json.dumps(document))
    assert SearchRequest.load(tmp_path).tokens == "off"


def windows(count: int, length: int, seed: int) -> torch.Tensor:
    return torch.randint(3, 96, (count, length), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def data() -> Dataset:
    return Dataset(**{
        name: Split(name, {"input_ids": windows(6, 48, seed)})
        for seed, name in enumerate(("calibration", "validation", "test"))
    })  # fmt: skip


def test_prompts_are_judged_by_the_token_that_follows(llama, data) -> None:
    candidate = prune(llama.model, Architecture(4).drop(Unit(2, Kind.MLP)), anatomy=llama.anatomy)
    evaluator = PromptEvaluator(llama.model, data)
    quality = evaluator.evaluate(candidate, "test")
    for position, ids in enumerate(data.test.inputs["input_ids"]):
        with torch.no_grad():
            p, q = (model(input_ids=ids[None]).logits[0, -1].log_softmax(-1) for model in (llama.model, candidate))
        assert quality.per_item[position] == pytest.approx(float((p.exp() * (p - q)).sum()), abs=1e-5)
    assert quality.loss == pytest.approx(sum(quality.per_item) / 6)
    parts = evaluator.evaluate(candidate, "test", 2).join(evaluator.evaluate(candidate, "test", 6, start=2))
    assert parts.per_item == pytest.approx(quality.per_item, abs=1e-5)
    assert parts.others["agreement"] == pytest.approx(quality.others["agreement"])


def test_a_reduced_prompt_loses_something_and_the_parent_nothing(llama, data) -> None:
    evaluator = PromptEvaluator(llama.model, data)
    reduced = Architecture(4).replace_tokens(Schedule.parse("1=0.25"))
    assert evaluator.evaluate(prune(llama.model, reduced, anatomy=llama.anatomy)).loss > 1e-5
    assert evaluator.evaluate(llama.model).loss == pytest.approx(0.0, abs=1e-6)
    assert evaluator.evaluate(llama.model).others["agreement"] == 1.0


def test_prompts_overlap_so_that_there_are_enough(data) -> None:
    found = build_prompts(data)
    for name, count in PROMPTS.items():
        ids, whole = found.get_split(name).inputs["input_ids"], data.get_split(name).inputs["input_ids"].flatten()
        assert ids.shape == (count, 48)
        assert torch.equal(ids[0], whole[:48])
        assert torch.equal(ids[-1], whole[-48:])
        assert len({tuple(row) for row in ids.tolist()}) == count


def test_a_schedule_in_words() -> None:
    message = describe_schedule(Schedule.parse("4=0.5,8=0.125", Reduction(Scorer.LAST)), 256, "image tokens")
    assert message == (
        "from block 4 on half (128) of the 256 image tokens, from block 8 on an eighth (32); selected by attention of "
        "the last token, the others are dropped"
    )
    assert "41.9 % (106)" in describe_schedule(Schedule.parse("4=0.419"), 255, "tokens")
    assert describe_schedule(Schedule(), 256, "image tokens") == "all image tokens"


def test_how_many_schedules_there_are() -> None:
    from nas.pipeline.dry_run import _count_schedules
    from search_spaces import Space

    space = Space.dropping(5, (Unit(0, Kind.MLP),)).allow_tokens(Reduction(), range(1, 5), (0.5, 0.25))
    assert _count_schedules(space) == comb(6, 2)
    assert _count_schedules(Space.dropping(5, (Unit(0, Kind.MLP),))) == 1

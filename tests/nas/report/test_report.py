"""The page of a finished search: says what the search found, needs nothing else, believes nobody's words."""

import base64
import json
import shlex
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from latency_models.footprint import Memory
from latency_models.measurement import Measurement
from latency_models.workload import Workload
from nas.cli.app import app
from nas.cli.summary import _build_lines, _build_rows, _list_meanings
from nas.quality.comparison import Comparison
from nas.quality.quality import Quality
from nas.report import CANDIDATES, REPORT, write_report
from nas.report.command import build_command
from nas.report.drawing import Chart, draw_pareto, draw_redundancy, strip
from nas.request.quantities import Budget, ParameterLimit
from nas.request.search_request import SearchRequest
from nas.results.certificate import Certificate, judge
from nas.results.finalists import Finalist
from nas.results.glossary import add_item_count, explain_percentile, explain_words
from nas.results.model_card import build_card
from nas.results.result import Entry, Result
from nas.search.methods import ONE_SHOT
from nas.search.unit_savings import UnitSavings
from search_spaces import Architecture, Kind, Unit
from search_spaces.architecture import drop_from_parent
from search_spaces.errors import UsageError
from search_spaces.servable import Servable

HOSTILE = '<script>alert("1")</script><img src=x onerror=alert(2)>'
WINNER = drop_from_parent(4, {Unit(1, Kind.BLOCK), Unit(2, Kind.MLP), Unit(3, Kind.ATTENTION)})
WORKLOAD = Workload.parse("forward:batch=8,seq=65")
SIMILARITY = {"attention": [0.2, 0.9, 0.95, 0.99], "mlp": [0.4, 0.99, 1.0, 0.95], "block": [-0.1, 0.9, 0.94, 0.93]}


def quality(loss: float) -> Quality:
    return Quality("kl", loss, False, "test", loss, {"accuracy": 0.97 - loss}, 360)


def entry(architecture: Architecture, loss: float, ms: float, method: str, measured: float | None = None) -> Entry:
    return Entry(architecture, quality(loss), ms, (ms / 2, ms * 2), method, measured)


def certificate(folder: Path, on_target: bool) -> Certificate:
    file = folder / "model.onnx"
    file.write_bytes(b"graph")
    parent, winner = (Measurement((ms,) * 80, WORKLOAD, (20.0,) * 80) for ms in (20.0, 11.5))
    return judge(
        target="host", on_target=on_target, file=file, workload=WORKLOAD, percentile=90, budget_ms=12.0,
        predicted_ms=11.0, architecture=WINNER, environment={"device": "a CPU", "power_mode": "as found"},
        versions={"nas": "0.1"}, measured=(winner, parent),
    )  # fmt: skip


def result(verdict: Certificate, model: str) -> Result:
    measured = (20.0, 11.5) if verdict.on_target else (None, None)
    return Result(
        model={"id": model, "hash": "0123456789abcdef", "family": "vit", "parameters": 612_000},
        target={"name": "host", "label": "measured on this machine", "note": ""},
        workload=str(WORKLOAD), percentile=90, budget_ms=12.0,
        parent=entry(Architecture(4), 0.0, 19.0, "parent", measured[0]),
        winner=entry(WINNER, 0.0432, 11.0, "evolution", measured[1]),
        winner_parameters=401_000, winner_memory=Memory(1 << 20, 0, 1 << 19), winner_joules=0.25,
        certified=verdict.certified, verdict=f"{verdict.verdict}: {verdict.reason}", host=None, files={}, pareto=(),
        baselines=(entry(drop_from_parent(4, {Unit(0, Kind.BLOCK)}), 0.7, 11.9, "cosine-joint"),),
        comparisons=(Comparison("cosine-joint", -0.6568, -0.71, -0.61, 4.8e-15, 360),),
        units=(
            UnitSavings(Unit(0, Kind.ATTENTION).dropped, 1.25, 0.5), UnitSavings(Unit(2, Kind.MLP).dropped, 1.0, 0.001),
        ),
        search={"trials": 4, "evaluations": 40, "seconds": 8.5, "seed": 0, "storage": "study.db"}, mlflow={},
        resume_command="nas search --resume out", parent_memory=Memory(2 << 20, 0, 1 << 20), parent_joules=0.5,
    )  # fmt: skip


@pytest.fixture
def finished(tmp_path: Path) -> Callable[..., Path]:
    """Makes a result folder."""

    def make(name: str = "out", model: str = "digits-vit", on_target: bool = True) -> Path:
        out = tmp_path / name
        (out / "winner").mkdir(parents=True)
        verdict = certificate(out / "winner", on_target)
        verdict.save(out / "winner" / "certificate.json")
        SearchRequest("host", Budget.parse("0.6x"), out, model=model, trials=4).save()
        result(verdict, model).save(out)
        (out / "redundancy.json").write_text(json.dumps({"similarity": SIMILARITY}))
        (out / CANDIDATES).write_text(json.dumps(drawn()))
        return out

    return make


def test_baselines_that_are_equal_are_one_row_with_both_names(tmp_path: Path) -> None:
    """On the page, in the card and on the screen; every name of a baseline and of a metric is explained."""
    (tmp_path / "winner").mkdir()
    found = result(certificate(tmp_path / "winner", True), "digits-vit")
    twin, other = replace(found.baselines[0], method="cosine-joint+add-back"), entry(WINNER, 0.5, 9.0, "cosine-mlp")
    comparisons = [replace(found.comparisons[0], against=name) for name in ("runner-up", "cosine-joint+add-back")]
    found = replace(
        found, baselines=(*found.baselines, twin, other), comparisons=(*found.comparisons, *comparisons),
        mlflow={"tracking_uri": "sqlite:///x.db", "run_id": "1", "page": "/#/experiments/1"},
        phases={"exporting the parent": 12.5},
    )  # fmt: skip
    found.save(tmp_path)
    both = "cosine-joint, cosine-joint+add-back"
    words = " ".join(page_of(tmp_path).words.split())
    assert words.count(both) == 2  # in the table and in the comparisons
    assert words.count("cosine-joint+add-back") == 2
    assert "seconds of exporting the parent 12.5" in words
    assert build_card(found, False).count("cosine-joint+add-back") == 1
    lines = [words for words, _, _ in _build_rows(found)]
    assert lines == ["parent", "winner", both, "cosine-mlp"]
    message = "\n".join(_build_lines(found, tmp_path))
    assert "http://127.0.0.1:5000/#/experiments/1" in message
    for meanings in (words, " ".join("\n".join(_list_meanings(found)).split())):
        for word in ("p90", "accuracy", "cosine-joint", "cosine-mlp", "+add-back", "runner-up"):
            assert f"{word} {explain_percentile(90) if word == 'p90' else explain_words([word])[word]}" in meanings
    assert explain_words([*ONE_SHOT, "kl"]).keys() == {*ONE_SHOT, "kl"}


HEALING = {
    "train": "lora", "asked_minutes": 10.0, "minutes": 9.5, "finalists": 2, "rungs": [20, 300], "steps": 300,
    "best_step": 270, "tokens_seen": 1_234_567, "tokens_seen_by_all": 2_000_000, "data": {},
}  # fmt: skip


def test_finalists_are_shown_at_every_stage_with_what_changed_their_order(tmp_path: Path) -> None:
    """On the page, in the card and on the screen; the winner also as dropped and compensated."""
    (tmp_path / "winner").mkdir()
    other = drop_from_parent(4, {Unit(0, Kind.BLOCK)})
    found = replace(
        result(certificate(tmp_path / "winner", True), "digits-vit"), as_dropped=quality(0.9), compensated=quality(0.5),
        healing=HEALING, finalists=(
            Finalist(1, other, 10.5, 0.8111, 0.3111, (0.2111,), 0.2111),
            Finalist(2, WINNER, 11.0, 0.9222, 0.3222, (0.1222, 0.0222), 0.0221),
        ),
    )  # fmt: skip
    found.save(tmp_path)
    page, card = " ".join(page_of(tmp_path).words.split()), build_card(found, False)
    cells = ["0.9222 (2)", "0.3222 (2)", "0.1222 (1)", "0.0221 (1)"]
    assert " ".join(cells) in page
    assert f"| 2 | {' | '.join(cells)} |" in card
    for text in (page, card, "\n".join(_build_lines(found, tmp_path))):
        assert "compensation left the order: 1, 2" in text
        assert "healing for 20 steps changed the order: 2, 1 (best first), compensated 1, 2" in text
    assert "This model is finalist 2." in card
    assert "for 300 steps on 1,234,567 calibration tokens" in card
    assert "compensated, before it was trained – 0.5000" in page
    assert [words for words, _, _ in _build_rows(found)][:4] == [
        "parent", "winner", "winner compensated", "winner as dropped",
    ]  # fmt: skip
    assert "300 steps, 1,234,567 tokens or images; 9.5 minutes" in "\n".join(_build_lines(found, tmp_path))


def test_a_single_finalist_is_not_a_table(tmp_path: Path) -> None:
    (tmp_path / "winner").mkdir()
    found = result(certificate(tmp_path / "winner", True), "digits-vit")
    replace(found, finalists=(Finalist(1, WINNER, 11.0, 0.9, 0.3),)).save(tmp_path)
    assert "Finalists" not in page_of(tmp_path).words


def drawn() -> dict[str, Any]:
    points = [
        {"ms": 10 + n / 4, "loss": 0.02 * n * n, "label": f"trial {n}", "words": "attn+mlp", "feasible": n < 8}
        for n in range(12)
    ]
    named = {"parent": {**points[0], "ms": 19.0, "loss": 0.0}, "winner": points[3], "cosine-joint": points[7]}
    return {
        "candidates": [*points, {**points[0], "loss": 1e6}], "named": named, "budget_ms": 12.0,
        "latency_label": "p90 latency, ms", "loss_label": "KL",
    }  # fmt: skip


class Page(HTMLParser):
    """What a browser would see: the elements, their attributes, the words."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += f" {data}"

    def count(self, tag: str, look: str) -> int:
        return sum(name == tag and attributes.get("class") == look for name, attributes in self.elements)


def page_of(*folders: Path) -> Page:
    path = folders[0].parent / "page.html"
    write_report(folders, path)
    return Page(path)


def test_the_page_says_what_was_found(finished: Callable[..., Path]) -> None:
    out = finished()
    words = " ".join(page_of(out).words.split())
    for message in (
        "digits-vit on host", "certified", "budget 0.6x = 12.00 ms at p90", "11.50 ms", "0.57 × the parent's 20.00 ms",
        "0.0432", "0.61 M", "0.40 M", "3 MiB 1.5 MiB 0.50 ×", "500 mJ 250 mJ 0.50 ×", "80, p50 11.50 ms, p90 11.50 ms",
        "cosine-joint -0.6568 -0.7100 … -0.6100 4.8e-15 360 better", "mlp.2 1.00 ms 0.0010 1e+03 dropped",
        "attention.0 1.25 ms 0.5000 2.5 kept", "nas search --target host --budget 0.6x --model digits-vit --trials 4",
        f"nas search --resume {out}", "as found",
    ):  # fmt: skip
        assert message in words, message
    import hashlib

    assert words.count(hashlib.sha256(b"graph").hexdigest()) == 2  # of the certificate, and of the file beside it


def test_what_was_not_measured_is_called_predicted(finished: Callable[..., Path]) -> None:
    words = page_of(finished(on_target=False)).words
    assert "predicted, not certified" in words
    assert "p90 latency, predicted" in words
    assert "5.50 – 22.00 ms" in words  # the interval of the prediction
    assert "not on the target" in words  # what was measured instead is not passed off as the target's
    assert "measured on the target" not in words.replace("measured on the target no", "")


def test_it_needs_nothing_else(finished: Callable[..., Path]) -> None:
    page = page_of(finished(), finished("second"))
    style = page.words[page.words.index(":root") : page.words.index("</style>") if "</style>" in page.words else None]
    assert "url(" not in style
    assert "@import" not in style
    for tag, attributes in page.elements:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base", "form")
        for name in ("src", "href", "srcset", "data", "action", "xlink:href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))
        assert not [name for name in attributes if name.startswith("on")]


def test_names_are_words_whatever_they_are(finished: Callable[..., Path]) -> None:
    out = finished(model=HOSTILE)
    document = json.loads((out / "result.json").read_text())
    document["target"] = {"name": HOSTILE, "label": HOSTILE}
    document["versions"] = {HOSTILE: HOSTILE}
    document["winner"] |= {"tokens": HOSTILE, "verdict": HOSTILE}
    document["comparisons"][0]["against"] = document["baselines"][0]["method"] = document["units"][0]["unit"] = HOSTILE
    (out / "result.json").write_text(json.dumps(document))
    candidates = drawn()
    candidates["candidates"][1] |= {"label": HOSTILE, "words": HOSTILE}
    candidates["named"][HOSTILE] = candidates["named"].pop("cosine-joint")
    (out / CANDIDATES).write_text(json.dumps({**candidates, "loss_label": HOSTILE}))
    (out / "winner" / 'x" onload="y<script>').write_text("")
    page = page_of(out, finished("second"))
    assert not [tag for tag, _ in page.elements if tag in ("script", "img")]
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert page.words.count(HOSTILE) > 10


def test_the_strip_shows_the_parts_that_are_kept(finished: Callable[..., Path]) -> None:
    page = page_of(finished())
    for kind in (Kind.ATTENTION, Kind.MLP):
        kept = sum(WINNER.keeps(layer, kind) for layer in range(4))
        # The strip of the winner, then small ones: of parent, winner and baseline (all but one of four).
        assert page.count("rect", kind.value) == kept + 4 + kept + 3
    blocks = strip(Architecture.from_words("attn+mlp mlp@0.5 removed none@0.125 attn"))
    assert [(b.attention, b.mlp, b.removed) for b in blocks] == [
        (True, True, False), (False, True, False), (False, False, True), (False, False, False), (True, False, False),
    ]  # fmt: skip
    assert [block.share for block in blocks] == [1, 0.5, 0.5, 0.125, 0.125]
    assert [block.begins for block in blocks] == ["", "50 %", "", "12.5 %", ""]


def inside(chart: Chart) -> bool:
    positions = [(mark.x, mark.y) for mark in chart.marks] + [(position, chart.bottom) for position, _ in chart.x_ticks]
    positions += [(chart.left, position) for position, _ in chart.y_ticks]
    across, down = chart.left - 1 <= chart.right, chart.top <= chart.bottom
    return (
        across
        and down
        and all(chart.left - 1 <= x <= chart.right + 1 and chart.top - 1 <= y <= chart.bottom + 1 for x, y in positions)
    )


def test_charts_keep_the_order_of_their_numbers() -> None:
    chart = draw_pareto(drawn())
    assert inside(chart)
    assert "3 worse candidates lie above" in chart.y_label  # one hopeless, two above the usual ones
    points = [point for point in drawn()["candidates"] if point["loss"] < 2]
    shown = chart.marks[: len(points)]
    assert sorted(shown, key=lambda mark: mark.x) == [
        shown[i] for i in sorted(range(10), key=lambda i: points[i]["ms"])
    ]
    assert [mark.y for mark in shown] == sorted((mark.y for mark in shown), reverse=True)  # a higher loss is higher up
    assert chart.edge is not None
    assert all((mark.x <= chart.edge) == (point["ms"] <= 12.0) for mark, point in zip(shown, points, strict=True))
    labels = sorted(mark.label_y for mark in chart.marks if mark.label)
    assert len(labels) == 3
    depth = draw_redundancy(SIMILARITY, strip(WINNER))
    assert inside(depth)
    hollow = {mark.words.split(":")[0] for mark in depth.marks if "hollow" in mark.look}
    assert hollow == {
        "attention of block 1", "mlp of block 1", "block of block 1", "mlp of block 2", "attention of block 3",
    }  # fmt: skip


@pytest.mark.parametrize("count", [1, 2])
def test_charts_of_next_to_nothing_are_drawn(count: int) -> None:
    few = drawn()
    few["candidates"] = few["candidates"][:count]
    few["named"] = {"parent": few["candidates"][0], "winner": few["candidates"][0]}
    few["budget_ms"] = few["candidates"][0]["ms"]
    assert inside(draw_pareto(few))
    same = {kind: [1.0] * count for kind in SIMILARITY}
    assert inside(draw_redundancy(same, strip(Architecture.parent(count))))


def test_several_searches_are_compared_first(finished: Callable[..., Path]) -> None:
    folders = [finished("one"), finished("two", model="other", on_target=False)]
    page = page_of(*folders)
    targets = [attributes["href"] for tag, attributes in page.elements if tag == "a"]
    sections = [attributes["id"] for tag, attributes in page.elements if tag == "section" and "id" in attributes]
    assert targets == [f"#{name}" for name in sections]
    assert len(targets) == 2
    assert page.words.index("2 searches") < page.words.index("other") < page.words.index("other on host")


def test_an_older_folder_shows_the_picture_it_has(finished: Callable[..., Path]) -> None:
    out = finished()
    (out / CANDIDATES).unlink()
    (out / "redundancy.json").unlink()
    (out / "winner" / "certificate.json").write_text("{}")
    (out / "request.json").unlink()
    (out / "pareto.png").write_bytes(b"\x89PNG picture")
    page = page_of(out)
    (source,) = [attributes["src"] for tag, attributes in page.elements if tag == "img"]
    assert base64.b64decode((source or "").removeprefix("data:image/png;base64,")) == b"\x89PNG picture"
    assert "There is none in the result folder" in page.words


def nothing(out: Path) -> None:
    (out / "result.json").unlink()
    (out / "request.json").unlink()


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (nothing, "holds no result.json"),
        (lambda out: (out / "result.json").unlink(), "is not finished; continue with: nas search --resume"),
        (lambda out: (out / "result.json").write_text('{"schema_version": 99}'), "has schema_version 99 and"),
        (lambda out: (out / "result.json").write_text('{"schema_version": 1}'), "damaged result"),
        (lambda out: (out / "result.json").write_text("[]"), "is not a result"),
        (lambda out: (out / "result.json").write_text("{"), "is not a result"),
        (lambda out: (out / CANDIDATES).write_text("{}"), "damaged result"),
        (lambda out: (out / CANDIDATES).write_text("x"), "is damaged"),
        (lambda out: (out / "redundancy.json").write_text("{}"), "damaged result .*similarity"),
        (lambda out: out.rename(out.with_name("gone")), "is no folder"),
    ],
)
def test_wrong_folders_are_said_and_leave_the_page_alone(
    damage: Callable[[Path], Any], says: str, finished: Callable[..., Path], tmp_path: Path
) -> None:
    out, page = finished(), tmp_path / "page.html"
    page.write_text("as before")
    damage(out)
    with pytest.raises(UsageError, match=says):
        write_report([out], page)
    assert page.read_text() == "as before"


def test_the_verb_writes_the_page_and_tells_programs(finished: Callable[..., Path]) -> None:
    out, second = finished(), finished("second")
    done = CliRunner().invoke(app, ["report", str(out), "--json"])
    document = json.loads(done.stdout)
    assert document["html"] == str(out / REPORT)
    assert "digits-vit on host" in (out / REPORT).read_text()
    (row,) = document["searches"]
    assert (row["winner_ms"], row["parent_ms"], row["certified"]) == (11.5, 20.0, True)
    done = CliRunner().invoke(app, ["report", str(out), str(second)])
    assert isinstance(done.exception, UsageError)
    assert "--html FILE" in str(done.exception)
    done = CliRunner().invoke(app, ["report", str(out), "--send"])
    assert isinstance(done.exception, UsageError)
    assert f"nas track {out}" in str(done.exception)


def test_the_command_asks_for_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[SearchRequest] = []
    monkeypatch.setattr("nas.cli.search._run", lambda request, *_: asked.append(request))
    request = SearchRequest(
        "jetson-orin", Budget.parse("20ms"), tmp_path, model="my model", workload=WORKLOAD, units=(Kind.MLP,),
        percentile=95, trials=7, time_limit_s=90.0, seed=3, trust_remote_code=True, pareto=True,
        servable=Servable.VANILLA, prefix_cache_bytes=0, max_parameters=ParameterLimit.parse("4M"), method="sleb",
        storage="postgresql://me:secret@db/x", tracking_uri="http://me:secret@server",
    )  # fmt: skip
    text = build_command(request)
    assert "secret" not in text
    done = CliRunner().invoke(app, [*shlex.split(text)[1:], "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert asked == [replace(request, storage=None, tracking_uri=None)]


def test_a_row_that_rests_on_fewer_items_says_so() -> None:
    assert add_item_count("cosine-mlp", 8, 32) == "cosine-mlp (first 8 of 32 items)"
    assert add_item_count("cosine-mlp", 32, 32) == "cosine-mlp"

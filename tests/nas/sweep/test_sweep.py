"""The parts of a sweep without a cluster: the grid, its order, the searcher, what is right for each device."""

import json
import pickle
import tempfile
from pathlib import Path

import optuna
import pytest
from command_line import nas
from hypothesis import example, given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import TPESampler
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from nas.request.quantities import Budget
from nas.request.search_request import SearchRequest
from nas.sweep.cell import Cell, list_cells, list_pilots
from nas.sweep.figure import sweep_figure
from nas.sweep.order import PilotsFirst
from nas.sweep.outcome import Outcome
from nas.sweep.ray_cluster import Place, find_place
from nas.sweep.request import Sweep, create_sweep, parse_list, parse_seed
from nas.sweep.result import SweepResult
from nas.sweep.right_sizing import find_right_sizes
from nas.sweep.row import Model, Row, Score
from nas.sweep.searcher import StudySearcher
from search_spaces.errors import BadBudget, ModelError, UnknownTarget, UsageError

MODELS = ["digits-vit", "python-lm"]
TARGETS = ["host", "jetson-orin", "l4"]

models = st.lists(st.sampled_from(["a/model", "b/model", "/x/model", "python-lm"]), min_size=1, unique=True)
targets = st.lists(st.sampled_from([*TARGETS, "jetson-orin@30w/int8"]), min_size=1, unique=True)
budgets = st.lists(st.sampled_from(["20ms", "0.8x", "1.5s", ".25x"]), min_size=1, unique=True)
seeds = st.lists(st.integers(0, 99), min_size=1, max_size=3, unique=True)


def parsed(texts: list[str]) -> list[Budget]:
    return [Budget.parse(text) for text in texts]


@given(models, targets, budgets, seeds)
def test_the_cells_are_every_combination_once_each_with_a_folder_of_its_own(
    models: list[str], targets: list[str], budgets: list[str], seeds: list[int]
) -> None:
    cells = list_cells(models, targets, parsed(budgets), seeds)
    assert len(cells) == len(models) * len(targets) * len(budgets) * len(seeds)
    assert len({tuple(cell.params.values()) for cell in cells}) == len(cells)
    assert len({cell.name.lower() for cell in cells}) == len(cells)
    assert all(Path(cell.name).name == cell.name and set(cell.name).isdisjoint("@=/ ") for cell in cells)
    assert [cell.name for cell in cells] == sorted(cell.name for cell in cells)
    assert {cell.model for cell in list_pilots(cells)} == set(models)
    assert len(list_pilots(cells)) == len(models)


@given(st.lists(st.text("abc0.:-", min_size=1), min_size=1), st.sampled_from([",", " , ", ", "]))
def test_a_list_is_read_as_it_was_written(members: list[str], between: str) -> None:
    assert parse_list("--models", between.join(members), str) == tuple(members)


@pytest.mark.parametrize(
    ("wrong", "error", "says"),
    [
        ({"targets": ["jetson-orrin"]}, UnknownTarget, "nearest: jetson-orin"),
        ({"targets": []}, UsageError, "--targets is empty"),
        ({"targets": ["jetson-orin", "jetson-agx-orin-64gb@maxn/fp16"]}, UsageError, "are the same"),
        ({"budgets": ["0.8x", ".80x"]}, UsageError, r"\.80x and 0\.8x are the same"),
        ({"budgets": ["20ms", "0.02s"]}, UsageError, "are the same"),
        ({"models": ["./nowhere"]}, ModelError, "is no folder here"),
        ({"models": ["digits-vit", "digits-vit"]}, UsageError, "are the same"),
        ({"seeds": [1, 1]}, UsageError, "are the same"),
    ],
)
def test_wrong_lists_are_refused(wrong: dict, error: type[Exception], says: str, tmp_path: Path) -> None:
    right = {"models": MODELS, "targets": TARGETS, "budgets": ["0.8x"], "seeds": [0]}
    asked = right | wrong
    with pytest.raises(error, match=says):
        create_sweep(tmp_path, asked["models"], asked["targets"], parsed(asked["budgets"]), asked["seeds"])


def test_members_of_lists_are_refused_one_by_one() -> None:
    with pytest.raises(UsageError, match="has an empty place"):
        parse_list("--targets", "host,,l4", str)
    with pytest.raises(BadBudget, match="has no unit"):
        parse_list("--budgets", "20ms,20", Budget.parse)
    with pytest.raises(UsageError, match="no whole number"):
        parse_list("--seeds", "0,-1", parse_seed)


def test_a_sweep_is_read_back_and_neither_overwritten_nor_moved(tmp_path: Path) -> None:
    sweep = create_sweep(tmp_path / "s", MODELS, ["l4"], parsed(["0.8x", "9ms"]), [3], storage="sqlite:///x.db", cpus=2)
    common = SearchRequest("host", Budget.parse("0.5x"), tmp_path / "s", trials=7, percentile=60)
    sweep.save(common)
    assert Sweep.load(tmp_path / "s") == sweep
    requests = [SearchRequest.load(sweep.get_folder(cell)) for cell in sweep.cells]
    assert [(r.model, r.target, r.budget.text, r.seed) for r in requests] == [
        (cell.model, cell.target, cell.budget, cell.seed) for cell in sweep.cells
    ]
    assert {(r.trials, r.percentile, r.storage) for r in requests} == {(7, 60, "sqlite:///x.db")}
    with pytest.raises(UsageError, match="--resume"):
        sweep.save(common)
    (tmp_path / "s").rename(tmp_path / "moved")
    with pytest.raises(UsageError, match="was moved from"):
        Sweep.load(tmp_path / "moved")
    with pytest.raises(UsageError, match=r"holds no sweep-request\.json"):
        Sweep.load(tmp_path)


def test_a_server_s_password_is_not_written_into_the_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    sweep = create_sweep(tmp_path, ["digits-vit"], ["l4"], parsed(["0.8x"]), [0])
    common = SearchRequest("l4", Budget.parse("0.8x"), tmp_path)
    assert sweep.build_request(sweep.cells[0], common).tracking_uri == f"sqlite:///{tmp_path.resolve() / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@server")
    assert sweep.build_request(sweep.cells[0], common).tracking_uri is None
    assert sweep.mlflow == "http://me:secret@server"


# The order.


@settings(max_examples=60)
@given(models, targets, budgets, st.randoms(use_true_random=False), st.integers(1, 4))
def test_each_cell_is_handed_out_once_and_after_its_pilot(models, targets, budgets, random, room: int) -> None:
    cells = list_cells(models, targets, parsed(budgets), [0])
    queue, pilots = PilotsFirst(cells), list_pilots(cells)
    running: list[dict] = []
    ended: list[dict] = []
    while not queue.complete(ended):
        params = queue.take_next(running, ended) if len(running) < room else None
        if params is None:
            assert running, "it waits for nothing"
            ended.append(running.pop(random.randrange(len(running))))
            continue
        cell = next(cell for cell in cells if cell.params == params)
        assert params not in running + ended
        assert cell in pilots or any(pilot.model == cell.model and pilot.params in ended for pilot in pilots)
        running.append(params)
    assert len(ended) == len(cells)
    assert queue.take_next([], ended) is None


# The searcher.

SPACE = {
    "depth": IntDistribution(1, 12),
    "rate": FloatDistribution(1e-4, 1.0, log=True),
    "kind": CategoricalDistribution(("a", "b", "c")),
}


def judged(params: dict) -> tuple[float, float]:
    """A loss and a constraint."""
    loss = (params["depth"] - 5) ** 2 + abs(params["rate"] - 0.1) + "abc".index(params["kind"])
    return loss, params["depth"] - 6.5


def test_it_asks_and_tells_as_optuna_alone_does_constraints_included() -> None:
    alone = optuna.create_study(sampler=TPESampler(seed=3, n_startup_trials=5))
    for _ in range(30):
        trial = alone.ask(SPACE)
        loss, over = judged(trial.params)
        trial.set_constraint("over", over)
        alone.tell(trial, loss)
    searcher = StudySearcher("memory", "s", SPACE, "loss", constraints=["over"], kept=["note"])
    searcher._opened = optuna.create_study(sampler=TPESampler(seed=3, n_startup_trials=5))
    for number in range(30):
        params = searcher.suggest(f"ray{number}")
        loss, over = judged(params)
        searcher.on_trial_complete(f"ray{number}", {"loss": loss, "over": over, "note": f"{number}", "other": 1})
    assert [t.params for t in searcher.study.trials] == [t.params for t in alone.trials]
    assert [t.value for t in searcher.study.trials] == [t.value for t in alone.trials]
    assert [t.constraints for t in searcher.study.trials] == [t.constraints for t in alone.trials]
    assert searcher.study.best_trial.number == alone.best_trial.number
    assert searcher.study.best_trial.constraints["over"] <= 0
    assert [t.user_attrs["note"] for t in searcher.study.trials] == [str(n) for n in range(30)]


@pytest.mark.parametrize(
    ("reported", "state", "constraints"),
    [
        (({"loss": 1.0, "over": -2.0}, False), TrialState.COMPLETE, {"over": -2.0}),
        (({"loss": 1.0, "over": float("nan")}, False), TrialState.COMPLETE, {}),
        (({"loss": float("nan"), "over": 3.0}, False), TrialState.FAIL, {"over": 3.0}),
        (({"over": 3.0}, False), TrialState.FAIL, {"over": 3.0}),
        ((None, True), TrialState.FAIL, {}),
        (({"loss": 1.0, "over": 3.0}, True), TrialState.FAIL, {"over": 3.0}),
    ],
)
def test_what_has_no_value_has_failed_and_keeps_its_constraints(
    reported: tuple, state: TrialState, constraints: dict, tmp_path: Path
) -> None:
    searcher = StudySearcher(f"sqlite:///{tmp_path / 's.db'}", "s", SPACE, "loss", constraints=["over"])
    searcher.suggest("ray")
    searcher.on_trial_complete("ray", *reported)
    (trial,) = searcher.study.trials
    assert (trial.state, trial.constraints) == (state, constraints)


@settings(max_examples=60, deadline=None)
@example(["ask", "save", "tell", "die"], 0)
@example(["ask", "save", "die"], 0)
@example(["save", "ask", "die"], 0)
@example(["save", "ask", "tell", "ask", "die"], 0)
@example(["ask", "tell", "ask", "ask", "forget"], 0)
@given(st.lists(st.sampled_from(["ask", "tell", "save", "die", "forget"]), max_size=40), st.integers(0, 10**6))
def test_whenever_the_driver_dies_every_cell_ends_once(actions: list[str], number: int) -> None:
    """Ray's side is played: what it knows is what it saved last; what it has running it runs again."""
    storage, queue = InMemoryStorage(), PilotsFirst(list_cells(MODELS, TARGETS, parsed(["0.8x"]), [0]))
    space = {
        name: CategoricalDistribution(tuple({c.params[name]: 0 for c in queue.cells})) for name in queue.cells[0].params
    }

    def new() -> StudySearcher:
        made = StudySearcher("memory", "s", space, "loss", queue=queue)
        made._opened = optuna.create_study(storage=storage, study_name="s", load_if_exists=True)
        return made

    searcher, running, saved = new(), {}, ({}, "[]")
    state = Path(tempfile.mkdtemp()) / "state"

    def ask() -> None:
        nonlocal number
        number += 1
        params = searcher.suggest(f"ray{number}")
        if isinstance(params, dict):
            running[f"ray{number}"] = params

    def tell() -> None:
        if running:
            name = sorted(running)[0]
            del running[name]
            searcher.on_trial_complete(name, {"loss": 1.0})

    for action in actions:
        if action == "ask":
            ask()
        elif action == "tell":
            tell()
        elif action == "save":
            searcher.save(str(state))
            saved = (dict(running), state.read_text())
        else:
            searcher = pickle.loads(pickle.dumps(new()))
            searcher._opened = new()._opened
            running = {}
            if action == "die":  # else Ray begins anew
                state.write_text(saved[1])
                searcher.restore(str(state))
                running = dict(saved[0])
            else:
                saved = ({}, "[]")
    for _ in range(4 * len(queue.cells)):
        ask()
        tell()
    assert searcher.suggest("last") == "FINISHED"
    ended = [trial.params for trial in searcher.study.trials if trial.state is TrialState.COMPLETE]
    assert sorted(map(str, ended)) == sorted(str(cell.params) for cell in queue.cells)
    assert all(trial.state is TrialState.COMPLETE for trial in searcher.study.trials)


def test_a_trial_whose_worker_died_and_that_ran_again_is_told_anew(tmp_path: Path) -> None:
    searcher = StudySearcher(f"sqlite:///{tmp_path / 's.db'}", "s", SPACE, "loss", constraints=["over"])
    params = searcher.suggest("ray")
    searcher.on_trial_complete("ray", error=True)
    searcher.on_trial_complete("ray", error=True)
    searcher.on_trial_complete("ray", {"loss": 2.0, "over": -1.0})
    searcher.on_trial_complete("ray", {"loss": 2.0, "over": -1.0})
    assert [trial.state for trial in searcher.study.trials] == [TrialState.FAIL, TrialState.COMPLETE]
    assert {json.dumps(trial.params) for trial in searcher.study.trials} == {json.dumps(params)}
    assert searcher.study.best_trial.constraints == {"over": -1.0}


# What trials ask for.

NODE = {"CPU": 8.0, "memory": 1e9, "node:10.0.0.1": 1.0, "node:__internal_head__": 1.0}
JETSONS = {"CPU": 12.0, "jetson-orin": 1.0, "node:10.0.0.2": 1.0}


def test_this_machine_is_taken_whole_and_a_device_for_its_measurements_only() -> None:
    assert find_place("l4", 2, [NODE, JETSONS], NODE) == Place({"CPU": 2.0}, None)
    assert find_place("jetson-orin", 1, [NODE, JETSONS], NODE) == Place({"CPU": 1.0}, "jetson-orin")
    assert find_place("host", 1, [NODE, JETSONS], NODE) == Place({"CPU": 8.0, "node:10.0.0.1": 0.001}, None)
    named = JETSONS | {"host": 1.0}
    assert find_place("host", 1, [NODE, named], NODE) == Place({"CPU": 12.0, "node:10.0.0.2": 0.001}, None)
    full_name = "jetson-agx-orin-64gb@maxn/fp16"
    assert find_place("jetson-orin", 1, [NODE, {full_name: 1.0}], NODE) == Place({"CPU": 1.0}, full_name)


def test_what_no_node_has_is_refused() -> None:
    with pytest.raises(UsageError, match="asks for 13 CPUs of a node and none has more than 12"):
        find_place("l4", 13, [NODE, JETSONS], NODE)
    with pytest.raises(UsageError, match="asks for 1 CPUs of a node and this one has more than 0"):
        find_place("host", 1, [NODE, JETSONS], {"node:10.0.0.9": 1.0})


# Right-sizing.


def row(
    model: str, target: str, ms: float, value: float, *, metric: str = "accuracy", budget_ms: float = 10.0,
    parent: tuple[float, float] = (20.0, 0.9), data: str = "d", workload: str = "w", items: int = 400,
) -> Row:  # fmt: skip
    higher = metric in ("accuracy", "embedding_fidelity")

    def score(value: float) -> Score:
        return Score(metric, value, higher, metric in ("accuracy", "perplexity"), items)

    cell = Cell(f"{model}-{target}-{ms}", model, target, "0.5x", 0)
    whole = Model(parent[0], parent[0], None, 1000, score(parent[1]))
    winner = Model(ms, ms, None, 500, score(value))
    outcome = Outcome("winner", 1.0)
    return Row(cell, Path("f"), False, target, outcome, workload, data, budget_ms, whole, winner)


def choices(rows: list[Row], budget_ms: float) -> list[tuple[str, float]]:
    (answer,) = [answer for answer in find_right_sizes(rows) if answer.budget_ms == budget_ms]
    return [(choice.best.base, choice.best.share) for choice in answer.choices]


def test_the_large_model_cut_down_is_set_against_the_small_one_whole() -> None:
    small = row("small", "l4", 5.0, 0.80, budget_ms=6.0, parent=(9.0, 0.85))
    large = row("large", "l4", 9.5, 0.88, budget_ms=10.0, parent=(20.0, 0.95))
    assert choices([small, large], 6.0) == [("small", 0.5)]
    assert choices([small, large], 10.0) == [("large", 0.5)]
    worse = row("large", "l4", 9.5, 0.84, budget_ms=10.0, parent=(20.0, 0.95))
    assert choices([small, worse], 10.0) == [("small", 1.0)]
    (answer,) = [answer for answer in find_right_sizes([small, large]) if answer.budget_ms == 10.0]
    assert answer.choices[0].next_best.base == "small"
    assert answer.choices[0].next_best.share == 1.0
    ahead = "large, 50 % of its parameters: accuracy 0.88 at 9.5 ms; not clearly ahead of"
    assert answer.words == [f"{ahead} small, whole: accuracy 0.85 at 9 ms"]


def test_lower_is_better_where_it_is() -> None:
    rows = [row("a", "l4", 5.0, 7.0, metric="perplexity"), row("b", "l4", 5.0, 6.0, metric="perplexity")]
    assert choices(rows, 10.0) == [("b", 0.5)]
    assert find_right_sizes(rows)[0].choices[0].clear is None


@pytest.mark.parametrize(
    "other",
    [
        {"metric": "perplexity"},
        {"data": "another tokenizer"},
        {"workload": "longer"},
        {"metric": "kl"},
        {"metric": "embedding_fidelity"},
    ],
)
def test_what_cannot_be_compared_is_not(other: dict) -> None:
    rows = [row("a", "l4", 5.0, 0.9), row("b", "l4", 4.0, 0.1, **other)]
    assert choices(rows, 10.0) == [("a", 0.5), ("b", 0.5)]
    assert not find_right_sizes(rows)[0].to_json()["comparable"]


@pytest.mark.parametrize("metric", ["kl", "embedding_fidelity", "next_token_kl"])
def test_a_distance_to_the_own_parent_is_never_compared_across_models(metric: str) -> None:
    rows = [row("a", "l4", 5.0, 0.9, metric=metric), row("b", "l4", 4.0, 0.1, metric=metric)]
    assert choices(rows, 10.0) == [("a", 0.5), ("b", 0.5)]
    assert [choice.next_best for choice in find_right_sizes(rows)[0].choices] == [None, None]


def test_data_that_is_not_known_is_not_taken_to_be_the_same() -> None:
    assert len(choices([row("a", "l4", 5.0, 0.9, data=""), row("b", "l4", 5.0, 0.8, data="")], 10.0)) == 2


def test_targets_do_not_mix_and_every_budget_of_a_target_is_answered() -> None:
    rows = [
        row("a", "l4", 5.0, 0.8, budget_ms=6.0),
        row("a", "l4", 3.0, 0.7, budget_ms=4.0),
        row("b", "t4", 1.0, 0.99, budget_ms=2.0),
    ]
    answers = find_right_sizes(rows)
    assert [(answer.target, answer.budget_ms) for answer in answers] == [("l4", 4.0), ("l4", 6.0), ("t4", 2.0)]
    assert [answer.choices[0].best.base for answer in answers] == ["a", "a", "b"]
    none = Row(
        Cell("c", "c", "h100", "1ms", 0),
        Path("f"),
        True,
        "h100",
        Outcome("infeasible", 1, "no", 1.0, 2.0),
        budget_ms=1.0,
    )
    (answer,) = find_right_sizes([none])
    assert answer.words == ["no model found is fast enough"]


@given(st.floats(0, 1), st.floats(0, 1), st.integers(1, 10**5))
def test_a_clear_lead_is_one_beyond_chance(one: float, other: float, items: int) -> None:
    rows = [
        row("a", "l4", 5.0, one, items=items, parent=(99, 1)),
        row("b", "l4", 5.0, other, items=items, parent=(99, 1)),
    ]
    clear = find_right_sizes(rows)[0].choices[0].clear
    assert clear == (abs(one - other) > 1.96 * ((one * (1 - one) + other * (1 - other)) / items) ** 0.5)


def test_exit_codes_and_the_document_of_a_sweep(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, "id", ())
    won, none = row("a", "l4", 5.0, 0.9), row("b", "l4", 5.0, 0.9)
    infeasible = Row(
        none.cell, Path("f"), False, "l4", Outcome("infeasible", 2.0, "no candidate", 10.0, 12.0), budget_ms=10.0
    )
    failed = Row(none.cell, Path("f"), False, "l4", Outcome("failed", 2.0, "wrong workload"))
    assert SweepResult(sweep, (won,)).exit_code == 0
    assert SweepResult(sweep, (won, infeasible)).exit_code == 3
    assert SweepResult(sweep, (won, infeasible, failed)).exit_code == 1
    result = SweepResult(sweep, (won, infeasible, failed))
    document = json.loads(result.save().read_text())
    assert document == json.loads(json.dumps(result.to_json()))
    assert [cell["state"] for cell in document["cells"]] == ["winner", "infeasible", "failed"]
    assert document["cells"][0]["parent_ms"] == 20.0
    assert (document["cells"][1]["budget_ms"], document["cells"][1]["closest_ms"]) == (10.0, 12.0)
    assert document["cells"][2]["reason"] == "wrong workload"


def test_the_picture_has_a_plot_for_each_target_and_kind_of_metric(tmp_path: Path) -> None:
    from PIL import Image

    one = sweep_figure([row("a", "l4", 5.0, 0.9)], tmp_path / "one.png")
    rows = [row("a", "l4", 5.0, 0.9), row("b", "l4", 4.0, 0.8), row("c", "t4", 4.0, 0.1, metric="kl")]
    four = sweep_figure(rows, tmp_path / "four.png")
    with Image.open(one) as small, Image.open(four) as large:
        assert large.width > 1.7 * small.width
        assert large.height > 1.7 * small.height


# The command line, before Ray is started.


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--targets", "l4"], "--budgets is missing"),
        (["--budgets", "20ms"], "--targets is missing"),
        (["--targets", "l4", "--budgets", "20"], "has no unit"),
        (["--targets", "l4", "--budgets", "20ms", "--units", "heads"], "units 'heads'"),
        (["--targets", "l4", "--budgets", "20ms", "--workload", "run"], "phase 'run'"),
        (["--resume", "."], "holds no sweep-request.json"),
    ],
)
def test_wrong_use_is_one_line_and_leaves_nothing(arguments: list[str], says: str, tmp_path: Path) -> None:
    done = nas("sweep", *arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr.strip().splitlines()[-1]
    assert not list(tmp_path.iterdir())


def test_a_dry_run_lists_the_searches_and_starts_nothing(tmp_path: Path) -> None:
    asked = ["sweep", "--targets", "l4,host", "--budgets", "0.8x,9ms", "--models", "digits-vit", "--dry-run"]
    document = json.loads(nas(*asked, "--json", cwd=tmp_path).stdout)
    assert [(cell["target"], cell["budget"], cell["pilot"]) for cell in document["cells"]] == [
        ("l4", "0.8x", True), ("l4", "9ms", False), ("host", "0.8x", False), ("host", "9ms", False)
    ]  # fmt: skip
    assert "4 searches" in nas(*asked, cwd=tmp_path).stdout
    assert not list(tmp_path.iterdir())

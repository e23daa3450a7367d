"""How an experiment's page shows its runs: candidates in one flat table, the best first, with metric columns.

MLflow keeps such a view as a tag of the experiment, under a key that an address names. Without the key its page shows
no metric until a person chooses columns, so the description of the experiment links to the view, and so does the end
of a search.
"""

import json
from typing import Any

from nas.tracking.record import Layout

VIEW = "candidates"
_NOTE = "mlflow.note.content"
_VIEW_TAG = "mlflow.sharedViewState."
_SHOWN_FIRST = "tags.`nas.method`"
_WORDS = (
    "[Candidates with their metrics]({page})\n\nOne row is a candidate, or a search with the numbers of its winner; "
    "all have the same metrics, on the validation split. `{metric}` is {better} when better. A significantly worse "
    "candidate stopped early: its metrics are of fewer `items`, and its `loss` is an estimate for more items. "
    "`latency.p90_ms` is measured where `latency.measured` is 1, else predicted; `feasible` is 1 where the budget is "
    "met."
)


def view_path(experiment_id: str) -> str:
    """The address of the table of candidates on MLflow's own page, from the server's address on."""
    return f"/#/experiments/{experiment_id}/runs?viewStateShareKey={VIEW}&workflowType=machine_learning"


def lay_out(client: Any, experiment_id: str, layout: Layout) -> None:
    """Describe an experiment and keep the view of its candidates; what is written there already is left alone."""
    present = client.get_experiment(experiment_id).tags
    better = "higher" if layout.higher_is_better else "lower"
    wanted = {
        "mlflow.experimentKind": "custom_model_development",  # its page begins with the runs
        "mlflow.experiment.primaryMetric.name": layout.metric,
        "mlflow.experiment.primaryMetric.greaterIsBetter": str(layout.higher_is_better).lower(),
        f"{_VIEW_TAG}{VIEW}": json.dumps(_build_view(layout)),
        _NOTE: _WORDS.format(metric=layout.metric, better=better, page=view_path(experiment_id)[1:]),
    }
    for key, value in wanted.items():
        if present.get(key) != value and not (key == _NOTE and key in present):  # a person may have written another
            client.set_experiment_tag(experiment_id, key, value)


def _build_view(layout: Layout) -> dict[str, Any]:
    """What MLflow's page keeps of a view: the order of the runs, and the columns. Runs in such an order do not nest."""
    columns = [f"metrics.`{name}`" for name in dict.fromkeys(layout.columns)]
    return {
        "orderByKey": f"metrics.`{layout.metric}`",
        "orderByAsc": not layout.higher_is_better,
        "selectedColumns": [*columns, _SHOWN_FIRST],
    }

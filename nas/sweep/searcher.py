"""A Ray Tune searcher over one Optuna study that keeps constraints, which Ray's own `OptunaSearch` cannot."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, Trial, TrialState
from ray.tune.search import Searcher

from nas.storage.open_storage import open_storage

TUNE_TRIAL = "tune_trial"  # the user attribute that holds the id of Ray's trial


class Queue(Protocol):
    """Decides what is handed out, in place of the study's sampler."""

    def take_next(self, given: Sequence[dict[str, Any]], ended: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
        """The next params; None to wait until something ends."""

    def complete(self, ended: Sequence[dict[str, Any]]) -> bool:
        """Whether nothing is left to hand out, nor to wait for."""


class StudySearcher(Searcher):  # type: ignore[misc]  # ray carries no types
    """Asks and tells an Optuna study: `ask` for each suggestion; constraints, then `tell`, for each that ended.

    What a trainable reports under `metric` is the value, what it reports under the names in `constraints` are
    constraints (met at 0 or below), what it reports under those in `kept` becomes user attributes. Without a value, or
    with an error, the trial is told as failed; its constraints are kept all the same.

    The study is the memory: nothing but which Optuna trial belongs to which of Ray's is saved beside it. After the
    driver's death a trial that Ray does not know is handed out again; a study has one driver at a time.
    """

    def __init__(
        self, storage: str, study: str, space: Mapping[str, BaseDistribution], metric: str, *,
        constraints: Sequence[str] = (), kept: Sequence[str] = (),
        direction: Literal["minimize", "maximize"] = "minimize", queue: Queue | None = None,
        sampler: BaseSampler | None = None,
    ) -> None:  # fmt: skip
        # Ray is not told the metric: it would refuse the reports of trials that have no value.
        super().__init__()
        self._place, self._space, self._value = (storage, study), dict(space), metric
        self._constraints, self._kept, self._direction = tuple(constraints), tuple(kept), direction
        self._queue, self._sampler = queue, sampler
        self._known: set[str] = set()  # the ids of the trials that Ray has of us
        self._opened: optuna.Study | None = None

    @property
    def study(self) -> optuna.Study:
        """The study; opened when it is first asked for."""
        if self._opened is None:
            storage, name = self._place
            optuna.logging.set_verbosity(optuna.logging.WARNING)
            self._opened = optuna.create_study(
                storage=open_storage(storage), study_name=name, direction=self._direction, load_if_exists=True,
                sampler=self._sampler,
            )  # fmt: skip
        return self._opened

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The params of the next trial; None to wait, or FINISHED."""
        trial = self._find_orphan()
        if trial is None and self._queue is not None:
            ended = self._list_params(TrialState.COMPLETE, TrialState.FAIL, TrialState.PRUNED)
            params = self._queue.take_next(self._list_params(TrialState.RUNNING), ended)
            if params is None:
                return str(Searcher.FINISHED) if self._queue.complete(ended) else None
            trial = self._begin(params, trial_id)
        trial = trial or self.study.ask(self._space)
        trial.set_user_attr(TUNE_TRIAL, trial_id)
        self._known.add(trial_id)
        return dict(trial.params)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell the study how a trial ended; what it has been told already is not news."""
        reported = result or {}
        failed = error or not _is_number(reported.get(self._value))
        trial = self._find_trial_to_tell(trial_id, failed)
        if trial is None:
            return
        for name in self._constraints:
            if _is_number(reported.get(name)):
                trial.set_constraint(name, reported[name])
        for name in self._kept:
            if reported.get(name) is not None:
                trial.set_user_attr(name, reported[name])
        if failed:
            self.study.tell(trial, state=TrialState.FAIL)
        else:
            self.study.tell(trial, reported[self._value])

    def save(self, checkpoint_path: str) -> None:
        """Write which trials Ray knows."""
        Path(checkpoint_path).write_text(json.dumps(sorted(self._known)))

    def restore(self, checkpoint_path: str) -> None:
        """Read what `save` wrote."""
        self._known = set(json.loads(Path(checkpoint_path).read_text()))

    def __getstate__(self) -> dict[str, Any]:
        """Without the open study: Ray keeps its settings as a pickle."""
        return {**self.__dict__, "_opened": None}

    def _begin(self, params: dict[str, Any], trial_id: str) -> Trial:
        """A trial of these params that runs; it is in the study as a whole, or not at all."""
        attributes = {TUNE_TRIAL: trial_id}
        self.study.add_trial(optuna.trial.create_trial(
            state=TrialState.RUNNING, params=params, distributions=self._space, user_attrs=attributes
        ))  # fmt: skip
        return self._build_trial(
            next(trial for trial in reversed(self._list_trials()) if trial.user_attrs == attributes)
        )

    def _find_trial_to_tell(self, trial_id: str, failed: bool) -> Trial | None:
        """The study's trial of one of Ray's; None where nothing is to be told.

        That is so where its params were handed out again to another, and where it had ended: after the driver's death
        Ray may have forgotten that it did. Only where it had failed and now has a value there is a new one to tell.
        """
        trials = reversed(self._list_trials())
        frozen = next((trial for trial in trials if trial.user_attrs.get(TUNE_TRIAL) == trial_id), None)
        if frozen is None or not frozen.state.is_finished():
            return None if frozen is None else self._build_trial(frozen)
        again = frozen.state is TrialState.FAIL and not failed
        return self._begin(frozen.params, trial_id) if again else None

    def _find_orphan(self) -> Trial | None:
        """A trial that was running when the driver died and that Ray does not know of."""
        for trial in self._list_trials(TrialState.RUNNING):
            if trial.user_attrs.get(TUNE_TRIAL) not in self._known:
                if trial.params.keys() == self._space.keys():
                    return self._build_trial(trial)
                self.study.tell(trial.number, state=TrialState.FAIL)  # the driver died while it was asked for
        return None

    def _list_params(self, *states: TrialState) -> list[dict[str, Any]]:
        return [trial.params for trial in self._list_trials(*states)]

    def _list_trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=states or None)

    def _build_trial(self, frozen: FrozenTrial) -> Trial:
        return Trial(self.study, frozen._trial_id)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not math.isnan(value)

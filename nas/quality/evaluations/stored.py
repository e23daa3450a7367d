"""Evaluations in the storage of the studies: machines that share no disk share them, and so does a restarted driver."""

import math

import optuna
from optuna.storages import BaseStorage
from optuna.trial import TrialState, create_trial

from nas.quality.evaluations.base import SCHEMA_VERSION, Evaluations, Key, encode_entry
from nas.quality.quality import Quality

ENTRY = "evaluation"  # one attribute for all of it: each costs a server several statements


class StoredEvaluations(Evaluations):
    """An Optuna study of its own, with one finished trial per evaluation."""

    def __init__(self, storage: BaseStorage, content: str) -> None:
        """Open or begin the study of a content, which names weights, data and metric, and read what is there."""
        super().__init__()
        name = f"evaluations {SCHEMA_VERSION} {content}"
        self._study = optuna.create_study(study_name=name, storage=storage, load_if_exists=True)
        self._read = 0
        self._look()

    def _look(self) -> None:
        # Every trial is finished when it appears, and they appear in order of their numbers.
        trials = self._study.get_trials(deepcopy=False)
        self._take((trial.user_attrs.get(ENTRY) for trial in trials[self._read :]), "the studies' storage")
        self._read = len(trials)

    def _write(self, key: Key, quality: Quality) -> None:
        loss = math.inf if math.isnan(quality.loss) else quality.loss  # Optuna has no trial without a number
        entry = {ENTRY: encode_entry(key, quality)}
        self._study.add_trial(create_trial(state=TrialState.COMPLETE, value=loss, user_attrs=entry))

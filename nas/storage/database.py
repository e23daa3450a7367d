"""Studies in a database: Optuna's, made to outlive a server that dies in mid-search.

Every operation is repeated until the server is back. One that was carried out though its answer got lost must then
not be carried out twice; for most, Optuna's statements see to that (attributes are upserts, parameters are unique),
and the two others are changed here: a new trial carries a ticket, and a new state is looked for before it is set again.
"""

import copy
import json
import sqlite3
from collections.abc import Callable, Sequence, Set
from contextlib import suppress
from functools import wraps
from itertools import count
from typing import Any, Concatenate, ParamSpec, TypeVar
from uuid import uuid4

from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import event, insert
from sqlalchemy.exc import DatabaseError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.orm import Session

from nas.storage.redact import remove_password
from nas.storage.retry import RETRY_TIMEOUT_S, find_reason, list_causes, retry_with_backoff
from search_spaces.errors import StorageUnavailable

_FOR_GOOD = ("readonly database", "no such table", "no such column", "unable to open database file", "malformed")
TICKET = "nas:ticket"  # the system attribute by which a repeated creation finds what an earlier attempt made

_P = ParamSpec("_P")
_T = TypeVar("_T")


def _make_patient(
    method: Callable[Concatenate[RDBStorage, _P], _T],
) -> Callable[Concatenate["Database", _P], _T]:
    """The method, repeated while the database is away."""

    @wraps(method)
    def call_patiently(self: "Database", /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return self.retry_with_backoff(lambda: method(self, *args, **kwargs))

    return call_patiently


class Database(RDBStorage):
    """Optuna's database storage with patience. `optuna.create_study` puts its cache before it, as before its own."""

    def __init__(self, url: str, engine_kwargs: dict[str, Any], patience_s: float = RETRY_TIMEOUT_S) -> None:
        """Connect, and create the tables where there are none."""
        self._url, self._patience_s = remove_password(url), patience_s
        self._open_tickets: set[str] = set()
        self._distributions: dict[int, dict[str, BaseDistribution]] = {}  # of each study, known to be its own
        literal = url.replace("{", "{{").replace("}", "}}")  # Optuna formats the URL: a password may hold braces
        super().__init__(literal, engine_kwargs)
        if self.engine.name == "sqlite" and self.engine.url.database not in (None, "", ":memory:"):
            event.listen(self.engine, "connect", _write_ahead)
            self.engine.dispose()

    def retry_with_backoff(self, call: Callable[[], _T]) -> _T:
        """Repeat a call while the database is away.

        Raises:
            StorageUnavailable: it stayed away, or it is damaged.
        """
        try:
            return retry_with_backoff(call, _passes, self._url, self._patience_s)
        except (StorageInternalError, DatabaseError) as error:
            if isinstance(error, IntegrityError):  # of what was asked: Optuna's own code deals with it
                raise
            raise StorageUnavailable(
                f"storage {self._url} fails ({find_reason(error)}); repair it, or name another with --storage, and "
                "run the same command again"
            ) from None

    create_new_study = _make_patient(RDBStorage.create_new_study)
    set_study_user_attr = _make_patient(RDBStorage.set_study_user_attr)
    set_study_system_attr = _make_patient(RDBStorage.set_study_system_attr)
    get_study_id_from_name = _make_patient(RDBStorage.get_study_id_from_name)
    get_study_name_from_id = _make_patient(RDBStorage.get_study_name_from_id)
    get_study_directions = _make_patient(RDBStorage.get_study_directions)
    get_study_user_attrs = _make_patient(RDBStorage.get_study_user_attrs)
    get_study_system_attrs = _make_patient(RDBStorage.get_study_system_attrs)
    get_all_studies = _make_patient(RDBStorage.get_all_studies)
    get_trial_id_from_study_id_trial_number = _make_patient(RDBStorage.get_trial_id_from_study_id_trial_number)
    get_trial_param = _make_patient(RDBStorage.get_trial_param)
    get_trial_user_attrs = _make_patient(RDBStorage.get_trial_user_attrs)
    get_trial_system_attrs = _make_patient(RDBStorage.get_trial_system_attrs)
    get_trial = _make_patient(RDBStorage.get_trial)
    set_trial_intermediate_value = _make_patient(RDBStorage.set_trial_intermediate_value)
    set_trial_user_attr = _make_patient(RDBStorage.set_trial_user_attr)
    set_trial_system_attr = _make_patient(RDBStorage.set_trial_system_attr)
    _set_trial_param = _make_patient(RDBStorage._set_trial_param)
    _get_trials = _make_patient(RDBStorage._get_trials)
    _get_best_trial_id = _make_patient(RDBStorage._get_best_trial_id)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """As Optuna's. A study has one driver: what a repeated attempt finds done, an earlier attempt of ours did."""
        attempts = count()

        def attempt() -> bool:
            if next(attempts):
                trial = RDBStorage.get_trial(self, trial_id)
                if trial.state is state and (values is None or trial.values == list(values)):
                    return True
            return RDBStorage.set_trial_state_values(self, trial_id, state, values)

        return self.retry_with_backoff(attempt)

    def _create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> FrozenTrial:
        """As Optuna's, which repeats the creation by itself too, but with a ticket that makes it happen once."""
        template = copy.copy(template_trial) if template_trial else create_trial(state=TrialState.RUNNING)
        ticket = uuid4().hex
        template.system_attrs = {**template.system_attrs, TICKET: ticket}
        try:
            return self.retry_with_backoff(lambda: RDBStorage._create_new_trial(self, study_id, template))
        finally:
            self._open_tickets.discard(ticket)

    def _get_prepared_new_trial(
        self, study_id: int, template_trial: FrozenTrial | None, session: Session
    ) -> models.TrialModel:
        """Runs while the study's row is locked: nobody else creates a trial of the study meanwhile."""
        assert template_trial is not None  # see _create_new_trial
        ticket = template_trial.system_attrs[TICKET]
        made = self._make(study_id, ticket, session) if ticket in self._open_tickets else None
        self._open_tickets.add(ticket)
        return made or self._prepare(study_id, template_trial, session)

    def _prepare(self, study_id: int, template: FrozenTrial, session: Session) -> models.TrialModel:
        """As Optuna's, but all parameters and attributes in three statements instead of three for each of them.

        Optuna compares a parameter with those of the trials before; here that is done once per process.
        """
        known = self._distributions.setdefault(study_id, {})
        bare = copy.copy(template)
        bare.user_attrs, bare.system_attrs = {}, {}
        bare.params = {
            name: value
            for name, value in template.params.items()
            if known.get(name) != _read_distribution(template, name)
        }
        bare.distributions = {name: _read_distribution(template, name) for name in bare.params}
        trial = super()._get_prepared_new_trial(study_id, bare, session)
        known |= bare.distributions
        for model, rows in _list_rows(template, set(bare.params)):
            if rows:
                session.execute(insert(model), [{"trial_id": trial.trial_id, **row} for row in rows])
        return trial

    def _make(self, study_id: int, ticket: str, session: Session) -> models.TrialModel | None:
        attribute = models.TrialSystemAttributeModel
        trial: models.TrialModel | None = (
            session.query(models.TrialModel)
            .join(attribute)
            .filter(models.TrialModel.study_id == study_id)
            .filter(attribute.key == TICKET, attribute.value_json == json.dumps(ticket))
            .one_or_none()
        )
        return trial


def _read_distribution(trial: FrozenTrial, name: str) -> BaseDistribution:
    return trial.distributions[name]


def _list_rows(trial: FrozenTrial, written: Set[str]) -> list[tuple[type[Any], list[dict[str, Any]]]]:
    """By table, what a new trial consists of; parameters without those that are written already."""
    params = [
        {
            "param_name": name,
            "param_value": _read_distribution(trial, name).to_internal_repr(value),
            "distribution_json": distribution_to_json(_read_distribution(trial, name)),
        }
        for name, value in trial.params.items()
        if name not in written
    ]
    user, system = (
        [{"key": key, "value_json": json.dumps(value)} for key, value in attributes.items()]
        for attributes in (trial.user_attrs, trial.system_attrs)
    )
    return [
        (models.TrialParamModel, params),
        (models.TrialUserAttributeModel, user),
        (models.TrialSystemAttributeModel, system),
    ]


def _write_ahead(connection: Any, _: Any) -> None:
    """SQLite waits for the disk at every commit, three a trial, unless it writes ahead.

    A process that is killed loses nothing by that; a machine that loses its power may lose the last trials, which are
    then judged again. Where a file system knows no shared memory, SQLite stays as it is.
    """
    with suppress(sqlite3.OperationalError):
        if connection.execute("PRAGMA journal_mode = WAL").fetchone() == ("wal",):
            connection.execute("PRAGMA synchronous = NORMAL")


def _passes(error: Exception) -> bool:
    """Whether it is about the connection or the server, not about what was asked of it."""
    known = isinstance(error, StorageInternalError | OperationalError | InterfaceError)
    lost = [each for each in list_causes(error) if isinstance(each, OperationalError | InterfaceError)]
    return known and bool(lost) and not any(words in str(each) for each in lost for words in _FOR_GOOD)

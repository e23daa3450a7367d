"""The winners of the same model, target and budget as versions of one registered model; the best is its champion."""

import hashlib
import re
from collections.abc import Sequence
from typing import Any

from nas.tracking.record import Winner
from nas.tracking.sending import RECORD
from nas.tracking.server import GONE, create_unless_exists, retry_among_others
from search_spaces.errors import TrackingError

CHAMPION = "champion"
FOLDER = "winner"  # of the run's artifacts
QUALITY, MS, CERTIFIED, FEASIBLE = "nas.quality", "nas.ms", "nas.certified", "nas.feasible"
_ROUNDS = 20
_LONGEST_NAME = 200


def build_model_name(parts: Sequence[str], compared: Sequence[str]) -> str:
    """A name for what may be compared: words that MLflow and URLs take, and a digest of what they leave out.

    It holds no `@`, which begins an alias where MLflow reads `models:/NAME/VERSION`.

    Args:
        parts: model, target, workload, budget; people read them.
        compared: what else must be equal for one loss to be better than another: weights, test data, metric.
    """
    return build_former_name(parts, compared).replace("@", "-")


def build_former_name(parts: Sequence[str], compared: Sequence[str]) -> str:
    """The name under which winners were registered when `@` was left in it."""
    digest = hashlib.sha256("\n".join([*parts, *compared]).encode()).hexdigest()[:8]
    words = [re.sub(r"[^A-Za-z0-9_.=,@-]+", "-", part).strip("-.") for part in parts]
    return f"{'_'.join(word for word in words if word)[:_LONGEST_NAME]}_{digest}"


def register(client: Any, record_id: str, run_id: str, winner: Winner) -> dict[str, Any]:
    """Add a version and let the best of all be champion.

    Returns:
        `name`, `version`, and whether it is the `champion`.

    Raises:
        MlflowException: the registry does not do it.
        TrackingError: the alias did not come to rest.
    """
    _open_model(client, winner)
    version = retry_among_others(lambda: _find_version(client, record_id, run_id, winner))
    champion = retry_among_others(lambda: _crown(client, winner.model))
    return {"name": winner.model, "version": version, "champion": champion == version}


def _open_model(client: Any, winner: Winner) -> None:
    """The registered model of the winner's name, with the versions that an earlier nas registered under another."""
    if winner.formerly not in ("", winner.model) and _is_there(client, winner.formerly):
        create_unless_exists(lambda: _rename(client, winner.formerly, winner.model))
    create_unless_exists(lambda: client.create_registered_model(winner.model))


def _rename(client: Any, name: str, new_name: str) -> None:
    """Rename a registered model with its versions and its alias, unless another client was first."""
    from mlflow.exceptions import MlflowException

    try:
        client.rename_registered_model(name, new_name)
    except MlflowException as error:
        if error.error_code != GONE:
            raise


def _is_there(client: Any, name: str) -> bool:
    return bool(client.search_registered_models(f"name = '{name}'", max_results=1))


def _find_version(client: Any, record_id: str, run_id: str, winner: Winner) -> str:
    """The version of this record; an earlier attempt may have made it."""
    mine = [each for each in _list_versions(client, winner.model) if each.tags.get(RECORD) == record_id]
    for each in mine:
        if each.run_id == run_id:
            return str(each.version)
        client.delete_model_version(winner.model, each.version)  # of a run that was made anew
    tags = {
        **winner.tags,
        RECORD: record_id,
        QUALITY: repr(winner.loss),
        MS: repr(winner.ms),
        CERTIFIED: str(winner.certified).lower(),
        FEASIBLE: str(winner.feasible).lower(),
    }
    source = f"runs:/{run_id}/{FOLDER}"
    made = client.create_model_version(winner.model, source, run_id, tags=tags, await_creation_for=0)
    return str(made.version)


def _crown(client: Any, name: str) -> str | None:
    """Point the alias at the best version and look again; the champion, None where no version may be it.

    Two searches that register at once are both in the list by the time either looks, and whoever moves the alias
    last lists all versions once more after it: the better one is champion in the end.
    """
    for _ in range(_ROUNDS):
        best = find_best_version(_list_versions(client, name))
        present = client.get_registered_model(name).aliases.get(CHAMPION)
        if best is None or str(present) == best:
            return best
        client.set_registered_model_alias(name, CHAMPION, best)
    raise TrackingError(f"others kept moving alias {CHAMPION} of {name} in {_ROUNDS} rounds; send it again")


def find_best_version(versions: Sequence[Any]) -> str | None:
    """A certified version before a predicted one, then the lower loss, then the older; none that breaks its budget."""
    ranked = [
        (version.tags[CERTIFIED] != "true", float(version.tags[QUALITY]), int(version.version))
        for version in versions
        if version.tags.get(FEASIBLE) == "true"
    ]
    return str(min(ranked)[-1]) if ranked else None


def _list_versions(client: Any, name: str) -> list[Any]:
    return list(client.search_model_versions(f"name = '{name}'"))

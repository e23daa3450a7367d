"""The Ray cluster of a sweep, and what each of its trials asks for."""

import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from latency_models.targets import HOST, find_target
from search_spaces.errors import MissingExtra, UsageError

_FORWARDED = ("NAS_CACHE", "MLFLOW_TRACKING_URI", "HF_HOME", "HF_HUB_OFFLINE")


def need_ray() -> Any:
    """The library.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        import ray
        import ray.tune
    except ImportError:
        raise MissingExtra("a sweep runs on Ray; pip install 'nas[ray]'") from None
    return ray


@contextmanager
def connected(cpus: int) -> Iterator[None]:
    """A connection for the time of a sweep: one that is there, the cluster of RAY_ADDRESS, else a local one.

    Args:
        cpus: that a local cluster has at least.

    Raises:
        MissingExtra: Ray is not installed.
        UsageError: nothing answers at RAY_ADDRESS.
    """
    ray, address = need_ray(), os.environ.get("RAY_ADDRESS")
    if ray.is_initialized():
        yield
        return
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    with _own_handlers():
        if address:
            _connect(ray, address, **quiet, runtime_env=_environment())
        else:
            cores = max(cpus, len(os.sched_getaffinity(0)))
            ray.init("local", num_cpus=cores, include_dashboard=False, **quiet)
    try:
        yield
    finally:
        ray.shutdown()


def _connect(ray: Any, address: str, **options: Any) -> None:
    try:
        ray.init(address, **options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UsageError(
            f"RAY_ADDRESS {address!r}: {reason}; start the cluster, or unset it for one on this machine"
        ) from None


def _environment() -> dict[str, Any] | None:
    """What workers of another machine must know; a job was submitted with an environment of its own."""
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:
        return None
    return {"env_vars": {name: os.environ[name] for name in _FORWARDED if name in os.environ}}


@contextmanager
def _own_handlers() -> Iterator[None]:
    """Ray takes SIGTERM for itself when it starts; the person's Ctrl-C and the system's stop stay ours."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in ours.items():
            signal.signal(number, handler)


def bundles_of(targets: Sequence[str], cpus: int) -> dict[str, dict[str, float]]:
    """What a trial of each target asks the connected cluster for.

    Raises:
        UsageError: no node has so many CPUs.
    """
    ray = need_ray()
    nodes = [node for node in ray.nodes() if node["Alive"]]
    here = ray.get_runtime_context().get_node_id()
    return {
        target: bundle(target, cpus, [node["Resources"] for node in nodes], _own(nodes, here)) for target in targets
    }


def bundle(target: str, cpus: int, nodes: Sequence[Mapping[str, float]], own: Mapping[str, float]) -> dict[str, float]:
    """The resources of one trial.

    A device that the cluster has as a resource of its name is asked for, so that it measures one model at a time. On
    this machine a trial measures too: it takes every CPU of its node, so that nothing beside it disturbs the timings.

    Args:
        target: as the person gave it; its full name will do as the resource's too.
        nodes: the resources of every node; `own` those of this one.

    Raises:
        UsageError: no node has so many CPUs.
    """
    names = (target, find_target(target).name)
    device = next((name for name in names if any(name in node for node in nodes)), None)
    asked = {} if device is None else {device: 1.0}
    if find_target(target).is_host:
        node = own if device is None else next(node for node in nodes if device in node)
        asked |= {name: 0.001 for name in node if name.startswith("node:") and name != "node:__internal_head__"}
        return _with_cpus(asked, node.get("CPU", 0), [node])
    return _with_cpus(asked, cpus, nodes)


def _with_cpus(asked: dict[str, float], cpus: float, nodes: Sequence[Mapping[str, float]]) -> dict[str, float]:
    most = max((node.get("CPU", 0) for node in nodes if all(name in node for name in asked)), default=0)
    if not 1 <= cpus <= most:
        where = f" for {HOST}" if any(name.startswith("node:") for name in asked) else ""
        raise UsageError(
            f"a trial{where} asks for {max(cpus, 1):g} CPUs and no node that fits has more than {most:g}; "
            "ask for fewer with --cpus, or start nodes with more"
        )
    return {"CPU": float(cpus), **asked}


def _own(nodes: Sequence[Mapping[str, Any]], here: str) -> Mapping[str, float]:
    found: Mapping[str, float] = next((node["Resources"] for node in nodes if node["NodeID"] == here), {})
    return found

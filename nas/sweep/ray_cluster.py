"""The Ray cluster of a sweep, and what each of its trials asks for."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from latency_models.targets import find_target
from nas.execution.cluster import connect
from search_spaces.errors import MissingExtra, UsageError

_HEAD = "node:__internal_head__"


def import_ray() -> Any:
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
def open_connection() -> Iterator[None]:
    """A connection for the time of a sweep: one that is there, the cluster of RAY_ADDRESS, else a local one.

    Raises:
        MissingExtra: Ray is not installed.
        ExecutionError: nothing answers at RAY_ADDRESS.
    """
    ray = import_ray()
    if ray.is_initialized():
        yield
        return
    connect()
    try:
        yield
    finally:
        ray.shutdown()


@dataclass(frozen=True)
class Place:
    """Where a trial of one target runs, and where it measures.

    Attributes:
        bundle: what the trial asks for of one node.
        device: the resource by which the cluster has the target; None where nothing of the cluster is one.
    """

    bundle: dict[str, float]
    device: str | None


def find_places(targets: Sequence[str], cpus: int) -> dict[str, Place]:
    """The place for each target in the connected cluster.

    Raises:
        UsageError: no node has so many CPUs.
    """
    ray = import_ray()
    nodes = [node for node in ray.nodes() if node["Alive"]]
    here = ray.get_runtime_context().get_node_id()
    own: Mapping[str, float] = next((node["Resources"] for node in nodes if node["NodeID"] == here), {})
    return {target: find_place(target, cpus, [node["Resources"] for node in nodes], own) for target in targets}


def find_place(target: str, cpus: int, nodes: Sequence[Mapping[str, float]], own: Mapping[str, float]) -> Place:
    """The place for one target.

    A search for a device runs anywhere; only its measurements are queued for the device, which is a resource of the
    cluster by its name. A search for `host` measures where it runs. It takes every CPU of its node, so that nothing
    beside it disturbs the timings, and always the same node: one with a resource `host`, else that of the driver.

    Args:
        target: as the person gave it; its full name will do as the resource's too.
        nodes: the resources of every node; `own` those of the driver's.

    Raises:
        UsageError: no node has so many CPUs.
    """
    described = find_target(target)
    names = (target, described.name)
    device = next((name for name in names if any(name in node for node in nodes)), None)
    if not described.is_host:
        return Place(_select_fitting({"CPU": float(cpus)}, nodes), device)
    node = own if device is None else next(node for node in nodes if device in node)
    address = {name: 0.001 for name in node if name.startswith("node:") and name != _HEAD}
    return Place(_select_fitting({"CPU": max(1.0, node.get("CPU", 0.0)), **address}, [node]), None)


def _select_fitting(bundle: dict[str, float], nodes: Sequence[Mapping[str, float]]) -> dict[str, float]:
    max_cpus = max((node.get("CPU", 0.0) for node in nodes), default=0.0)
    if bundle["CPU"] > max_cpus:
        which = "this one" if len(nodes) == 1 else "none"
        raise UsageError(
            f"a trial asks for {bundle['CPU']:g} CPUs of a node and {which} has more than {max_cpus:g}; "
            "ask for fewer with --cpus, or start a node with more"
        )
    return bundle

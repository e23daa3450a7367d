"""A device that is a node of the cluster: kits are queued for it by the resource that it was started with."""

import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from latency_models.runner.plan import ENTRY, PROFILE
from latency_models.runner.process import ERROR
from nas.progress import Progress
from search_spaces.errors import MeasurementError

DEATHS = 3  # of nodes, over one kit
_PROBLEM = 5  # lines that are told of a run that failed


@dataclass(frozen=True)
class Node:
    """Any node with a resource, as of `ray start --resources '{"jetson-orin": 1}'`: a unit measures one kit at a time.

    The node needs this package without its models: NumPy and a runtime.

    Example:
        >>> profile = Node("jetson-orin").run(Path("kit.zip"), progress)
    """

    resource: str

    def run(self, kit: Path, progress: Progress) -> bytes:
        """Run a kit there, once it is its turn; again elsewhere where the node dies.

        Returns:
            The content of `profile.json`.

        Raises:
            MeasurementError: the runner failed there, or the nodes died.
        """
        import ray

        # By default a task stays in the placement group of who asks for it, as a sweep's trial has one; not this one.
        options = {"num_cpus": 0, "resources": {self.resource: 1}, "scheduling_strategy": "DEFAULT"}
        task = ray.remote(**options, max_retries=DEATHS)(measure_here)
        with progress.open_stage(f"measuring on a node with {self.resource}"):
            try:
                document, problem = ray.get(task.remote(kit.read_bytes()))
            except ray.exceptions.RayError as error:
                reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
                raise MeasurementError(f"node with {self.resource}: {reason}; start it again and repeat") from None
        if document is None:
            raise MeasurementError(f"node with {self.resource}: {problem}")
        return bytes(document)


def measure_here(kit: bytes) -> tuple[bytes | None, str]:
    """Unpack a kit and run it; its profile, or what it said last."""
    with tempfile.TemporaryDirectory(prefix="nas-") as name:
        with zipfile.ZipFile(BytesIO(kit)) as packed:
            packed.extractall(name)
        command = [sys.executable, ENTRY, "--json"]
        done = subprocess.run(command, cwd=name, capture_output=True, text=True, errors="replace", check=False)
        profile = Path(name) / PROFILE
        if done.returncode == 0 and profile.exists():
            return profile.read_bytes(), ""
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        problem = [line.removeprefix(ERROR) for line in lines if line.startswith(ERROR)] or lines
        return None, " / ".join(problem[-_PROBLEM:])

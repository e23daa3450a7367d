"""A kit where there is no `nas`: over ssh with nothing but ONNX Runtime, and on the instruction set of the devices."""

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from families import build
from loopback import loopback as loopback
from loopback import needs_sshd

from latency_models.calibrated import CalibratedModel
from latency_models.profile import Profile
from latency_models.targets import find_target
from latency_models.workload import Workload
from nas.export.parent_export import ParentExport
from nas.parent.parent import load_parent_model
from nas.profiling.kit import Kit
from nas.profiling.latency_model import load_latency_model
from nas.profiling.ssh import SshTarget, profile_there
from nas.progress import Silent
from pruning.checkpoint import save

ROOT = Path(__file__).parents[3]
AARCH64 = ROOT / "experiments/aarch64/run.sh"
CANNOT_PREPARE = 75
HERE = Workload.parse("forward:batch=1,seq=17")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Kit:
    folder = tmp_path_factory.mktemp("model")
    save(build("vit"), folder)
    return Kit(load_parent_model(str(folder)), find_target("jetson-orin"), HERE, seconds=2)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that has ONNX Runtime, what it brings, and nothing else."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    command = [python, "-m", "pip", "install", "--quiet", "onnxruntime"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"onnxruntime cannot be installed here: {done.stderr.strip().splitlines()[-1]}")
    return python


@needs_sshd
def test_one_step_over_ssh_with_nothing_but_onnx_runtime_there(loopback: SshTarget, bare: Path, kit: Kit) -> None:
    refused = subprocess.run([bare, "-c", "import torch"], capture_output=True, text=True, check=False)
    assert "No module named" in refused.stderr
    profile = profile_there(kit, SshTarget(loopback.host, str(bare), config=loopback.config), Silent())
    assert profile.target == kit.target.name
    assert profile.key["runtime"].startswith("onnxruntime")
    assert all(len(record.measurement.sessions) == 2 for record in profile.records)
    export = ParentExport(kit.parent, Silent())
    model = load_latency_model(kit.parent, kit.target, HERE, export, Silent())
    assert isinstance(model, CalibratedModel)
    assert model.label.startswith(f"measured on {kit.target.name}")


def test_the_runner_runs_on_aarch64(kit: Kit, tmp_path: Path) -> None:
    """Under qemu-user; timings are ignored, they say nothing."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = [AARCH64, kit.build(Silent()), tmp_path / "device"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1500, check=False)
    if done.returncode == CANNOT_PREPARE:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("aarch64 numpy")
    assert done.stdout.rstrip().endswith("100%  wrote profile.json")
    profile = Profile.load(tmp_path / "device" / "profile.json")
    plan = json.loads((tmp_path / "device" / "plan.json").read_text())
    assert [record.architecture.to_json() for record in profile.records] == [
        candidate["architecture"] for candidate in plan["candidates"]
    ]
    assert CalibratedModel(profile).error > 0

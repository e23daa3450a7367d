"""`nas profile` for a device, from the kit to the search that uses what came back, as a person types it."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from command_line import nas
from families import build

from pruning.checkpoint import save

WORKLOAD = ("--workload", "forward:batch=1,seq=17")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    save(build("vit"), folder)
    return str(folder)


@pytest.mark.slow
def test_from_a_kit_to_a_search_that_predicts_from_it(model: str, tmp_path: Path) -> None:
    made = nas("profile", "kit", "--target", "jetson-orin", "--model", model, *WORKLOAD, "--seconds", "1",
               "-o", "kit.zip", cwd=tmp_path)  # fmt: skip
    assert made.returncode == 0, made.stderr
    assert "no trained weights" in made.stdout
    with zipfile.ZipFile(tmp_path / "kit.zip") as archive:
        archive.extractall(tmp_path / "device")
    assert "python3 run.py" in (tmp_path / "device" / "README.txt").read_text()
    command = [sys.executable, "run.py", "--provider", "cpu"]
    run = subprocess.run(command, cwd=tmp_path / "device", capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stderr
    asked = ["search", "--target", "jetson-orin", "--budget", "0.6x", "--model", model, "--dry-run", "--json"]
    before = json.loads(nas(*asked, *WORKLOAD, cwd=tmp_path).stdout)
    assert "data sheet" in before["latency"]
    imported = nas("profile", "import", "device/profile.json", "--json", cwd=tmp_path)
    assert imported.returncode == 0, imported.stderr
    document = json.loads(imported.stdout)
    assert document["target"] == "jetson-agx-orin-64gb@maxn/fp16"
    assert document["records"] >= 20
    after = json.loads(nas(*asked, *WORKLOAD, cwd=tmp_path).stdout)
    assert after["latency"].startswith("measured on jetson-agx-orin-64gb@maxn/fp16, onnxruntime")
    parent_p90 = document["parent_p90_ms"]
    assert after["parent_ms"] == pytest.approx(parent_p90, abs=0.001)
    other = nas(*asked, cwd=tmp_path)
    assert "was measured under forward:batch=1,seq=17, not under" in other.stderr
    assert "data sheet" in json.loads(other.stdout)["latency"]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["profile", "--target", "jetson-orin"], 2, "give --host user@device, or copy a kit there"),
        (["profile", "--target", "jetson-orin", "--host", "-oProxyCommand=id"], 2, "is no ssh destination"),
        (["profile", "kit"], 2, "--target is missing"),
        (["profile", "kit", "--target", "host"], 2, "is this machine"),
        (["profile", "kit", "--target", "l4/int8"], 2, "for example l4/fp16"),
        (["profile", "import", "nothing.json"], 2, "nothing.json does not exist"),
    ],
)  # fmt: skip
def test_wrong_use_is_one_line(arguments: list[str], code: int, says: str, tmp_path: Path) -> None:
    done = nas(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (code, "")
    assert says in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())

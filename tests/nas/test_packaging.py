"""A wheel built from the repository works in another folder, the default model included."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow

USE = """
import nas, torch
from nas.parent.parent import load_parent_model
parent = load_parent_model(None)
tokens = parent.dataset.validation.inputs["input_ids"][:1, :64]
with torch.no_grad():
    print(nas.__file__, parent.folder, round(parent.model(input_ids=tokens).logits.double().sum().item(), 2), sep="|")
"""


def run(*command: str, **options) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, **options)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode and "hatchling" in done.stderr:
        pytest.skip("the build backend hatchling cannot be installed here")
    assert done.returncode == 0, done.stderr[-2000:]
    return next(folder.glob("*.whl"))


def test_it_holds_the_models_their_data_and_licences_and_nothing_left_over(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    kept = subprocess.run(
        ["git", "ls-files", "experiments/reference"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert {name for name in names if name.startswith("nas/reference/")} == {
        name.replace("experiments/reference", "nas/reference", 1) for name in kept.stdout.splitlines()
    }
    assert {"nas/reference/python-lm/data/LICENCES.md", "nas-0.1.0.dist-info/licenses/NOTICE"} <= names
    assert {f"nas/api/static/{name}" for name in ("index.html", "page.css", "page.js", "icon.svg")} <= names
    assert not [name for name in names if "__pycache__" in name or name.startswith(("tests/", "experiments/"))]


def test_it_works_in_another_folder_as_the_checkout_does(wheel, tmp_path):
    site = tmp_path / "site"
    run(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel))
    installed = run(sys.executable, "-c", USE, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(site)}).split("|")
    checkout = run(sys.executable, "-c", USE, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}).split("|")
    assert installed[0].startswith(str(site))
    assert installed[1].startswith(str(site))
    assert not checkout[0].startswith(str(site))
    assert installed[2] == checkout[2]

"""The whole way once: `nas serve`, a real search of a tiny model over HTTP, its result, and a certificate."""

import json
import os
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest
from families import build
from serving_kit import events, until

from pruning.checkpoint import save

pytestmark = pytest.mark.slow


def tiny(folder: Path) -> None:
    """A tiny image classifier, and class folders of noise."""
    import numpy as np
    from PIL import Image

    save(build("vit"), folder / "model")
    rng = np.random.default_rng(0)
    for label in range(2):
        (folder / "data" / f"LABEL_{label}").mkdir(parents=True)
        for number in range(30):
            pixels = rng.integers(0, 255, (12, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "data" / f"LABEL_{label}" / f"{number}.png")


def test_a_model_is_searched_and_certified_over_http(tmp_path: Path) -> None:
    tiny(tmp_path / "models")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-c", "from nas.cli import main; main()", "serve", "--port", str(port), "--root",
        str(tmp_path / "root"), "--model-root", str(tmp_path / "models"),
    ]  # fmt: skip
    environment = os.environ | {"NAS_CACHE": str(tmp_path / "cache")}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, cwd=tmp_path) as server:
        assert server.stderr is not None
        secret = next(found[0] for line in server.stderr if (found := re.findall(r"nas_[\w-]{43}", line)))
        threading.Thread(target=server.stderr.read).start()
        headers = {"Authorization": f"Bearer {secret}"}
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=300) as client:
                until(lambda: _ready(client), 60)
                search_and_certify(client)
        finally:
            server.terminate()
        assert server.wait(60) == 0


def search_and_certify(client: httpx.Client) -> None:
    asked = {"model": "model", "data": "data", "target": "jetson-orin", "budget": "0.6x", "trials": 6}
    base = f"/v1/searches/{client.post('/v1/searches', json=asked).json()['id']}"
    reported = events(client.get(f"{base}/events").text)
    assert (reported[-1][0], reported[-1][2]["state"]) == ("end", "succeeded"), reported
    assert any("budget" in data["line"] for event, _, data in reported if event == "log")
    result = client.get(f"{base}/result").json()
    assert result["winner"]["predicted_ms"] <= result["budget_ms"]
    assert json.loads(next(data["line"] for event, _, data in reported if event == "document")) == result
    names = {entry["name"] for entry in client.get(f"{base}/artifacts").json()["artifacts"]}
    assert {"winner/model.onnx", "winner/model.safetensors", "pareto.png", "result.json"} <= names
    certificate = client.get(f"{base}/artifacts/winner/certificate.json")
    receipt = client.post(f"{base}/certificates", content=certificate.content)
    assert receipt.status_code == 201, receipt.text
    assert receipt.json()["certified"] is False  # the board was not at hand


def _ready(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False

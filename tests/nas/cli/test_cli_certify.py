"""A search for a device that is not at hand, certified on it later over ssh."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from loopback import loopback as loopback
from loopback import needs_sshd
from typer.testing import CliRunner

from latency_models.workload import Workload
from nas.cli.app import app
from nas.pipeline.run import run
from nas.profiling.ssh import SshTarget
from nas.progress import Silent
from nas.request.quantities import Budget
from nas.request.search_request import SearchRequest
from nas.results.certificate import Certificate, compute_sha256
from search_spaces.errors import ProfileMismatch, UsageError

TARGET = "jetson-agx-orin-64gb@maxn/fp32"


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> SearchRequest:
    """A finished search whose budget is predicted only; the median, since the machine of a test is not quiet."""
    out = tmp_path_factory.mktemp("search") / "result"
    request = SearchRequest(
        TARGET, Budget.parse("0.8x"), out, model="digits-vit", percentile=50, trials=8,
        workload=Workload.parse("forward:batch=4,seq=65"),
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NAS_CACHE", str(out.parent / "cache"))
        assert not run(request, Silent()).certified
    return request


@pytest.mark.slow
@needs_sshd
def test_a_predicted_winner_is_certified_on_its_device(
    searched: SearchRequest, loopback: SshTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NAS_CACHE", str(searched.out.parent / "cache"))
    result = run(searched, Silent(), loopback)
    certificate = Certificate.load(searched.out / "winner" / "certificate.json")
    assert result.certified
    assert (certificate.target, certificate.on_target, certificate.percentile) == (TARGET, True, 50)
    assert certificate.bound_ms is not None
    assert certificate.bound_ms <= certificate.budget_ms
    assert certificate.file_sha256 == compute_sha256(searched.out / "winner" / "device-model.onnx")
    assert certificate.winner is not None
    assert len(certificate.winner.sessions) >= 2
    assert json.loads((searched.out / "result.json").read_text())["target"]["label"].startswith(f"measured on {TARGET}")

    profile = next(searched.out.parent.glob("cache/*/device-*.json"))
    document = json.loads(profile.read_text())
    document["key"]["power_mode"] = "15W"
    profile.write_text(json.dumps(document))
    with pytest.raises(ProfileMismatch, match="15W"):  # what is measured now is not mixed into it
        run(searched, Silent(), loopback)


@pytest.mark.slow
def test_a_device_that_is_not_there_is_asked_for(searched: SearchRequest) -> None:
    answer = CliRunner().invoke(app, ["certify", str(searched.out)])
    assert isinstance(answer.exception, UsageError)
    assert "--host user@device" in str(answer.exception)


def test_a_folder_without_a_search_is_refused(tmp_path: Path) -> None:
    answer = CliRunner().invoke(app, ["certify", str(tmp_path)])
    assert isinstance(answer.exception, UsageError)
    assert "holds no request.json" in str(answer.exception)


def test_a_host_for_this_machine_is_refused(searched_here: SearchRequest) -> None:
    with pytest.raises(UsageError, match="is this machine"):
        run(searched_here, Silent(), SshTarget("user@device"))


@pytest.fixture
def searched_here(tmp_path: Path) -> SearchRequest:
    request = SearchRequest("host", Budget.parse("0.8x"), tmp_path / "out", model="digits-vit")
    return replace(request, trials=4)

"""`nas targets show`: the account of a target as people and programs read it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from latency_models.profile import Profile
from latency_models.rates import compute_rates
from latency_models.shape import ModelShape
from latency_models.targets import find_target
from latency_models.terms import Terms
from latency_models.workload import Phase, Workload
from nas.cli.app import app
from nas.profiling.target_report import report_profile, report_target
from search_spaces.errors import MeasurementError, NasError, ProfileMismatch, UsageError

FROZEN = Path(__file__).parents[2] / "latency_models" / "frozen"
ORIN = find_target("jetson-orin")


def show(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["targets", "show", *arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_rates_and_roofs_by_hand() -> None:
    shape = ModelShape(1, 1000, 10, 10, 100, 4000, False, 0, False, False, 0, (None,))
    terms = Terms(shape, Workload(Phase.FORWARD, 1, 500))
    found = {rate.term: rate for rate in compute_rates(terms, {"constant": 0.0, "first unit": 0.1, "mlp": 2.0}, ORIN)}
    # 2 x 500 tokens x 8 M weights = 8 GFLOP in 2 ms; (8 M weights + 500 x (4,000 + 8,000)) x 2 bytes = 28 MB.
    assert found["mlp"].tflops == pytest.approx(4.0)
    assert found["mlp"].gb_s == pytest.approx(14.0)
    assert found["mlp"].roof == "arithmetic"
    assert (found["first unit"].tflops, found["constant"].roof) == (None, None)
    one = Terms(shape, Workload(Phase.DECODE, 1, 1, 10))
    assert compute_rates(one, {"mlp": 1.0}, ORIN)[0].roof == "memory"
    small = Terms(replace(shape, hidden=10, head_dim=1, intermediate=10), Workload(Phase.DECODE, 1, 1, 10))
    assert compute_rates(small, {"mlp": 1.0}, ORIN)[0].roof == "launches"


def test_a_measured_target_is_told_with_its_errors_energy_and_memory(tmp_path: Path) -> None:
    file, picture = FROZEN / "profile-2.json", tmp_path / "figures" / "fit.png"
    document = json.loads(show("jetson-orin", "--profile", str(file), "--figure", str(picture), "--json"))
    assert document["schema_version"] == 1
    assert document["measured"] is True
    terms = {term["term"]: term for term in document["terms"]}
    assert terms["attention"]["ms"] == pytest.approx(0.4, rel=0.1)  # the device that the file is of
    assert terms["mlp"]["units"] == 12
    assert document["cross_validation"]["mape"] < 0.05
    assert document["joules"] == pytest.approx(0.0205 * (1.5 + 12 * 1.1), rel=0.05)
    assert document["wh_per_1000"] == pytest.approx(document["joules"] / 3.6)
    assert document["memory_bytes"]["weights"] > 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    words = show("jetson-orin", "--profile", str(file))
    for expected in ("within 10 %", "records are inside", "Wh per 1,000", "MiB", "tensorrt 10.3.0", "MAXN"):
        assert expected in words


def test_a_data_sheet_is_told_with_its_peaks_and_its_caveat() -> None:
    words = show("jetson-orin")
    for expected in ("factor of 2", "42.60 T(FL)OP/s", "205 GB/s", "arithmetic", "nvpmodel"):
        assert expected in words
    document = json.loads(show("jetson-orin", "--workload", "decode:batch=1,past=64", "--json"))
    assert document["measured"] is False
    assert document["cross_validation"] is None
    assert document["workload"] == "decode:batch=1,past=64"
    assert sum(t["ms"] * t["units"] for t in document["terms"]) == pytest.approx(document["parent_p50_ms"])
    assert document["memory_bytes"]["cache"] > 0


def test_what_does_not_fit_together_is_refused(tmp_path: Path) -> None:
    file = FROZEN / "profile-2.json"
    with pytest.raises(ProfileMismatch, match="name that target"):
        report_profile(find_target("l4"), file)
    with pytest.raises(ProfileMismatch, match="leave --workload out"):
        report_profile(ORIN, file, Workload(Phase.FORWARD, 9, 9))
    with pytest.raises(UsageError, match="does not exist"):
        report_profile(ORIN, tmp_path / "nothing.json")
    few = Profile.load(file)
    replace(few, records=few.records[:2]).save(tmp_path / "few.json")
    with pytest.raises(MeasurementError, match="measure again"):
        report_profile(ORIN, tmp_path / "few.json")
    with pytest.raises(UsageError, match="--profile"):
        report_target(ORIN, None, None).draw(tmp_path / "figure.png")
    with pytest.raises(NasError, match="nas profile"):
        report_target(find_target("host"), None, None)  # the tests' cache holds no profile


def test_the_list_of_targets_is_as_it_was() -> None:
    result = CliRunner().invoke(app, ["targets", "--json"])
    document = json.loads(result.stdout)
    assert result.exit_code == 0
    assert {"name", "measured", "peak_tflops", "bandwidth_gb_s"} <= set(document["targets"][0])
    assert document["targets"][0]["name"] == "host"

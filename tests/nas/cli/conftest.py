"""Searches on the command line measure for a moment: no test is about how exact a measurement is."""

from functools import partial

import pytest

from nas.profiling.host_profile import load_host_profile


@pytest.fixture(autouse=True)
def short_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds of each measurement; the least number of samples stays as it is."""
    monkeypatch.setattr("nas.certification.run.HERE", (0.5, 20))
    for name in ("CONTENDER_SECONDS", "CONFIRM_SECONDS"):
        monkeypatch.setattr(f"nas.certification.run.{name}", 1.0)
    monkeypatch.setattr("nas.profiling.host_profile.LOOK_SECONDS", 0.5)
    monkeypatch.setattr("nas.profiling.device.load_host_profile", partial(load_host_profile, seconds=2.0))

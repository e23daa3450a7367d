"""Searches on the command line measure for a moment: no test is about how exact a measurement is."""

import pytest


@pytest.fixture(autouse=True)
def short_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds of each measurement; the least number of samples stays as it is."""
    monkeypatch.setattr("nas.certification.run.HERE", (0.5, 20))
    for name in ("CONTENDER_SECONDS", "CONFIRM_SECONDS"):
        monkeypatch.setattr(f"nas.certification.run.{name}", 1.0)

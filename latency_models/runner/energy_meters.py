"""Joules: a GPU's own counter, the counters of the processor packages, or the sensors of a Jetson module.

Each is of the whole device, idle power included: what else it does meanwhile is in it.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from .failure import MeasuringFailed, get_first_line
from .nvml import Nvml

WINDOW_S = 0.5  # NVIDIA's counter moves every 0.1 s
_ROOT = Path("/")
_SAMPLE_S = 0.02


class EnergyMeter(Protocol):
    """A counter of energy."""

    name: str

    def read_joules(self) -> float:
        """Joules since some moment before; it only rises."""


class NvmlMeter:
    """The energy counter of an NVIDIA GPU (Volta and later): the whole board."""

    def __init__(self, nvml: Nvml) -> None:
        self.name = "NVML total energy of the GPU"
        self._nvml = nvml

    def read_joules(self) -> float:
        """The counter, which is in millijoules since the driver was loaded."""
        return self._nvml.read_millijoules() / 1e3


class RaplMeter:
    """The energy counters of the processor packages.

    Domains nest: cores and graphics are in their package, and psys holds the packages, so only packages are added.
    The same package seen through memory-mapped registers (intel-rapl-mmio) is left out.
    """

    def __init__(self, root: Path = _ROOT) -> None:
        """Raises OSError where there is none or it may not be read (usually only root may)."""
        packages = sorted((root / "sys/class/powercap").glob("intel-rapl:*"))
        self._packages = [path for path in packages if (path / "name").read_text().startswith("package")]
        if not self._packages:
            raise FileNotFoundError("no package domain")
        self.name = f"RAPL, {len(self._packages)} package{'s' if len(self._packages) > 1 else ''}"
        self._last = [_read_integer(path / "energy_uj") for path in self._packages]
        self._microjoules = 0

    def read_joules(self) -> float:
        """Joules since it was opened; read it more often than the counters wrap (minutes)."""
        for index, path in enumerate(self._packages):
            now = _read_integer(path / "energy_uj")
            wrapped = _read_integer(path / "max_energy_range_uj") if now < self._last[index] else 0
            self._microjoules += now - self._last[index] + wrapped
            self._last[index] = now
        return self._microjoules / 1e6


class Ina3221Meter:
    """The power sensors of a Jetson module, mV times mA, added up over time at every reading.

    VDD_IN is the whole module; where there is no such rail, the others are added.
    """

    def __init__(self, root: Path = _ROOT, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises OSError where there is none."""
        rails = dict(_find_rails(root))
        whole = [name for name in rails if name.startswith("VDD_IN")]
        chosen = whole[:1] or sorted(rails)
        if not chosen:
            raise FileNotFoundError("no INA3221")
        self.name = f"INA3221 {'+'.join(chosen)}"
        self._rails = [rails[name] for name in chosen]
        self._clock, self._lock = clock, threading.Lock()
        self._joules, self._at, self._watts = 0.0, clock(), self._read_watts()

    def read_joules(self) -> float:
        """Joules since it was opened, by the trapezoidal rule between samples; each call is a sample."""
        with self._lock:
            now, watts = self._clock(), self._read_watts()
            self._joules += (now - self._at) * (watts + self._watts) / 2
            self._at, self._watts = now, watts
            return self._joules

    def _read_watts(self) -> float:
        return sum(_read_integer(voltage) * _read_integer(current) for voltage, current in self._rails) / 1e6


@contextmanager
def open_energy_meter(on_gpu: bool, root: Path = _ROOT) -> Iterator[EnergyMeter | None]:
    """The best meter of this device for what runs on its CPU or GPU, or None."""
    try:
        module = Ina3221Meter(root)
    except (OSError, ValueError):
        yield _open_counter(on_gpu, root)
        return
    done = threading.Event()

    def sample() -> None:
        while not done.wait(_SAMPLE_S):
            module.read_joules()

    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    try:
        yield module
    finally:
        done.set()
        sampler.join()


def measure_joules(
    meter: EnergyMeter,
    calls: Mapping[str, Callable[[], object]],
    seconds: float,
    seed: int = 0,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Run each callable for a window of `seconds` (at least 0.5), in random order; the energy of one inference, J.

    Raises:
        MeasuringFailed: one cannot be run, or the meter cannot be read any more.
    """
    joules = {}
    for name in random.Random(seed).sample(sorted(calls), len(calls)):
        runs = 0
        try:
            calls[name]()  # warm again: the others have run meanwhile
            began, before = clock(), _read(meter)
            while clock() - began < max(WINDOW_S, seconds):
                calls[name]()
                runs += 1
        except MeasuringFailed:
            raise
        except Exception as error:  # every runtime raises classes of its own
            raise MeasuringFailed(f"{name} cannot be run ({get_first_line(error)})") from error
        joules[name] = (_read(meter) - before) / runs
    return joules


def _read(meter: EnergyMeter) -> float:
    try:
        return meter.read_joules()
    except (OSError, ValueError) as error:
        raise MeasuringFailed(f"{meter.name} cannot be read any more ({get_first_line(error)}); run again") from error


def _open_counter(on_gpu: bool, root: Path) -> EnergyMeter | None:
    try:
        if not on_gpu:
            return RaplMeter(root)
        meter = NvmlMeter(Nvml())
        meter.read_joules()  # older GPUs have no counter
        return meter
    except (OSError, ValueError):
        return None


def _find_rails(root: Path) -> Iterator[tuple[str, tuple[Path, Path]]]:
    """(rail, (voltage in mV, current in mA)) of every INA3221 channel that has a label."""
    for folder in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        if not _has_text(folder / "name", "ina3221"):
            continue
        for label in sorted(folder.glob("in*_label")):
            channel = label.name[len("in") : -len("_label")]
            voltage, current = folder / f"in{channel}_input", folder / f"curr{channel}_input"
            name = label.read_text().strip()
            if name != "NC" and voltage.is_file() and current.is_file():  # not connected
                yield name, (voltage, current)


def _has_text(path: Path, word: str) -> bool:
    try:
        return path.read_text().strip() == word
    except OSError:
        return False


def _read_integer(path: Path) -> int:
    return int(path.read_text())

"""What a device says of itself: name, power mode, clocks, temperatures, load. What it does not say is left out."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .nvml import Nvml

ROOT = Path("/")
_CPUFREQ = "sys/devices/system/cpu/cpu[0-9]*/cpufreq"
_THERMAL = "sys/class/thermal/thermal_zone*"


def read_processor(root: Path = ROOT) -> str:
    """The board's name where it has one, else the processor's."""
    lines = (_read_text(root / "proc/cpuinfo") or "").splitlines()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return read_board(root) or next(named, "") or platform.processor() or platform.machine()


def read_board(root: Path = ROOT) -> str | None:
    """The board's name where it has one: a Jetson, a Raspberry Pi."""
    return _read_text(root / "proc/device-tree/model")


def read_power_mode(root: Path = ROOT, gpu: Nvml | None = None) -> str:
    """A Jetson's mode by nvpmodel; else the GPU's power limit, the governor of the CPU clocks, or `as found`."""
    governors = sorted({_read_text(folder / "scaling_governor") or "" for folder in root.glob(_CPUFREQ)} - {""})
    limit = None if gpu is None else gpu.read_watts_allowed()
    return _read_nvpmodel(root) or (f"{limit:.0f} W" if limit else "") or "+".join(governors) or "as found"


def read_conditions(root: Path = ROOT, gpu: Nvml | None = None) -> dict[str, Any]:
    """All of it at this moment: MHz, degrees Celsius, load as the mean of runnable processes over a minute."""
    readings = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "power_mode": read_power_mode(root, gpu),
        "load": _read_load(root),
        "cpu_mhz": _read_cpu_mhz(root),
        "clocks_mhz": {
            folder.name: hertz / 1e6
            for folder in sorted(root.glob("sys/class/devfreq/*"))
            if (hertz := _read_number(folder / "cur_freq")) is not None
        },
        "celsius": dict(_read_temperatures(root)),
        "gpu_mhz": None if gpu is None else gpu.read_megahertz(),
        "gpu_celsius": None if gpu is None else gpu.read_celsius(),
    }
    return {name: value for name, value in readings.items() if value not in (None, [], {})}


def _read_nvpmodel(root: Path) -> str | None:
    """The mode's name: from what nvpmodel keeps, else from the program itself."""
    status = re.search(r"pmode:0*(\d+)", _read_text(root / "var/lib/nvpmodel/status") or "")
    if status:
        name = re.search(rf"POWER_MODEL\s+ID={status[1]}\s+NAME=(\S+)", _read_text(root / "etc/nvpmodel.conf") or "")
        return name[1] if name else f"nvpmodel {status[1]}"
    program = shutil.which("nvpmodel") if root == ROOT else None
    if program is None:
        return None
    try:
        done = subprocess.run([program, "-q"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    mode = re.search(r"NV Power Mode:\s*(\S+)", done.stdout)
    return mode[1] if mode else None


def _read_temperatures(root: Path) -> Iterator[tuple[str, float]]:
    """(zone, degrees) of what is read as a temperature; a sensor that is off gives an absurd one."""
    for zone in sorted(root.glob(_THERMAL)):
        degrees = _read_number(zone / "temp")
        if degrees is not None and -50_000 < degrees < 200_000:
            yield _read_text(zone / "type") or zone.name, degrees / 1e3


def _read_cpu_mhz(root: Path) -> list[float]:
    read = (_read_number(folder / "scaling_cur_freq") for folder in sorted(root.glob(_CPUFREQ)))
    return [kilohertz / 1e3 for kilohertz in read if kilohertz is not None]


def _read_load(root: Path) -> float | None:
    first = (_read_text(root / "proc/loadavg") or "").split(" ")[0]
    return float(first) if re.fullmatch(r"\d+\.\d+", first) else None


def _read_text(path: Path) -> str | None:
    """A file's text without spaces and the zero byte around it; None where there is none to read."""
    try:
        return path.read_text(errors="replace").strip().strip("\0") or None
    except OSError:
        return None


def _read_number(path: Path) -> int | None:
    text = _read_text(path) or ""
    return int(text) if re.fullmatch(r"-?\d+", text) else None

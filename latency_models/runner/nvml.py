"""What the NVIDIA driver says of the first GPU, through its own library: no package is needed."""

from __future__ import annotations

import ctypes
from typing import Any

_SM_CLOCK, _CORE_TEMPERATURE = 1, 0


class Nvml:
    """The first GPU."""

    def __init__(self, library: Any = None) -> None:
        """Raises OSError where there is no driver or no GPU; `library` stands in for libnvidia-ml."""
        self._library = ctypes.CDLL("libnvidia-ml.so.1") if library is None else library
        self._handle = ctypes.c_void_p()
        self._call("nvmlInit_v2")
        self._call("nvmlDeviceGetHandleByIndex_v2", 0, ctypes.byref(self._handle))

    def read_millijoules(self) -> int:
        """Energy since the driver was loaded; OSError where there is no counter (before Volta, Jetson)."""
        return self._read("nvmlDeviceGetTotalEnergyConsumption", ctypes.c_ulonglong())

    def read_celsius(self) -> int | None:
        """Temperature of the GPU; None where the driver does not say."""
        return self._try_to_read("nvmlDeviceGetTemperature", _CORE_TEMPERATURE)

    def read_megahertz(self) -> int | None:
        """Clock of the streaming multiprocessors; None where the driver does not say."""
        return self._try_to_read("nvmlDeviceGetClockInfo", _SM_CLOCK)

    def read_watts_allowed(self) -> float | None:
        """The power limit that is enforced; None where the driver does not say."""
        milliwatts = self._try_to_read("nvmlDeviceGetEnforcedPowerLimit")
        return None if milliwatts is None else milliwatts / 1e3

    def _try_to_read(self, name: str, *selectors: int) -> int | None:
        try:
            return self._read(name, ctypes.c_uint(), *selectors)
        except OSError:
            return None

    def _read(self, name: str, value: Any, *selectors: int) -> int:
        self._call(name, self._handle, *selectors, ctypes.byref(value))
        return int(value.value)

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._library, name)(*arguments)
        if code:
            raise OSError(f"{name} answered {code}")


def find_gpu() -> Nvml | None:
    """The first GPU where there is a driver."""
    try:
        return Nvml()
    except OSError:
        return None

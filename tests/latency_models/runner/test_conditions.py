"""What is read of devices whose files are known; nothing is ever missed loudly."""

import ctypes
import os
from pathlib import Path

import pytest

from latency_models.runner import conditions
from latency_models.runner.conditions import read_board, read_conditions, read_power_mode, read_processor
from latency_models.runner.nvml import Nvml


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


JETSON = {
    "proc/device-tree/model": "NVIDIA Jetson AGX Orin Developer Kit\0",
    "proc/cpuinfo": "processor\t: 0\nBogoMIPS\t: 62.50\n",
    "proc/loadavg": "0.52 0.58 0.59 1/467 12345\n",
    "var/lib/nvpmodel/status": "pmode:0002\n",
    "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=MAXN >\nx 1\n< POWER_MODEL ID=2 NAME=MODE_30W >\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "schedutil\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "729600\n",
    "sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq": "1728000\n",
    "sys/class/devfreq/17000000.gpu/cur_freq": "612000000\n",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "48250\n",
    "sys/class/thermal/thermal_zone1/type": "cv0-thermal\n",
    "sys/class/thermal/thermal_zone1/temp": "-256000\n",  # powered off
}


def test_a_jetson(tmp_path: Path) -> None:
    root = tree(tmp_path, JETSON)
    assert read_processor(root) == read_board(root) == "NVIDIA Jetson AGX Orin Developer Kit"
    message = read_conditions(root)
    assert message.pop("time").endswith("Z")
    assert message == {
        "power_mode": "MODE_30W",
        "load": 0.52,
        "cpu_mhz": [729.6, 1728.0],
        "clocks_mhz": {"17000000.gpu": 612.0},
        "celsius": {"cpu-thermal": 48.25},
    }
    (root / "etc/nvpmodel.conf").unlink()
    assert read_power_mode(root) == "nvpmodel 2"


def test_a_server(tmp_path: Path) -> None:
    root = tree(tmp_path, {
        "proc/cpuinfo": "processor\t: 0\nmodel name\t: A Processor @ 2.00GHz\nmodel name\t: A Processor @ 2.00GHz\n",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "performance\n",
        "sys/devices/system/cpu/cpu1/cpufreq/scaling_governor": "performance\n",
        "sys/devices/system/cpu/cpu2/cpufreq/scaling_governor": "powersave\n",
    })  # fmt: skip
    assert read_board(root) is None
    assert read_processor(root) == "A Processor @ 2.00GHz"
    assert read_power_mode(root) == "performance+powersave"


def test_a_device_that_says_nothing(tmp_path: Path) -> None:
    assert set(read_conditions(tmp_path)) == {"time", "power_mode"}
    assert read_power_mode(tmp_path) == "as found"
    assert read_processor(tmp_path)  # of this Python
    odd = tree(tmp_path, {"proc/loadavg": "gibberish", "sys/class/thermal/thermal_zone0/temp": "hot"})
    assert set(read_conditions(odd)) == {"time", "power_mode"}


def test_the_nvpmodel_program_is_asked_where_it_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tree(tmp_path, {"bin/nvpmodel": "#!/bin/sh\necho 'NV Power Mode: MAXN_SUPER'\necho 2\n"}) / "bin/nvpmodel"
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(conditions, "ROOT", tmp_path)
    assert read_power_mode(tmp_path) == "MAXN_SUPER"
    program.write_text("#!/bin/sh\nexit 1\n")
    assert read_power_mode(tmp_path) == "as found"


class Driver:
    """Stands in for libnvidia-ml: a GPU of 300 W; what it does not have answers 3, not supported."""

    def __init__(self, **values: int) -> None:
        self.values = values

    def __getattr__(self, name: str):
        def call(*arguments: object) -> int:
            if name not in self.values:
                return 0 if name in ("nvmlInit_v2", "nvmlDeviceGetHandleByIndex_v2") else 3
            arguments[-1]._obj.value = self.values[name]
            return 0

        return call


def test_a_gpu_tells_its_clock_temperature_and_limit(tmp_path: Path) -> None:
    gpu = Nvml(Driver(
        nvmlDeviceGetTemperature=61, nvmlDeviceGetClockInfo=1410, nvmlDeviceGetEnforcedPowerLimit=300_000,
        nvmlDeviceGetTotalEnergyConsumption=2**40,
    ))  # fmt: skip
    message = read_conditions(tmp_path, gpu)
    assert (message["power_mode"], message["gpu_mhz"], message["gpu_celsius"]) == ("300 W", 1410, 61)
    assert gpu.read_millijoules() == 2**40  # more than 32 bits
    assert isinstance(gpu._handle, ctypes.c_void_p)
    silent = Nvml(Driver())
    assert set(read_conditions(tmp_path, silent)) == {"time", "power_mode"}
    with pytest.raises(OSError, match="answered 3"):
        silent.read_millijoules()

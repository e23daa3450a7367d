"""Energy from counters and sensors whose files and times are known."""

import time
from pathlib import Path

import pytest

from latency_models.runner.energy_meters import Ina3221Meter, NvmlMeter, RaplMeter, measure_joules, open_energy_meter
from latency_models.runner.failure import MeasuringFailed


def package(root: Path, domain: str, name: str, microjoules: int, wraps_at: int = 262_143_328_850) -> Path:
    folder = root / "sys/class/powercap" / domain
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    (folder / "max_energy_range_uj").write_text(f"{wraps_at}\n")
    return folder / "energy_uj"


def rail(root: Path, hwmon: int, channel: int, label: str, millivolts: int, milliamperes: int) -> Path:
    folder = root / f"sys/class/hwmon/hwmon{hwmon}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "name").write_text("ina3221\n")
    (folder / f"in{channel}_label").write_text(f"{label}\n")
    (folder / f"in{channel}_input").write_text(f"{millivolts}\n")
    (folder / f"curr{channel}_input").write_text(f"{milliamperes}\n")
    return folder / f"curr{channel}_input"


def test_packages_are_added_and_what_is_inside_or_around_them_is_not(tmp_path: Path) -> None:
    first, second = (package(tmp_path, f"intel-rapl:{i}", f"package-{i}", 1_000_000) for i in range(2))
    inner = [
        package(tmp_path, "intel-rapl:0:0", "core", 0),
        package(tmp_path, "intel-rapl:0:1", "dram", 0),
        package(tmp_path, "intel-rapl:2", "psys", 0),
        package(tmp_path, "intel-rapl-mmio:0", "package-0", 0),
    ]
    meter = RaplMeter(tmp_path)
    first.write_text("3500000\n")
    second.write_text("2000000\n")
    for path in inner:
        path.write_text("900000000\n")
    assert meter.read_joules() == pytest.approx(2.5 + 1.0)
    assert "2 packages" in meter.name


def test_a_counter_that_wraps_goes_on_rising(tmp_path: Path) -> None:
    counter = package(tmp_path, "intel-rapl:0", "package-0", 9_000_000, wraps_at=10_000_000)
    meter = RaplMeter(tmp_path)
    readings = []
    for microjoules in (9_500_000, 200_000, 700_000, 100_000):
        counter.write_text(f"{microjoules}\n")
        readings.append(meter.read_joules())
    assert readings == pytest.approx([0.5, 1.2, 1.7, 11.1])


def test_the_module_s_own_rail_is_read_and_else_all_rails(tmp_path: Path) -> None:
    now = [0.0]
    whole = rail(tmp_path / "a", 1, 1, "VDD_IN", 5000, 2000)  # 10 W
    rail(tmp_path / "a", 1, 2, "VDD_CPU_GPU_CV", 5000, 1000)
    meter = Ina3221Meter(tmp_path / "a", clock=lambda: now[0])
    now[0] = 2.0
    assert meter.read_joules() == pytest.approx(20.0)
    whole.write_text("4000\n")  # to 20 W within a second: the mean of both
    now[0] = 3.0
    assert meter.read_joules() == pytest.approx(35.0)
    rail(tmp_path / "b", 1, 1, "VDD_GPU_SOC", 20000, 500)
    rail(tmp_path / "b", 2, 2, "VIN_SYS_5V0", 5000, 1000)
    rail(tmp_path / "b", 2, 3, "NC", 5000, 1000)
    (tmp_path / "b/sys/class/hwmon/hwmon2/in7_label").write_text("sum of shunt voltages\n")
    now[0] = 0.0
    meter = Ina3221Meter(tmp_path / "b", clock=lambda: now[0])
    now[0] = 1.0
    assert meter.read_joules() == pytest.approx(15.0)
    assert meter.name == "INA3221 VDD_GPU_SOC+VIN_SYS_5V0"


def test_sensors_are_sampled_while_something_runs(tmp_path: Path) -> None:
    current = rail(tmp_path, 1, 1, "VDD_IN", 5000, 2000)
    with open_energy_meter(on_gpu=True, root=tmp_path) as meter:
        before, began = meter.read_joules(), time.monotonic()
        time.sleep(0.6)
        draft = current.with_suffix(".draft")
        draft.write_text("0\n")
        draft.replace(current)
        worked = time.monotonic() - began
        time.sleep(0.3)
        joules = meter.read_joules() - before
    assert joules == pytest.approx(10 * worked, rel=0.15)  # start and end alone would say 25 % less


def test_a_device_without_a_meter_and_one_that_may_not_be_read(tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "missing"):
        with open_energy_meter(on_gpu=False, root=root) as meter:
            assert meter is None
        with pytest.raises(FileNotFoundError):
            RaplMeter(root)
    package(tmp_path, "intel-rapl:0", "package-0", 0).write_text("")
    with open_energy_meter(on_gpu=False, root=tmp_path) as meter:
        assert meter is None


class Counter:
    """Stands in for the driver: 1 mJ for each time unit that has passed."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def read_millijoules(self) -> int:
        return int(1000 * self.now_s * 100)  # 100 W

    def work(self, seconds: float) -> None:
        self.now_s += seconds


def test_joules_of_an_inference_are_power_times_latency() -> None:
    gpu = Counter()
    calls = {"slow": lambda: gpu.work(0.2), "fast": lambda: gpu.work(0.01)}
    joules = measure_joules(NvmlMeter(gpu), calls, 0.0, clock=lambda: gpu.now_s)
    assert joules == pytest.approx({"slow": 20.0, "fast": 1.0})
    assert gpu.now_s >= 2 * 0.5  # windows that the counter's cadence does not spoil


def test_what_fails_while_energy_is_read_is_told_apart() -> None:
    def broken() -> None:
        raise RuntimeError("device lost")

    gpu = Counter()
    with pytest.raises(MeasuringFailed, match=r"a cannot be run \(device lost\)"):
        measure_joules(NvmlMeter(gpu), {"a": broken}, 0.0, clock=lambda: gpu.now_s)

    class Gone(Counter):
        def read_millijoules(self) -> int:
            raise OSError("nvml answered 15")

    with pytest.raises(MeasuringFailed, match="NVML total energy of the GPU cannot be read any more"):
        measure_joules(NvmlMeter(Gone()), {"a": lambda: None}, 0.0)

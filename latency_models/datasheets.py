"""What data sheets say of devices: dense peak arithmetic and memory bandwidth, one readable line per device or mode.

Marketing figures are sparse and count accelerators that a transformer does not use; these are dense rates of the
GPU. A figure whose source could not be named is not here.

Sources: NVIDIA data sheets DS-10662-001 v1.8 (AGX Orin), DS-10712-001 v1.7 (Orin NX), DS-11105-001 v1.1 (Orin
Nano); clocks, gated units and memory clocks per power mode from NVIDIA's nvpmodel configurations; data-centre
GPUs from NVIDIA's aiconfigurator system files and data sheets.
"""

from dataclasses import dataclass

from search_spaces.weight_formats import FLOATING

# An Ampere GA10B multiprocessor: multiply-adds per clock (fp16 tensor cores, int8 tensor cores, fp32 lanes).
_MACS_PER_SM = {"fp16": 1024, "int8": 2048, "fp32": 128}
_EMC_FULL = 3199  # MHz at which the modules with 204.8 or 102.4 GB/s reach that bandwidth


@dataclass(frozen=True)
class DataSheet:
    """One device in one power mode: dense peaks in TFLOP/s (TOP/s for int8) by precision, bandwidth in GB/s."""

    device: str
    mode: str | None
    peaks: dict[str, float]
    bandwidth: float
    source: str
    default: bool = False
    fp8: float | None = None  # of products in E4M3, TFLOP/s; None before Ada and Hopper, which have none

    def list_rates(self) -> dict[str, float]:
        """The peaks of all arithmetic, that of single products included, by its name."""
        return self.peaks if self.fp8 is None else {**self.peaks, FLOATING: self.fp8}


@dataclass(frozen=True)
class _Orin:
    """A Jetson Orin module; modes are (name, GPU MHz, multiprocessors, memory MHz)."""

    device: str
    bandwidth: float  # GB/s at `emc` MHz
    emc: int
    default: str
    modes: tuple[tuple[str, int, int, int], ...]


_ORINS = (
    _Orin("jetson-agx-orin-64gb", 204.8, _EMC_FULL, "30w",
          (("15w", 408, 6, 2133), ("30w", 612, 8, 3199), ("50w", 816, 16, 3199), ("maxn", 1300, 16, 3199))),
    _Orin("jetson-agx-orin-32gb", 204.8, _EMC_FULL, "30w",
          (("15w", 408, 6, 2133), ("30w", 612, 8, 3199), ("40w", 816, 14, 3199), ("maxn", 939, 14, 3199))),
    _Orin("jetson-orin-nx-16gb", 102.4, _EMC_FULL, "15w",
          (("10w", 612, 4, 2133), ("15w", 612, 4, 3199), ("25w", 408, 8, 3199), ("maxn", 918, 8, 3199),
           ("40w-super", 1173, 8, 3199))),
    _Orin("jetson-orin-nx-8gb", 102.4, _EMC_FULL, "15w",
          (("10w", 612, 4, 2133), ("15w", 612, 4, 3199), ("20w", 408, 8, 3199), ("maxn", 765, 8, 3199),
           ("40w-super", 1173, 8, 3199))),
    _Orin("jetson-orin-nano-8gb", 102.4, _EMC_FULL, "15w",
          (("7w", 408, 4, 2133), ("15w", 625, 8, 2133), ("15w-super", 612, 8, 2133),
           ("25w-super", 918, 8, 3199), ("maxn-super", 1020, 8, 3199))),
    _Orin("jetson-orin-nano-4gb", 51.2, _EMC_FULL, "10w", (("10w", 625, 4, 2133),)),
)  # fmt: skip

_AICONFIGURATOR = "NVIDIA aiconfigurator system file"
_OTHERS = (
    DataSheet("l4", None, {"fp32": 30.3, "fp16": 121, "int8": 242}, 300, _AICONFIGURATOR),
    DataSheet("t4", None, {"fp32": 8.1, "fp16": 65, "int8": 130}, 320, "NVIDIA T4 data sheet, secondary copies"),
    DataSheet("a10g", None, {"fp16": 70, "int8": 140}, 600, "llm-analysis hardware file a10g"),
    DataSheet(
        "rtx-4090", None, {"fp32": 82.6, "fp16": 165.2, "int8": 660.6}, 1008, "secondary copies; fp32 accumulate"
    ),
    DataSheet("a100-sxm-80gb", None, {"fp32": 19.5, "fp16": 312, "int8": 624}, 2039, _AICONFIGURATOR),
    DataSheet("h100-sxm", None, {"fp16": 989, "int8": 1978}, 3350, _AICONFIGURATOR, fp8=1978),
    DataSheet("h200-sxm", None, {"fp16": 989, "int8": 1978}, 4800, _AICONFIGURATOR, fp8=1978),
    DataSheet("apple-m2-gpu", None, {"fp32": 3.58}, 102.4, "published specifications, secondary copies"),
)


def _build_orin_sheets(module: _Orin) -> list[DataSheet]:
    sheets = []
    for name, mhz, processors, emc in module.modes:
        peaks = {key: macs * 2 * processors * mhz * 1e6 / 1e12 for key, macs in _MACS_PER_SM.items()}
        bandwidth = module.bandwidth * min(1.0, emc / module.emc)
        source = f"NVIDIA data sheet; {mhz} MHz, {processors} SM, EMC {emc} MHz (nvpmodel)"
        sheets.append(DataSheet(module.device, name, peaks, bandwidth, source, name == module.default))
    return sheets


DATA_SHEETS: tuple[DataSheet, ...] = (*(sheet for module in _ORINS for sheet in _build_orin_sheets(module)), *_OTHERS)

"""The dimensions of a resource that work uses and a bill charges for, once: how each is metered, billed and named.

A new dimension, a TPU say, is an entry of DIMENSIONS: collect reads its metrics, price its units, attribute allocates
it, rank and the FOCUS export name it, and ``python -m jobs.contract`` documents it. The detector reads those that
``is_watched``: another one needs a newly trained model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

# Kinds of a metric's points: a counter, a counter's increase over an interval, a level.
CUMULATIVE, DELTA, GAUGE = "c", "d", "g"

# Units of metrics as written -> factor to seconds, cores, bytes, operations; "" is a metric without a unit.
_SECONDS = {"s": 1.0, "sec": 1.0, "seconds": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9, "": 1.0}
_CORES = {"{cpu}": 1.0, "{cpus}": 1.0, "{core}": 1.0, "{cores}": 1.0, "cores": 1.0, "1": 1.0, "": 1.0}
_BYTES = {
    "By": 1.0,
    "bytes": 1.0,
    "KiBy": 2.0**10,
    "MiBy": 2.0**20,
    "GiBy": 2.0**30,
    "kBy": 1e3,
    "MBy": 1e6,
    "GBy": 1e9,
    "": 1.0,
}
# Shares of a device that was busy, as a ratio or in percent.
_RATIO = {"1": 1.0, "": 1.0}
_PERCENT = {"%": 1e-2, "percent": 1e-2, "": 1e-2}
_OPERATIONS = {"{operations}": 1.0, "{operation}": 1.0, "1": 1.0, "": 1.0}

# Units of bills, in lower case without blanks and punctuation.
TIME = r"(?:per)?(?P<time>hour|hr|h|minute|min|second|sec)s?"
SIZE = r"(?:(?P<prefix>[kmgtp]?)(?P<binary>i?)b|(?P<word>kilo|mega|giga|tera|kibi|mebi|gibi|tebi)?bytes?)"


@dataclass(frozen=True)
class Metric:
    """A metric that tells usage.

    Attributes:
        name: of OpenTelemetry, or of Prometheus.
        kind: CUMULATIVE or GAUGE; a gauge is integrated over time.
        units: unit as written -> factor to the dimension's unit, of a gauge to that per second.
    """

    name: str
    kind: str
    units: Mapping[str, float]


@dataclass(frozen=True)
class Dimension:
    """What of a resource is used and charged.

    Attributes:
        name: in the tables.
        usage: its unit in the tables, in words.
        focus_unit: the same as FOCUS writes it (UnitFormat).
        focus_category: FOCUS ServiceCategory of its charges.
        metrics: in order of preference: of a consumer the first counts that was sent.
        billed_in: matches the units that bills count it in, as TIME and SIZE do; a unit with TIME is of a capacity,
            which is paid for whether it is used or not.
        is_common: every workload uses it, so that a resource without a bill is priced at other resources' rates.
        is_watched: the detector's model reads its usage.
    """

    name: str
    usage: str
    focus_unit: str
    focus_category: str
    metrics: tuple[Metric, ...]
    billed_in: re.Pattern[str]
    is_common: bool
    is_watched: bool

    @property
    def is_capacity(self) -> bool:
        """Whether it is paid for by time, used or not."""
        return "time" in self.billed_in.groupindex


_ALL = (
    Dimension(
        "cpu",
        usage="core-seconds",
        focus_unit="Core-Seconds",
        focus_category="Compute",
        metrics=(
            Metric("container.cpu.time", CUMULATIVE, _SECONDS),
            Metric("k8s.pod.cpu.time", CUMULATIVE, _SECONDS),
            Metric("container_cpu_usage_seconds_total", CUMULATIVE, _SECONDS),
            Metric("container.cpu.usage", GAUGE, _CORES),
            Metric("k8s.pod.cpu.usage", GAUGE, _CORES),
        ),
        billed_in=re.compile(rf"(?:[vo]?cpu|v?core)s?{TIME}"),
        is_common=True,
        is_watched=True,
    ),
    Dimension(
        "memory",
        usage="byte-seconds",
        focus_unit="Byte-Seconds",
        focus_category="Compute",
        metrics=(
            Metric("container.memory.working_set", GAUGE, _BYTES),
            Metric("k8s.pod.memory.working_set", GAUGE, _BYTES),
            Metric("container.memory.usage", GAUGE, _BYTES),
            Metric("k8s.pod.memory.usage", GAUGE, _BYTES),
        ),
        billed_in=re.compile(rf"(?:lambda)?{SIZE}{TIME}"),
        is_common=True,
        is_watched=True,
    ),
    Dimension(
        "io",
        usage="operations",
        focus_unit="Operations",
        focus_category="Storage",
        metrics=(Metric("container.blockio.io_serviced_recursive", CUMULATIVE, _OPERATIONS),),
        billed_in=re.compile(r"ios?|\w*(?:operation|request)s?"),
        # Which queue or disk its operations are billed under is nobody's guess.
        is_common=False,
        is_watched=True,
    ),
    Dimension(
        "network",
        usage="bytes",
        focus_unit="Bytes",
        focus_category="Networking",
        metrics=(Metric("k8s.pod.network.io", CUMULATIVE, _BYTES),),
        billed_in=re.compile(rf"{SIZE}s?"),
        is_common=False,
        is_watched=True,
    ),
    Dimension(
        "gpu",
        usage="gpu-seconds",
        focus_unit="GPU-Seconds",
        focus_category="Compute",
        # NVIDIA's DCGM exporter, and OpenTelemetry's hardware metrics; each device is a series of its own.
        metrics=(
            Metric("DCGM_FI_PROF_GR_ENGINE_ACTIVE", GAUGE, _RATIO),
            Metric("hw.gpu.utilization", GAUGE, _RATIO),
            Metric("DCGM_FI_DEV_GPU_UTIL", GAUGE, _PERCENT),
        ),
        billed_in=re.compile(rf"\w*gpus?{TIME}"),
        is_common=False,
        is_watched=False,
    ),
)

DIMENSIONS: dict[str, Dimension] = {dimension.name: dimension for dimension in _ALL}

# Those that the detector's model reads, in its order (udfs/pure/tokens.py).
WATCHED = tuple(name for name, dimension in DIMENSIONS.items() if dimension.is_watched)

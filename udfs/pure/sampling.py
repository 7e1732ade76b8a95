"""How many spans stand for each that came: what samplers say of the chance with which they kept it.

Sources: OpenTelemetry, "TraceState: Probability Sampling" (``ot=th:``, the rejection threshold T of 56 bits, of which
trailing zeros are left out: a span was kept with the chance 1 - T / 2^56); attributes as samplers send them:
``SampleRate`` (Honeycomb's, one in so many), ``sampling.probability``, and Jaeger's ``sampler.param`` where
``sampler.type`` is probabilistic.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

RATE, PROBABILITY, TYPE, PARAMETER = "SampleRate", "sampling.probability", "sampler.type", "sampler.param"
KEYS = frozenset((RATE, PROBABILITY, TYPE, PARAMETER))

# Who keeps fewer than one in so many has no statistics left; it is rather a mistake.
COUNT_MAX = 1e6

# The list-members of a tracestate are separated by commas, the fields of OpenTelemetry's own by semicolons.
_THRESHOLD = re.compile(r"(?:^|,)\s*ot=(?:[^,;]*;)*th:([0-9a-f]{1,14})\s*(?=[,;]|$)")
_ALL = 1 << 56


def adjusted_count(trace_state: object, attributes: Mapping[str, Any]) -> float:
    """How many spans this one stands for, at least 1; 0 where no sampler says so.

    trace_state: as W3C has it; it is what a later sampler writes anew, and counts before attributes.
    attributes: of KEYS those that the span has.
    """
    if type(trace_state) is str and trace_state:
        found = _THRESHOLD.search(trace_state)
        if found:
            return _count(_ALL / (_ALL - int(found[1].ljust(14, "0"), 16)))
    if RATE in attributes:
        return _count(_number(attributes[RATE]))
    chance = _number(attributes.get(PROBABILITY, 0))
    if not chance and attributes.get(TYPE) == "probabilistic":
        chance = _number(attributes.get(PARAMETER, 0))
    return _count(1 / chance) if 0 < chance <= 1 else 0.0


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return 0.0


def _count(count: float) -> float:
    return count if math.isfinite(count) and 1 <= count <= COUNT_MAX else 0.0

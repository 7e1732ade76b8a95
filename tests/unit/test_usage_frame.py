"""How far usage has come is told by its minutes, never by what else stands in a frame."""

from __future__ import annotations

import orjson
import pytest

from tests.unit.test_detect_stage import MINUTES, PACE, DetectStage, frames, lines
from udfs.detect import TRACES, USAGE
from udfs.pure.windows import bucket_start

FUTURE = "1900000000000"


@pytest.mark.parametrize(
    ("otel_service_name", "pod"), [("cart", FUTURE), (FUTURE, "pod"), (f'"{FUTURE}"', f'"{FUTURE}"')]
)
def test_traces_wait_for_usage_whatever_its_pods_are_called(otel_service_name: str, pod: str) -> None:
    stage = DetectStage(PACE)
    start_ms = frames(0)[0]
    usage = {"minutes": {str(start_ms): {"cpu": 1.0}}, "windows": {}}
    stage.frame(USAGE, bucket_start(start_ms), orjson.dumps([otel_service_name, pod, usage]).decode())
    for number in range(MINUTES):
        minute_ms, traces, _ = frames(number)
        stage.frame(TRACES, minute_ms, lines(traces))
    stage.seconds(8)
    assert stage.open_minutes() == MINUTES

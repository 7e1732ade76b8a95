"""detect: minutes of traces and usage, in event-time order, to verdicts and incidents."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path

import orjson
from pyflink.common import Row, Types
from pyflink.datastream import KeyedProcessFunction, RuntimeContext
from pyflink.datastream.state import MapStateDescriptor, ValueStateDescriptor

from udfs.changelog import Latest, upsert
from udfs.pure.detect import RuleDetector
from udfs.pure.masked import EPISODES, MaskedDetector
from udfs.pure.predict import Models
from udfs.pure.windows import MINUTE_MS, USAGE_BUCKET_MS, bucket_start, window_start

TRACES, USAGE = "traces", "usage"
VERDICTS, INCIDENTS = "verdicts", "incidents"


Usage = dict[tuple[str, str], dict[str, float]]


class Detect(KeyedProcessFunction):
    """Rows (kind, time_ms, frame) -> verdicts and incidents of each minute, once its time has passed.

    A frame holds the packed traces of a minute, or the usage of a bucket, one a line in any order.
    State: the frames not yet worked off; the detector with its baselines, episodes and thresholds; and the
    judged minutes that it will tell anew. A minute is compared with what earlier minutes gave, and only then
    learnt from. The models are the worker's, loaded once; which one judges a minute is a matter of event time.
    """

    def __init__(self, models: Path | None, threshold: str = EPISODES) -> None:
        """models: directory of the masked-span models, None = the rule. threshold: one of masked.POLICIES."""
        self._models_path, self._threshold = models, threshold

    def open(self, context: RuntimeContext) -> None:
        self._models = Models(self._models_path) if self._models_path else None
        self._frames = {
            kind: Latest(context, kind, Types.LONG()) for kind in (TRACES, USAGE)
        }
        self._detector = context.get_state(
            ValueStateDescriptor("detector", Types.PICKLED_BYTE_ARRAY())
        )
        self._pending = context.get_map_state(
            MapStateDescriptor("pending", Types.LONG(), Types.PICKLED_BYTE_ARRAY())
        )
        # The bucket that was read last, as (its frame, minute -> usage): a copy of what is in state.
        self._bucket: tuple[str, dict[str, Usage]] = ("", {})

    def process_element(self, row: Row, context: KeyedProcessFunction.Context) -> Iterator[Row]:
        kind, time_ms, frame = row
        frames = self._frames[kind]
        if frames.get(time_ms) is None:
            end_ms = time_ms + (MINUTE_MS if kind == TRACES else USAGE_BUCKET_MS)
            for timer_ms in range(time_ms + MINUTE_MS, end_ms + 1, MINUTE_MS):
                context.timer_service().register_event_time_timer(timer_ms)
        frames.apply(row.get_row_kind(), time_ms, frame)
        yield from ()

    def on_timer(
        self, timestamp: int, context: KeyedProcessFunction.OnTimerContext
    ) -> Iterator[Row]:
        minute_ms = timestamp - MINUTE_MS
        traces = (self._frames[TRACES].get(minute_ms) or "").split()
        detector = self._detector.value() or self._new_detector()
        if self._models:
            detector.predictor = self._models.at(minute_ms)
            for due in detector.due(minute_ms):
                detector.pending[due] = self._pending.get(due)
                self._pending.remove(due)
        results = detector.step(minute_ms, list(map(b64decode, traces)), self._usage(minute_ms))
        if self._models:
            for judged, minute in detector.pending.items():
                self._pending.put(judged, minute)
        self._detector.update(detector)
        self._frames[TRACES].remove(minute_ms)
        if timestamp == bucket_start(minute_ms) + USAGE_BUCKET_MS:
            self._frames[USAGE].remove(bucket_start(minute_ms))
        for result in results:
            key = str(result.minute_ms)
            yield upsert(VERDICTS, result.minute_ms, key, orjson.dumps(result.verdicts))
            yield upsert(
                INCIDENTS,
                window_start(result.minute_ms),
                key,
                orjson.dumps([result.incidents, result.service_traces]),
            )

    def _new_detector(self) -> RuleDetector:
        return MaskedDetector(policy=self._threshold) if self._models else RuleDetector()

    def _usage(self, minute_ms: int) -> Usage:
        """Usage of ``minute_ms`` by (workload, pod) and dimension."""
        frame = self._frames[USAGE].get(bucket_start(minute_ms)) or ""
        if frame != self._bucket[0]:
            self._bucket = (frame, _by_minute(frame))
        return self._bucket[1].get(str(minute_ms), {})


def _by_minute(frame: str) -> dict[str, Usage]:
    """Usage of a bucket by minute; a pod under several consumers is summed in the order of their names."""
    minutes: dict[str, Usage] = {}
    for consumer in sorted(frame.splitlines()):
        otel_service_name, pod, metered = orjson.loads(consumer)
        for minute, by_dimension in metered["minutes"].items():
            into = minutes.setdefault(minute, {}).setdefault((otel_service_name, pod), {})
            for dimension, used in by_dimension.items():
                into[dimension] = into.get(dimension, 0.0) + used
    return minutes

"""detect: minutes of traces and usage, in event-time order, to verdicts and incidents."""

from __future__ import annotations

import re
import time
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path

import orjson
from pyflink.common import Row, RowKind, Types
from pyflink.datastream import KeyedProcessFunction, RuntimeContext
from pyflink.datastream.state import MapStateDescriptor, ValueStateDescriptor

from udfs import metrics
from udfs.changelog import END_OF_INPUT, PULSE, Latest, tick, upsert
from udfs.pure.detect import MinuteResult, RuleDetector
from udfs.pure.masked import EPISODES, MaskedDetector
from udfs.pure.pace import Pace, Progress
from udfs.pure.predict import DEFAULT_MODELS, Models
from udfs.pure.windows import MINUTE_MS, USAGE_BUCKET_MS, bucket_start, window_start

TRACES, USAGE = "traces", "usage"
VERDICTS, INCIDENTS = "verdicts", "incidents"

# A minute in a frame of usage.
_MINUTE = re.compile(r'"(\d{13})"')

# How long usage is kept for traces that come late.
USAGE_KEPT_MS = 2 * USAGE_BUCKET_MS

Usage = dict[tuple[str, str], dict[str, float]]


class Detect(KeyedProcessFunction):
    """Rows (kind, time_ms, frame) -> verdicts and incidents of each minute, once its time has passed.

    A frame holds the packed traces of a minute, or the usage of a bucket, one a line in any order.
    State: the frames not yet worked off; the detector with its baselines, episodes and thresholds; and the
    judged minutes that it will tell anew. A minute is compared with what earlier minutes gave, and only then
    learnt from. The models are the worker's, loaded once; which one judges a minute is a matter of event time.

    Where the input ends, minutes are worked off in order at its end. Where it doesn't, ``Pace`` says when a minute
    is over; a frame that comes for one that is over has it judged again, without learning.
    """

    def __init__(
        self, models: Path | None, threshold: str = EPISODES, pace: Pace | None = None
    ) -> None:
        """models: directory of the masked-span models, None = the rule. threshold: one of masked.POLICIES.
        pace: None = the input ends."""
        # The worker's own copy, which need not lie where the client's does.
        self._has_default_models = models == DEFAULT_MODELS
        self._models_path, self._threshold, self._pace = models, threshold, pace

    def open(self, context: RuntimeContext) -> None:
        path = DEFAULT_MODELS if self._has_default_models else self._models_path
        self._models = Models(path) if path else None
        self._frames = {
            kind: Latest(context, kind, Types.LONG()) for kind in (TRACES, USAGE)
        }
        self._detector = context.get_state(
            ValueStateDescriptor("detector", Types.PICKLED_BYTE_ARRAY())
        )
        self._pending = context.get_map_state(
            MapStateDescriptor("pending", Types.LONG(), Types.PICKLED_BYTE_ARRAY())
        )
        self._progress = context.get_state(
            ValueStateDescriptor("progress", Types.PICKLED_BYTE_ARRAY())
        )
        # The bucket that was read last, as (its frame, minute -> usage): a copy of what is in state.
        self._bucket: tuple[str, dict[str, Usage]] = ("", {})
        self._is_started = False
        self._late_traces = metrics.counter(context, "late_traces")
        self._minutes_open = metrics.Gauge(context, "minutes_open")
        self._model_ms = metrics.Gauge(context, "model_ms")

    def process_element(self, row: Row, context: KeyedProcessFunction.Context) -> Iterator[Row]:
        kind, time_ms, frame = row
        if kind == PULSE:
            if self._pace and not self._is_started and self._progress.value():
                tick(context, self._pace.emit_every_ms)
            return
        frames = self._frames[kind]
        if self._pace:
            tick(context, self._pace.emit_every_ms)
            progress = self._progress_at(context)
            is_late = kind == TRACES and time_ms <= progress.judged_ms
            if is_late:
                progress.late.add(time_ms)
            is_new = row.get_row_kind() in (RowKind.INSERT, RowKind.UPDATE_AFTER)
            self._late_traces.inc(int(is_late and is_new))
            newest_ms = time_ms if kind == TRACES else max(map(int, _MINUTE.findall(frame)), default=-1)
            progress.take(kind, newest_ms, context.timer_service().current_processing_time())
            self._progress.update(progress)
        elif frames.get(time_ms) is None:
            context.timer_service().register_event_time_timer(END_OF_INPUT)
            end_ms = time_ms + (MINUTE_MS if kind == TRACES else USAGE_BUCKET_MS)
            for timer_ms in range(time_ms + MINUTE_MS, end_ms + 1, MINUTE_MS):
                context.timer_service().register_event_time_timer(timer_ms)
        frames.apply(row.get_row_kind(), time_ms, frame)
        yield from ()

    def on_timer(
        self, timestamp: int, context: KeyedProcessFunction.OnTimerContext
    ) -> Iterator[Row]:
        if self._pace:
            yield from self._at_tick(context)
        else:
            yield from self._at_end_of_input(timestamp)

    def _at_end_of_input(self, timestamp: int) -> Iterator[Row]:
        """All that was read has been read: a minute's turn, or after the last one the last words."""
        detector = self._stored_detector()
        if timestamp == END_OF_INPUT:
            yield from self._last_words(detector)
            return
        minute_ms = timestamp - MINUTE_MS
        yield from self._step(detector, minute_ms)
        self._detector.update(detector)
        if timestamp == bucket_start(minute_ms) + USAGE_BUCKET_MS:
            self._frames[USAGE].remove(bucket_start(minute_ms))

    def _at_tick(self, context: KeyedProcessFunction.OnTimerContext) -> Iterator[Row]:
        """Judge what is over by now, then again what changed after it was over, and what is still open."""
        progress = self._progress_at(context)
        now_ms = context.timer_service().current_processing_time()
        over_ms = progress.over(now_ms, self._pace, (TRACES, USAGE))
        minutes = sorted(self._frames[TRACES].keys())
        buckets = sorted(self._frames[USAGE].keys())
        between = {
            minute_ms
            for bucket_ms in buckets
            for minute_ms in range(bucket_ms, bucket_ms + USAGE_BUCKET_MS, MINUTE_MS)
        }
        over = sorted(m for m in between.union(minutes) if progress.judged_ms < m <= over_ms)
        still_open = [minute_ms for minute_ms in minutes if minute_ms > over_ms]
        self._minutes_open.value = len(still_open)
        changed = still_open if progress.shown_at < progress.changed_at else []
        is_idle = progress.is_idle(now_ms, self._pace)
        says_last_words = is_idle and progress.ended_at < progress.changed_at
        if over or progress.late or changed or says_last_words:
            detector = self._stored_detector()
            for minute_ms in over:
                yield from self._step(detector, minute_ms)
            if over:
                self._detector.update(detector)
            for minute_ms in sorted(progress.late):
                yield from self._again(detector, minute_ms)
                self._frames[TRACES].remove(minute_ms)
            for minute_ms in changed:
                yield from self._again(detector, minute_ms)
            if says_last_words:
                yield from self._last_words(detector)
        progress.late.clear()
        progress.shown_at = progress.changed_at
        progress.judged_ms = max(progress.judged_ms, over_ms)
        # A late trace may still want the usage of its time.
        for bucket_ms in buckets:
            if bucket_ms + USAGE_KEPT_MS < progress.judged_ms:
                self._frames[USAGE].remove(bucket_ms)
        if is_idle:
            progress.ended_at = progress.changed_at
        else:
            tick(context, self._pace.emit_every_ms)
        self._progress.update(progress)

    def _progress_at(self, context: KeyedProcessFunction.Context) -> Progress:
        """The state's, its clock set anew where the engine was started again."""
        progress = self._progress.value() or Progress()
        if not self._is_started:
            self._is_started = True
            progress.restart(context.timer_service().current_processing_time())
        return progress

    def _step(self, detector: RuleDetector, minute_ms: int) -> Iterator[Row]:
        """Judge a minute that is over and learn from it."""
        if self._models:
            detector.predictor = self._models.at(minute_ms)
            for due in detector.due(minute_ms):
                detector.pending[due] = self._pending.get(due)
                self._pending.remove(due)
        began = time.perf_counter()
        results = detector.step(minute_ms, self._traces(minute_ms), self._usage(minute_ms))
        self._model_ms.value = round(1_000 * (time.perf_counter() - began))
        self._keep_pending(detector)
        self._frames[TRACES].remove(minute_ms)
        for result in results:
            yield from _rows(result)

    def _again(self, detector: RuleDetector, minute_ms: int) -> Iterator[Row]:
        """Judge a minute that is not over, or was, by what is known now."""
        if self._models:
            detector.predictor = self._models.at(minute_ms)
        began = time.perf_counter()
        result = detector.again(minute_ms, self._traces(minute_ms), self._usage(minute_ms))
        self._model_ms.value = round(1_000 * (time.perf_counter() - began))
        self._keep_pending(detector)
        # A late span may have moved a minute's only trace to another one.
        yield from _rows(result or MinuteResult(minute_ms))

    def _last_words(self, detector: RuleDetector) -> Iterator[Row]:
        """What is told anew when nothing comes any more."""
        for result in detector.last_words(dict(self._pending.items())):
            yield from _rows(result)

    def _keep_pending(self, detector: RuleDetector) -> None:
        if self._models:
            for judged, minute in detector.pending.items():
                self._pending.put(judged, minute)
            detector.pending.clear()

    def _traces(self, minute_ms: int) -> list[bytes]:
        return list(map(b64decode, (self._frames[TRACES].get(minute_ms) or "").split()))

    def _stored_detector(self) -> RuleDetector:
        """The state's, or a new one."""
        stored = self._detector.value()
        if stored is None:
            stored = MaskedDetector(policy=self._threshold) if self._models else RuleDetector()
        return stored

    def _usage(self, minute_ms: int) -> Usage:
        """Usage of ``minute_ms`` by (workload, pod) and dimension."""
        frame = self._frames[USAGE].get(bucket_start(minute_ms)) or ""
        if frame != self._bucket[0]:
            self._bucket = (frame, _by_minute(frame))
        return self._bucket[1].get(str(minute_ms), {})


def _rows(result: MinuteResult) -> Iterator[Row]:
    """What goes out of a minute: its verdicts, and for its window the incidents."""
    key = str(result.minute_ms)
    yield upsert(VERDICTS, result.minute_ms, key, orjson.dumps(result.verdicts))
    yield upsert(
        INCIDENTS,
        window_start(result.minute_ms),
        key,
        orjson.dumps([result.incidents, result.service_traces]),
    )


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

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
from udfs.changelog import END_OF_INPUT, PULSE, Latest, payload_row, tick
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

# A verdict on a trace of a minute that is not over is told anew where it says something else, or once its score has
# moved by so much: the scores of all the minute's traces move a little with each that comes.
SCORE_STEP = 0.5
# How long what was told is remembered: minutes are told for the last time before that.
TOLD_KEPT_MS = 30 * MINUTE_MS

Usage = dict[tuple[str, str], dict[str, float]]


class Detect(KeyedProcessFunction):
    """Rows (kind, time_ms, frame) -> verdicts and incidents of each minute, once its time has passed.

    A frame holds the packed traces of a minute, or the usage of a bucket, one a line in any order.
    State: the frames not yet worked off; the detector with its baselines, episodes and thresholds; and the
    judged minutes that it will tell anew. A minute is compared with what earlier minutes gave, and only then
    learnt from. The models are the worker's, loaded once; which one judges a minute is a matter of event time.

    Where the input ends, minutes are worked off in order at its end, and each verdict is told once. Where it doesn't,
    ``Pace`` says when a minute is over; a frame that comes for one that is over has it judged again, without learning.
    Verdicts are upserts by trace: the later one stands, and only what is new is told. Incidents are upserts by minute.
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
        # What this start has told of minutes that are open, or were lately; a new start tells it again.
        self._shown: dict[int, Usage] = {}  # open minute as it stands -> the usage that it was judged by
        self._usage_changed: set[int] = set()  # buckets
        self._told: dict[str, tuple[int, dict]] = {}  # trace -> its minute and verdict
        self._rests_until_ms = 0
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
            if kind == TRACES:
                self._shown.pop(time_ms, None)
            else:
                self._usage_changed.add(time_ms)
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
        changed = self._unshown(still_open) if now_ms >= self._rests_until_ms else []
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
            yield from self._show(detector, changed, now_ms)
            if says_last_words:
                yield from self._last_words(detector)
        progress.late.clear()
        progress.judged_ms = max(progress.judged_ms, over_ms)
        if over:
            self._shown = {minute: usage for minute, usage in self._shown.items() if minute > over_ms}
            kept_ms = progress.judged_ms - TOLD_KEPT_MS
            self._told = {trace_id: told for trace_id, told in self._told.items() if told[0] >= kept_ms}
        # A late trace may still want the usage of its time.
        for bucket_ms in buckets:
            if bucket_ms + USAGE_KEPT_MS < progress.judged_ms:
                self._frames[USAGE].remove(bucket_ms)
        if is_idle:
            progress.ended_at = progress.changed_at
        else:
            tick(context, self._pace.emit_every_ms)
        self._progress.update(progress)

    def _unshown(self, minutes: list[int]) -> list[int]:
        """Of open minutes, those of which something else is known than was told."""
        for minute_ms in minutes:
            if minute_ms in self._shown and bucket_start(minute_ms) in self._usage_changed:
                if self._shown[minute_ms] != self._usage(minute_ms):
                    del self._shown[minute_ms]
        self._usage_changed.clear()
        return [minute_ms for minute_ms in minutes if minute_ms not in self._shown]

    def _show(self, detector: RuleDetector, minutes: list[int], now_ms: int) -> Iterator[Row]:
        """Judge minutes that are not over. Then rest for as long as it took: the rest of the work has to go on."""
        began = time.perf_counter()
        for minute_ms in minutes:
            self._shown[minute_ms] = self._usage(minute_ms)
            yield from self._again(detector, minute_ms, is_open=True)
        took_ms = round(1_000 * (time.perf_counter() - began))
        self._rests_until_ms = now_ms + 2 * took_ms

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
            yield from self._tell(result)

    def _again(self, detector: RuleDetector, minute_ms: int, is_open: bool = False) -> Iterator[Row]:
        """Judge a minute that is not over, or was, by what is known now."""
        if self._models:
            detector.predictor = self._models.at(minute_ms)
        began = time.perf_counter()
        result = detector.again(minute_ms, self._traces(minute_ms), self._usage(minute_ms))
        self._model_ms.value = round(1_000 * (time.perf_counter() - began))
        self._keep_pending(detector)
        # A late span may have moved a minute's only trace to another one.
        yield from self._tell(result or MinuteResult(minute_ms), is_open)

    def _last_words(self, detector: RuleDetector) -> Iterator[Row]:
        """What is told anew when nothing comes any more."""
        for result in detector.last_words(dict(self._pending.items())):
            yield from self._tell(result)

    def _tell(self, result: MinuteResult, is_open: bool = False) -> Iterator[Row]:
        """What goes out of a minute: its verdicts, as far as they are new, and for its window the incidents."""
        if not self._pace and not result.is_final:
            return
        verdicts = result.verdicts
        if self._pace:
            verdicts = [verdict for verdict in verdicts if self._is_news(result.minute_ms, verdict, is_open)]
            self._told |= {verdict["trace_id"]: (result.minute_ms, verdict) for verdict in verdicts}
        key = str(result.minute_ms)
        if verdicts:
            yield payload_row(VERDICTS, result.minute_ms, key, orjson.dumps(verdicts))
        yield payload_row(
            INCIDENTS,
            window_start(result.minute_ms),
            key,
            orjson.dumps([result.incidents, result.service_traces]),
        )

    def _is_news(self, minute_ms: int, verdict: dict, is_open: bool) -> bool:
        """Whether a verdict says something else than was told of its trace.

        A trace starts the earlier, the more of it is known: of two minutes that both have it, the earlier is right,
        and the frame of the other is about to come without it.
        """
        told_ms, told = self._told.get(verdict["trace_id"], (minute_ms, {}))
        if told_ms != minute_ms or not told:
            return minute_ms <= told_ms
        differs = {column for column, value in verdict.items() if value != told[column]}
        if is_open and differs <= {"anomaly_score", "threshold"}:
            return abs(verdict["anomaly_score"] - told["anomaly_score"]) >= SCORE_STEP
        return bool(differs)

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

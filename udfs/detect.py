"""detect: minutes of traces and usage, in event-time order, to verdicts and incidents."""

from __future__ import annotations

import time
from abc import abstractmethod
from base64 import b64decode
from collections.abc import Iterator, Sequence
from pathlib import Path

import orjson
from pyflink.common import Row, RowKind, Types
from pyflink.datastream import KeyedProcessFunction, RuntimeContext
from pyflink.datastream.state import MapStateDescriptor, ValueStateDescriptor

from udfs import metrics
from udfs.changelog import END_OF_INPUT, PULSE, Latest, payload_row, tick
from udfs.pure.ahead import Ahead
from udfs.pure.assemble import Trace
from udfs.pure.detect import MinuteResult, RuleDetector
from udfs.pure.masked import EPISODES, MaskedDetector
from udfs.pure.pace import Pace, Progress
from udfs.pure.predict import DEFAULT_MODELS, Models
from udfs.pure.windows import MINUTE_MS, USAGE_BUCKET_MS, bucket_start, window_start
from udfs.traces import Traces

TRACES, USAGE = "traces", "usage"
VERDICTS, INCIDENTS = "verdicts", "incidents"

# How long usage is kept for traces that come late.
USAGE_KEPT_MS = 2 * USAGE_BUCKET_MS

# A verdict on a trace of a minute that is not over is told anew where it says something else, or once its score has
# moved by so much: the scores of all the minute's traces move a little with each that comes.
SCORE_STEP = 0.5
# Minutes that are open, and may change, where nothing is behind: those of Pace, the one that is going on, and some air.
MINUTES_OPEN_USUALLY = 5
# How long what was told is remembered: minutes are told for the last time before that.
VERDICTS_KEPT_MS = 30 * MINUTE_MS

Usage = dict[tuple[str, str], dict[str, float]]


class Detect(KeyedProcessFunction):
    """Rows (kind, time_ms, frame) -> verdicts and incidents of each minute, once its time has passed.

    A frame holds packed traces of a minute, or the usage of a bucket, one a line in any order.
    State: the frames not yet worked off; the detector with its baselines, episodes and thresholds; and the
    judged minutes that it will tell anew. A minute is compared with what earlier minutes gave, and only then
    learnt from. The models are the worker's, loaded once; which one judges a minute is a matter of event time.

    Verdicts are upserts by trace: the later one stands. Incidents are upserts by minute.
    """

    def __init__(self, models: Path | None, threshold: str = EPISODES) -> None:
        """models: directory of the masked-span models, None = the rule. threshold: one of masked.POLICIES."""
        # The worker's own copy, which need not lie where the client's does.
        self._has_default_models = models == DEFAULT_MODELS
        self._models_path, self._threshold = models, threshold

    def open(self, context: RuntimeContext) -> None:
        path = DEFAULT_MODELS if self._has_default_models else self._models_path
        self._models = Models(path) if path else None
        self._usage = Latest(context, USAGE, Types.LONG())
        self._detector = context.get_state(ValueStateDescriptor("detector", Types.PICKLED_BYTE_ARRAY()))
        self._pending = context.get_map_state(MapStateDescriptor("pending", Types.LONG(), Types.PICKLED_BYTE_ARRAY()))
        # The buckets that were read lately, each as (its frame, minute -> usage): a copy of what is in state.
        self._buckets: dict[int, tuple[str, dict[str, Usage]]] = {}
        self._model_ms = metrics.Gauge(context, "model_ms")

    @abstractmethod
    def _to_tell(self, result: MinuteResult, is_open: bool) -> list[dict]:
        """The verdicts of a minute, over or open, that are to be told."""

    def _step(self, detector: RuleDetector, minute_ms: int, traces: Sequence[bytes | Trace]) -> Iterator[Row]:
        """Judge a minute that is over and learn from it."""
        if self._models:
            for due in detector.due(minute_ms):
                detector.pending[due] = self._pending.get(due)
                self._pending.remove(due)
        results = self._stepped(detector, minute_ms, traces)
        self._keep_pending(detector)
        for result in results:
            yield from self._rows(result)

    def _stepped(self, detector: RuleDetector, minute_ms: int, traces: Sequence[bytes | Trace]) -> list[MinuteResult]:
        """What a detector, this one or one that is ahead, says on stepping a minute, by the model of its time."""
        if self._models:
            detector.predictor = self._models.at(minute_ms)
        began = time.perf_counter()
        results = detector.step(minute_ms, traces, self._usage_of(minute_ms))
        self._model_ms.value = round(1_000 * (time.perf_counter() - began))
        return results

    def _last_words(self, detector: RuleDetector) -> Iterator[Row]:
        """What is told anew when nothing comes any more."""
        for result in detector.last_words(dict(self._pending.items())):
            yield from self._rows(result)

    def _rows(self, result: MinuteResult, is_open: bool = False) -> Iterator[Row]:
        """What goes out of a minute: verdicts, and for its window the incidents."""
        key = str(result.minute_ms)
        if verdicts := self._to_tell(result, is_open):
            yield payload_row(VERDICTS, result.minute_ms, key, orjson.dumps(verdicts))
        yield payload_row(
            INCIDENTS,
            window_start(result.minute_ms),
            key,
            orjson.dumps([result.incidents, result.service_traces]),
        )

    def _keep_pending(self, detector: RuleDetector) -> None:
        if self._models:
            for judged, minute in detector.pending.items():
                self._pending.put(judged, minute)
            detector.pending.clear()

    def _stored_detector(self) -> RuleDetector:
        """The state's, or a new one."""
        stored = self._detector.value()
        if stored is None:
            stored = MaskedDetector(policy=self._threshold) if self._models else RuleDetector()
        return stored

    def _usage_of(self, minute_ms: int) -> Usage:
        """Usage of ``minute_ms`` by (workload, pod) and dimension."""
        bucket_ms = bucket_start(minute_ms)
        frame = self._usage.get(bucket_ms) or ""
        if frame != self._buckets.get(bucket_ms, ("",))[0]:
            self._buckets[bucket_ms] = (frame, _by_minute(frame))
        return self._buckets[bucket_ms][1].get(str(minute_ms), {}) if frame else {}

    def _forget_usage(self, bucket_ms: int) -> None:
        self._usage.remove(bucket_ms)
        self._buckets.pop(bucket_ms, None)


class DetectAtEnd(Detect):
    """Where the input ends: a frame is a whole minute, minutes are worked off in order at the end, and each verdict
    is told once."""

    def open(self, context: RuntimeContext) -> None:
        super().open(context)
        self._frames = {TRACES: Latest(context, TRACES, Types.LONG()), USAGE: self._usage}

    def process_element(self, row: Row, context: KeyedProcessFunction.Context) -> Iterator[Row]:
        kind, time_ms, frame = row
        frames = self._frames[kind]
        if frames.get(time_ms) is None:
            context.timer_service().register_event_time_timer(END_OF_INPUT)
            end_ms = time_ms + (MINUTE_MS if kind == TRACES else USAGE_BUCKET_MS)
            for timer_ms in range(time_ms + MINUTE_MS, end_ms + 1, MINUTE_MS):
                context.timer_service().register_event_time_timer(timer_ms)
        frames.apply(row.get_row_kind(), time_ms, frame)
        yield from ()

    def on_timer(self, timestamp: int, context: KeyedProcessFunction.OnTimerContext) -> Iterator[Row]:
        """All that was read has been read: a minute's turn, or after the last one the last words."""
        detector = self._stored_detector()
        if timestamp == END_OF_INPUT:
            yield from self._last_words(detector)
            return
        minute_ms = timestamp - MINUTE_MS
        traces = _packed(self._frames[TRACES].get(minute_ms) or "")
        yield from self._step(detector, minute_ms, traces)
        self._frames[TRACES].remove(minute_ms)
        self._detector.update(detector)
        if timestamp == bucket_start(minute_ms) + USAGE_BUCKET_MS:
            self._forget_usage(bucket_start(minute_ms))

    def _rows(self, result: MinuteResult, is_open: bool = False) -> Iterator[Row]:
        if result.is_final:
            yield from super()._rows(result)

    def _to_tell(self, result: MinuteResult, is_open: bool) -> list[dict]:
        return result.verdicts


class DetectAsItComes(Detect):
    """Where the input doesn't end: a frame is one trace, and ``Pace`` says when a minute is over; a trace that comes
    for one that is over has it judged again, without learning. Until then it is judged, with all that are open, by a
    detector that is ahead. Of verdicts only what is new is told."""

    def __init__(self, models: Path | None, threshold: str, pace: Pace) -> None:
        super().__init__(models, threshold)
        self._pace = pace

    def open(self, context: RuntimeContext) -> None:
        super().open(context)
        self._traces = Traces(context)
        self._progress = context.get_state(ValueStateDescriptor("progress", Types.PICKLED_BYTE_ARRAY()))
        self._is_started = False
        self._tick_ms = 0
        self._busy_ms = 0
        # What this start has told of minutes that are open, or were lately; a new start tells it again.
        self._shown: dict[int, Usage] = {}  # open minute as it stands -> the usage that it was judged by
        self._usage_changed: set[int] = set()  # buckets
        self._usage_held: set[int] | None = None  # buckets; a copy of what is in state
        self._verdicts: dict[str, tuple[int, dict]] = {}  # trace -> its minute and verdict
        self._incidents: dict[int, bytes] = {}  # minute -> what was told of its incidents
        self._ahead: Ahead | None = None
        self._moved: set[int] = set()  # open minutes of which a trace came or went since they were looked at
        # When open minutes were judged again last, and how long that took.
        self._judged_again_ms = self._judging_again_took_ms = 0.0
        self._late_traces = metrics.counter(context, "late_traces")
        self._minutes_open = metrics.Gauge(context, "minutes_open")

    def process_element(self, row: Row, context: KeyedProcessFunction.Context) -> Iterator[Row]:
        kind, time_ms, frame = row
        if kind == PULSE:
            if not self._is_started and self._progress.value():
                self._tick(context)
            return
        self._tick(context)
        progress = self._progress_at(context)
        change = row.get_row_kind()
        if kind == TRACES:
            for packed in _packed(frame):
                self._traces.apply(change, time_ms, packed)
            self._shown.pop(time_ms, None)
            is_late = time_ms <= progress.judged_ms
            (progress.late if is_late else self._moved).add(time_ms)
            self._late_traces.inc(int(is_late and change in (RowKind.INSERT, RowKind.UPDATE_AFTER)))
            newest_ms = time_ms
        else:
            self._known_buckets().add(time_ms)
            self._usage.apply(change, time_ms, frame)
            self._usage_changed.add(time_ms)
            newest_ms = _newest_minute(frame)
        progress.take(kind, newest_ms, self._now_ms(context))
        self._progress.update(progress)
        yield from ()

    def on_timer(self, timestamp: int, context: KeyedProcessFunction.OnTimerContext) -> Iterator[Row]:
        """Judge what is over by now, then again what changed after it was over, and what is still open."""
        began = time.perf_counter()
        yield from self._judge(context)
        self._busy_ms += round(1_000 * (time.perf_counter() - began))

    def _judge(self, context: KeyedProcessFunction.OnTimerContext) -> Iterator[Row]:
        progress = self._progress_at(context)
        now_ms = self._now_ms(context)
        engine_ms = context.timer_service().current_processing_time()
        over_ms = progress.over(now_ms, self._pace, (TRACES, USAGE), engine_ms)
        minutes = self._traces.minutes()
        buckets = sorted(self._known_buckets())
        between = {
            minute_ms for bucket_ms in buckets for minute_ms in range(bucket_ms, bucket_ms + USAGE_BUCKET_MS, MINUTE_MS)
        }
        over = sorted(m for m in between.union(minutes) if progress.judged_ms < m <= over_ms)
        still_open = [minute_ms for minute_ms in minutes if minute_ms > over_ms]
        self._minutes_open.value = len(still_open)
        changed = self._changed(still_open)
        is_rested = self._is_rested(now_ms, len(changed))
        late = sorted(progress.late) if is_rested else []
        changed = changed if is_rested else []
        is_idle = is_rested and progress.is_idle(now_ms, self._pace)
        says_last_words = is_idle and progress.ended_at < progress.changed_at
        if over or late or changed or says_last_words:
            detector = self._stored_detector()
            for minute_ms in over:
                yield from self._step(detector, minute_ms, self._traces.close(minute_ms))
            if over:
                self._detector.update(detector)
                self._ahead = None
            if late or changed:
                yield from self._judge_again(detector, late, changed, still_open, now_ms)
            if says_last_words:
                yield from self._last_words(detector)
        progress.late.difference_update(late)
        progress.judged_ms = max(progress.judged_ms, over_ms)
        if over:
            self._shown = {minute: usage for minute, usage in self._shown.items() if minute > over_ms}
            kept_ms = progress.judged_ms - VERDICTS_KEPT_MS
            self._verdicts = {trace: told for trace, told in self._verdicts.items() if told[0] >= kept_ms}
            self._incidents = {minute: told for minute, told in self._incidents.items() if minute >= kept_ms}
        # A late trace may still want the usage of its time.
        for bucket_ms in buckets:
            if bucket_ms + USAGE_KEPT_MS < progress.judged_ms:
                self._forget_usage(bucket_ms)
                self._known_buckets().discard(bucket_ms)
        if is_idle:
            progress.ended_at = progress.changed_at
        else:
            self._tick(context)
        self._progress.update(progress)

    def _known_buckets(self) -> set[int]:
        """Those of which usage is held."""
        if self._usage_held is None:
            self._usage_held = set(self._usage.keys())
        return self._usage_held

    def _changed(self, minutes: list[int]) -> list[int]:
        """Of open minutes, those of which something else is known than was told."""
        for minute_ms in minutes:
            if minute_ms in self._shown and bucket_start(minute_ms) in self._usage_changed:
                if not self._stands(minute_ms):
                    del self._shown[minute_ms]
        self._usage_changed.clear()
        return [minute_ms for minute_ms in minutes if minute_ms not in self._shown]

    def _judge_again(
        self, detector: RuleDetector, late: list[int], changed: list[int], still_open: list[int], now_ms: int
    ) -> Iterator[Row]:
        """Minutes that changed after they were over, and those that are open, each of which says something of the
        others."""
        began = time.perf_counter()
        for minute_ms in late:
            yield from self._again(detector, minute_ms, self._traces.close(minute_ms))
        if changed:
            self._ahead = self._ahead or Ahead(detector)
            found = self._ahead.judge(still_open, self._moved.union(changed), self._look)
            self._moved.clear()
            # A late span may have moved a minute's only trace to another one.
            for minute_ms in sorted(found.keys() | set(changed)):
                yield from self._rows(found.get(minute_ms) or MinuteResult(minute_ms), is_open=True)
            self._shown |= {minute_ms: self._usage_of(minute_ms) for minute_ms in changed}
        # The clock stands still meanwhile.
        self._judged_again_ms, self._judging_again_took_ms = now_ms, 1_000 * (time.perf_counter() - began)

    def _is_rested(self, now_ms: int, changed: int) -> bool:
        """Whether minutes may be judged again: it rests for as long as that took, and the longer the more minutes have
        changed, as those of a backlog do. The other work has to go on."""
        behind = max(1.0, changed / MINUTES_OPEN_USUALLY)
        return now_ms >= self._judged_again_ms + self._judging_again_took_ms * behind

    def _again(self, detector: RuleDetector, minute_ms: int, traces: Sequence[bytes]) -> Iterator[Row]:
        """Judge a minute that was over by what is known now."""
        if self._models:
            detector.predictor = self._models.at(minute_ms)
        result = detector.again(minute_ms, traces, self._usage_of(minute_ms))
        self._keep_pending(detector)
        yield from self._rows(result or MinuteResult(minute_ms))

    def _look(self, ahead: RuleDetector, minute_ms: int) -> list[MinuteResult]:
        """Have a detector that is ahead step an open minute."""
        return self._stepped(ahead, minute_ms, self._traces.of(minute_ms))

    def _rows(self, result: MinuteResult, is_open: bool = False) -> Iterator[Row]:
        # What a minute says by itself, when it is over, is less than what was told of it with those after it.
        if not (is_open or result.is_final) and self._stands(result.minute_ms):
            return
        for row in super()._rows(result, is_open):
            kind, _, _, payload = row
            if kind != INCIDENTS or self._incidents.get(result.minute_ms) != payload:
                yield row
            if kind == INCIDENTS:
                self._incidents[result.minute_ms] = payload

    def _stands(self, minute_ms: int) -> bool:
        """Whether a minute is as it was when it was told while it was open."""
        return minute_ms in self._shown and self._shown[minute_ms] == self._usage_of(minute_ms)

    def _to_tell(self, result: MinuteResult, is_open: bool) -> list[dict]:
        verdicts = [verdict for verdict in result.verdicts if self._is_news(result.minute_ms, verdict, is_open)]
        self._verdicts |= {verdict["trace_id"]: (result.minute_ms, verdict) for verdict in verdicts}
        return verdicts

    def _is_news(self, minute_ms: int, verdict: dict, is_open: bool) -> bool:
        """Whether a verdict says something else than was told of its trace.

        A trace starts the earlier, the more of it is known: of two minutes that both have it the earlier is right,
        and the other is about to lose it.
        """
        told_ms, told = self._verdicts.get(verdict["trace_id"], (minute_ms, {}))
        if told_ms != minute_ms or not told:
            return minute_ms <= told_ms
        differs = {column for column, value in verdict.items() if value != told[column]}
        if is_open and differs <= {"anomaly_score", "threshold"}:
            return abs(verdict["anomaly_score"] - told["anomaly_score"]) >= SCORE_STEP
        return bool(differs)

    def _progress_at(self, context: KeyedProcessFunction.Context) -> Progress:
        """The state's, its clock set anew where the engine was started again."""
        progress = self._progress.value() or Progress()
        if not self._is_started:
            self._is_started = True
            progress.restart(self._now_ms(context))
        return progress

    def _now_ms(self, context: KeyedProcessFunction.Context) -> int:
        """The engine's time without that in which this stage was busy: what came meanwhile still waits before it."""
        return context.timer_service().current_processing_time() - self._busy_ms

    def _tick(self, context: KeyedProcessFunction.Context) -> None:
        """See ``changelog.tick``; asked for once."""
        now_ms = context.timer_service().current_processing_time()
        if now_ms >= self._tick_ms:
            self._tick_ms = tick(context, self._pace.emit_every_ms)


def _packed(frame: str) -> list[bytes]:
    return list(map(b64decode, frame.split()))


def _newest_minute(frame: str) -> int:
    """The newest minute of which a frame tells usage; -1 where it tells none."""
    usages = (orjson.loads(consumer)[2] for consumer in frame.splitlines())
    return max((int(minute) for metered in usages for minute in metered["minutes"]), default=-1)


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

"""detect: minutes of traces and usage, in event-time order, to their cases, of which ``judge`` makes verdicts."""

from __future__ import annotations

import logging
import time
from abc import abstractmethod
from base64 import b64decode
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import orjson
from pyflink.common import Row, RowKind, Types
from pyflink.datastream import KeyedProcessFunction, RuntimeContext
from pyflink.datastream.state import MapStateDescriptor, ValueStateDescriptor

from udfs import metrics
from udfs.changelog import END_OF_INPUT, PULSE, TAKEN_BACK, Latest, payload_row, tick
from udfs.judge import case_rows
from udfs.pure.ahead import OpenMinutes
from udfs.pure.assemble import NS_PER_MS, SEPARATOR, Trace, unpack
from udfs.pure.case import Case, as_it_is
from udfs.pure.detect import EPISODES, Detector
from udfs.pure.feedback import FalseAlarm, false_alarm, key_of
from udfs.pure.horizon import SKEW_MS, clock_at, latest
from udfs.pure.pace import Pace, Progress
from udfs.pure.predict import ModelsOfWorker
from udfs.pure.reject import Code, reject
from udfs.pure.versioned import Kept
from udfs.pure.windows import MINUTE_MS, USAGE_BUCKET_MS, bucket_start
from udfs.traces import Traces

TRACES, USAGE, FEEDBACK = "traces", "usage", "feedback"
AHEAD_TRACES = "ahead_traces"

# How long usage is kept for traces that come late.
USAGE_KEPT_MS = 2 * USAGE_BUCKET_MS

# Minutes that are open, and may change, where nothing is behind: those of Pace, the one that is going on, and some air.
MINUTES_OPEN_USUALLY = 5

# Where the input ends: bytes of minutes that are read at once. To ask the state for each one takes about as long as the
# work on a small one.
READ_AHEAD_BYTES = 32 << 20

# Traces ahead of event time that are held until it has come so far; what comes beyond is rejected for good.
AHEAD_MAX = 10_000

Usage = dict[tuple[str, str], dict[str, float]]

# Its cases are judged elsewhere.
_Detector = Detector[Case]

_log = logging.getLogger(__name__)


class Detect(KeyedProcessFunction):
    """Rows (kind, time_ms, frame) -> the case of each minute, once its time has passed.

    A frame holds packed traces of a minute, or the usage of a bucket, one a line in any order; or what somebody said of
    incidents: of a false alarm is learnt with the first minute after it was said.
    State: the frames not yet worked off; the detector with its baselines, episodes and thresholds; and the
    judged minutes that it will emit once more. A minute is compared with what earlier minutes gave, and only then
    learnt from. The models are the worker's, loaded once; which one judges a minute is a matter of event time.

    A trace that is further ahead of the others than clocks may differ is rejected and not judged: upserts by trace,
    taken back where others follow.
    """

    def __init__(
        self,
        models: Path | None,
        threshold: str = EPISODES,
        skew_ms: int = SKEW_MS,
        stopwatch: Callable[[], float] = time.perf_counter,
    ) -> None:
        """models: directory of the masked-span models, None = what is usual. threshold: one of detect.POLICIES.
        skew_ms: how far clocks may differ. stopwatch: seconds, for how long the work takes."""
        self._models_of_worker, self._threshold = ModelsOfWorker(models), threshold
        self._skew_ms, self._stopwatch = skew_ms, stopwatch

    def open(self, context: RuntimeContext) -> None:
        self._models = self._models_of_worker.load()
        self._usage: Latest[int, str] = Latest(context, USAGE, Types.LONG())
        self._detector = context.get_state(ValueStateDescriptor("kept_detector", Types.PICKLED_BYTE_ARRAY()))
        # Version 1 kept the object itself. It is never read: its classes may be gone.
        self._old_detector = context.get_state(ValueStateDescriptor("detector", Types.PRIMITIVE_ARRAY(Types.BYTE())))
        self._pending = context.get_map_state(MapStateDescriptor("pending", Types.LONG(), Types.PICKLED_BYTE_ARRAY()))
        self._said = context.get_map_state(MapStateDescriptor("said", Types.STRING(), Types.STRING()))
        self._alarms: list[FalseAlarm] | None = None  # in memory, in their order
        # The buckets that were read lately, each as (its frame, minute -> usage): a copy of what is in state.
        self._buckets: dict[int, tuple[str, dict[str, Usage]]] = {}

    def _step(self, detector: _Detector, minute_ms: int, traces: Sequence[bytes | Trace]) -> Iterator[Row]:
        """Judge a minute that is over and learn from it."""
        is_told = [detector.admit(alarm) for alarm in self._false_alarms() if alarm.given_ms <= minute_ms]
        for due in detector.due(minute_ms):
            detector.pending[due] = self._pending.get(due)
            self._pending.remove(due)
        cases = self._over(detector, minute_ms, traces, any(is_told))
        self._keep_pending(detector)
        for case in cases:
            yield from self._rows(case)

    def _take_feedback(self, said: str) -> None:
        self._said.put(key_of(said.encode()), said)
        self._alarms = None

    def _false_alarms(self) -> list[FalseAlarm]:
        if self._alarms is None:
            found = [false_alarm(key, said) for key, said in self._said.items()]
            self._alarms = sorted(alarm for alarm in found if alarm)
        return self._alarms

    def _stepped(
        self, detector: _Detector, minute_ms: int, traces: Sequence[bytes | Trace], learns: bool = True
    ) -> list[Case]:
        """What a detector, this one or one that is ahead, says on stepping a minute, by the model of its time."""
        detector.predictor = self._models.at(minute_ms)
        return detector.step(minute_ms, traces, self._usage_of(minute_ms), learns)

    def _over(self, detector: _Detector, minute_ms: int, traces: Sequence[bytes | Trace], is_told: bool) -> list[Case]:
        """Have the detector step a minute that is over. is_told: somebody told it of a false alarm just before."""
        return self._stepped(detector, minute_ms, traces)

    def _last_words(self, detector: _Detector) -> Iterator[Row]:
        """What is emitted once more when nothing comes any more."""
        for case in detector.last_words(dict(self._pending.items())):
            yield from self._rows(case)

    @abstractmethod
    def _rows(self, case: Case, is_open: bool = False) -> Iterator[Row]:
        """What goes out of a minute, over or open."""

    def _keep_pending(self, detector: _Detector) -> None:
        for judged, minute in detector.pending.items():
            self._pending.put(judged, minute)
        detector.pending.clear()

    def _stored_detector(self) -> _Detector:
        """The state's, or a new one.

        Raises:
            StateError: a newer version of this program wrote it.
        """
        kept = self._detector.value()
        detector = kept.value("the detector", Detector.STATE_VERSION) if kept else None
        if detector is None:
            if kept or self._old_detector.value() is not None:
                _log.warning(
                    "the detector in the savepoint is of an older version: it starts anew, and traces are `warming`"
                    " until it has learnt what is usual; no trace, usage or charge is lost"
                )
                self._pending.clear()
                self._old_detector.clear()
            detector = Detector(policy=self._threshold)
        detector.tell = as_it_is
        return detector

    def _store(self, detector: _Detector) -> None:
        self._detector.update(Kept(detector, Detector.STATE_VERSION))

    def _usage_of(self, minute_ms: int) -> Usage:
        """Usage of ``minute_ms`` by (workload, pod) and dimension."""
        return self._usage_by_minute(bucket_start(minute_ms)).get(str(minute_ms), {})

    def _usage_by_minute(self, bucket_ms: int) -> dict[str, Usage]:
        frame = self._usage.get(bucket_ms) or ""
        if frame != self._buckets.get(bucket_ms, ("",))[0]:
            self._buckets[bucket_ms] = (frame, _by_minute(frame))
        return self._buckets[bucket_ms][1] if frame else {}

    def _forget_usage(self, bucket_ms: int) -> None:
        self._usage.remove(bucket_ms)
        self._buckets.pop(bucket_ms, None)

    def _ahead_row(self, trace: Trace) -> Row:
        """The reject of a trace that is ahead of the others."""
        start_ms = trace.start_ns // NS_PER_MS
        reason = (
            f"a trace that starts more than {self._skew_ms // MINUTE_MS} min ahead of the others: correct the clock of"
            " the host of these pods, or set clock.skew higher"
        )
        pods = sorted(pod.replace(SEPARATOR, " ") for pod in trace.pods)
        record = {"trace_id": trace.trace_id, "start_time_ms": start_ms, "pods": pods}
        text = reject("otlp_spans", reason, record, start_ms, code=Code.AHEAD)
        return payload_row(AHEAD_TRACES, start_ms - start_ms % MINUTE_MS, trace.trace_id, text.encode())


class DetectAtEnd(Detect):
    """Where the input ends: a frame is a whole minute, minutes are worked off in order at the end, and each verdict
    is emitted once."""

    def open(self, context: RuntimeContext) -> None:
        super().open(context)
        self._frames: dict[str, Latest[int, str]] = {TRACES: Latest(context, TRACES, Types.LONG()), USAGE: self._usage}
        # The last minute that isn't ahead of the others; of all traces, so it is found before the first is judged.
        self._last_ms = context.get_state(ValueStateDescriptor("last_ms", Types.LONG()))
        self._read: dict[int, str] = {}  # minute -> its frame: a copy of what is in state, from where the work is on

    def process_element(self, row: Row, context: KeyedProcessFunction.Context) -> Iterator[Row]:
        kind, time_ms, frame = row
        if kind == FEEDBACK:
            self._take_feedback(frame)
            return
        self._read.clear()
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
        traces = _packed(self._frame(minute_ms))
        if traces and minute_ms > self._last_minute(context):
            yield from map(self._ahead_row, map(unpack, traces))
        else:
            yield from self._step(detector, minute_ms, traces)
            self._store(detector)
        self._frames[TRACES].remove(minute_ms)
        if timestamp == bucket_start(minute_ms) + USAGE_BUCKET_MS:
            self._forget_usage(bucket_start(minute_ms))

    def _frame(self, minute_ms: int) -> str:
        """Of traces; the state, which lacks the minutes that were worked off, gives the next ones first."""
        if not self._read:
            held = 0
            for of_ms, frame in self._frames[TRACES].items():
                self._read[of_ms] = frame
                held += len(frame)
                if held >= READ_AHEAD_BYTES:
                    break
        found = self._read.pop(minute_ms, None)
        return found if found is not None else self._frames[TRACES].get(minute_ms) or ""

    def _last_minute(self, context: KeyedProcessFunction.OnTimerContext) -> int:
        last_ms = self._last_ms.value()
        if last_ms is None:
            counts = {minute_ms: len(frame.split()) for minute_ms, frame in self._frames[TRACES].items()}
            clock_ms = clock_at(context.timer_service().current_processing_time())
            last_ms = latest(counts, self._skew_ms, clock_ms)
            self._last_ms.update(last_ms)
        return last_ms

    def _rows(self, case: Case, is_open: bool = False) -> Iterator[Row]:
        if case.is_final:
            yield from case_rows(case, is_open)


class _StageClock:
    """The engine's time as the stage counts it, and how long open minutes rest between two judgements."""

    def __init__(self, stopwatch: Callable[[], float], every_ms: int) -> None:
        self._stopwatch, self._every_ms = stopwatch, every_ms
        self._busy_ms = 0
        self._tick_ms = 0
        # When open minutes were last judged, and how long that took.
        self.judged_ms = self.judging_took_ms = 0.0

    def now_ms(self, context: KeyedProcessFunction.Context) -> int:
        """The engine's time without that in which this stage was busy: what came meanwhile still waits before it."""
        return context.timer_service().current_processing_time() - self._busy_ms

    def tick(self, context: KeyedProcessFunction.Context) -> None:
        """See ``changelog.tick``; asked for once."""
        if context.timer_service().current_processing_time() >= self._tick_ms:
            self._tick_ms = tick(context, self._every_ms)

    @contextmanager
    def busy(self) -> Iterator[None]:
        """What is done meanwhile takes no time."""
        began = self._stopwatch()
        yield
        self._busy_ms += round(1_000 * (self._stopwatch() - began))

    @contextmanager
    def judging(self, now_ms: int) -> Iterator[None]:
        """Open minutes are judged meanwhile."""
        began = self._stopwatch()
        yield
        self.judged_ms, self.judging_took_ms = now_ms, 1_000 * (self._stopwatch() - began)

    def is_rested(self, now_ms: int, changed: int) -> bool:
        """Whether open minutes may be judged: they rest for as long as that took, and longer the more minutes have
        changed, as those of a backlog do. The other work has to go on."""
        behind = max(1.0, changed / MINUTES_OPEN_USUALLY)
        return now_ms >= self.judged_ms + self.judging_took_ms * behind


class DetectAsItComes(Detect):
    """Where the input doesn't end: a frame is one trace, and ``Pace`` says when a minute is over; a trace that comes
    for one that is over has it judged again, without learning. Until then it is judged, with all that are open, by a
    detector that is ahead."""

    def __init__(
        self,
        models: Path | None,
        threshold: str,
        pace: Pace,
        stopwatch: Callable[[], float] = time.perf_counter,
    ) -> None:
        super().__init__(models, threshold, pace.skew_ms, stopwatch)
        self._pace = pace

    def open(self, context: RuntimeContext) -> None:
        super().open(context)
        self._traces = Traces(context)
        self._progress = context.get_state(ValueStateDescriptor("progress", Types.PICKLED_BYTE_ARRAY()))
        self._is_started = False
        self._clock = _StageClock(self._stopwatch, self._pace.emit_every_ms)
        self._open = OpenMinutes(self._usage_of, Case.without_traces, Case.is_believed_as)
        self._parts: dict[int, int] = {}  # minute -> the parts of its last case
        # The newest minute of a trace that may be believed, and about how many traces are held that are later.
        self._believed_ms, self._ahead_count = -1, 0
        self._usage_held: set[int] | None = None  # buckets; a copy of what is in state
        self._told: dict[int, dict[tuple[str, str], int]] = {}  # bucket -> (workload, pod) -> its newest minute
        self._late_traces = metrics.counter(context, "late_traces")
        self._minutes_open = metrics.Gauge(context, "minutes_open")

    # ---- what comes -----------------------------------------------------------------------------

    def process_element(self, row: Row, context: KeyedProcessFunction.Context) -> Iterator[Row]:
        kind, time_ms, frame = row
        if kind == PULSE:
            if not self._is_started and self._progress.value():
                self._clock.tick(context)
            return
        if kind == FEEDBACK:
            self._take_feedback(frame)
            return
        self._clock.tick(context)
        progress = self._progress_at(context)
        change = row.get_row_kind()
        now_ms = self._clock.now_ms(context)
        if kind == TRACES:
            yield from self._take_traces(progress, change, time_ms, _packed(frame), now_ms, context)
        else:
            self._take_usage(progress, change, time_ms, frame, now_ms)
        self._progress.update(progress)

    def _take_traces(
        self,
        progress: Progress,
        change: RowKind,
        minute_ms: int,
        traces: list[bytes],
        now_ms: int,
        context: KeyedProcessFunction.Context,
    ) -> Iterator[Row]:
        comes = change in (RowKind.INSERT, RowKind.UPDATE_AFTER)
        is_late = minute_ms <= progress.judged_ms
        minutes = [minute_ms] * len(traces)
        progress.take(TRACES, minutes if comes else (), () if comes else minutes, now_ms, self._pace)
        is_full = False
        if minute_ms > self._believed_ms:
            self._ahead_count += len(traces)
            if self._ahead_count >= AHEAD_MAX:
                # What is believed is looked up now and then alone: it takes a while.
                self._believed_ms = progress.newest(TRACES, self._pace, self._clock_ms(context))
                self._ahead_count = self._traces.count_after(self._believed_ms)
                is_full = minute_ms > self._believed_ms >= 0 and self._ahead_count >= AHEAD_MAX
        for packed in traces:
            if is_full and not self._traces.holds(minute_ms, packed):
                row = self._ahead_row(unpack(packed))
                yield row if comes else payload_row(row[0], row[1], row[2], TAKEN_BACK)
            else:
                self._traces.apply(change, minute_ms, packed)
        if is_late:
            progress.late.add(minute_ms)
        else:
            self._open.trace_changed(minute_ms)
        self._late_traces.inc(int(is_late and comes))

    def _take_usage(self, progress: Progress, change: RowKind, bucket_ms: int, frame: str, now_ms: int) -> None:
        self._known_buckets().add(bucket_ms)
        self._usage.apply(change, bucket_ms, frame)
        self._open.usage_changed(bucket_ms)
        if change == RowKind.UPDATE_BEFORE and self._usage.get(bucket_ms) is None:
            return  # its next version follows
        before = self._told.get(bucket_ms, {})
        newest: dict[tuple[str, str], int] = {}
        for minute, usage in self._usage_by_minute(bucket_ms).items():
            newest |= {consumer: max(int(minute), newest.get(consumer, -1)) for consumer in usage}
        self._told[bucket_ms] = newest
        came, gone = (
            [minute_ms for consumer, minute_ms in these.items() if others.get(consumer) != minute_ms]
            for these, others in ((newest, before), (before, newest))
        )
        progress.take(USAGE, came, gone, now_ms, self._pace)

    # ---- what is judged -------------------------------------------------------------------------

    def on_timer(self, timestamp: int, context: KeyedProcessFunction.OnTimerContext) -> Iterator[Row]:
        """Judge what is over by now, then again what changed after it was over, and what is still open."""
        with self._clock.busy():
            yield from self._judge(context)

    def _judge(self, context: KeyedProcessFunction.OnTimerContext) -> Iterator[Row]:
        progress, now_ms = self._progress_at(context), self._clock.now_ms(context)
        clock_ms = self._clock_ms(context)
        engine_ms = context.timer_service().current_processing_time()
        over_ms = progress.over(now_ms, self._pace, (TRACES, USAGE), engine_ms, clock_ms)
        self._believed_ms = believed_ms = progress.newest(TRACES, self._pace, clock_ms)
        self._ahead_count = self._traces.count_after(believed_ms)
        minutes = self._traces.minutes()
        over = [minute_ms for minute_ms in self._minutes_to(over_ms, minutes) if minute_ms > progress.judged_ms]
        still_open = [m for m in minutes if over_ms < m and (m <= believed_ms or believed_ms < 0)]
        self._minutes_open.value = len(still_open)
        changed = self._open.changed(still_open)
        is_rested = self._clock.is_rested(now_ms, len(changed))
        late = sorted(progress.late) if is_rested else []
        changed = changed if is_rested else []
        is_idle = is_rested and progress.is_idle(now_ms, self._pace)
        says_last_words = is_idle and progress.ended_at < progress.changed_at
        if over or late or changed or says_last_words:
            detector = self._stored_detector()
            for minute_ms in over:
                yield from self._step(detector, minute_ms, self._traces.close(minute_ms))
            if over:
                self._store(detector)
                self._open.close(over_ms)
                self._parts = {m: parts for m, parts in self._parts.items() if m > over_ms - USAGE_KEPT_MS}
            if late or changed:
                with self._clock.judging(now_ms):
                    yield from self._judge_again(detector, late, changed, still_open)
            if says_last_words:
                yield from self._last_words(detector)
        progress.late.difference_update(late)
        progress.judged_ms = max(progress.judged_ms, over_ms)
        yield from self._reject_ahead(progress, [m for m in minutes if m > believed_ms >= 0], now_ms)
        self._forget_old_usage(progress.judged_ms)
        if is_idle:
            progress.ended_at = progress.changed_at
        else:
            self._clock.tick(context)
        self._progress.update(progress)

    def _minutes_to(self, over_ms: int, minutes: list[int]) -> list[int]:
        """Minutes up to ``over_ms`` of which there are traces, or may be usage, ascending."""
        of_usage = {
            minute_ms
            for bucket_ms in self._known_buckets()
            for minute_ms in range(bucket_ms, bucket_ms + USAGE_BUCKET_MS, MINUTE_MS)
        }
        return sorted(minute_ms for minute_ms in of_usage.union(minutes) if minute_ms <= over_ms)

    def _over(self, detector: _Detector, minute_ms: int, traces: Sequence[bytes | Trace], is_told: bool) -> list[Case]:
        step = partial(self._stepped, detector, minute_ms, traces)
        return self._open.step(detector, minute_ms, step, is_as_before=not is_told)

    def _judge_again(
        self, detector: _Detector, late: list[int], changed: list[int], still_open: list[int]
    ) -> Iterator[Row]:
        """Minutes that changed after they were over, and those that are open, each of which says something of the
        others."""
        for minute_ms in late:
            detector.predictor = self._models.at(minute_ms)
            case = detector.again(minute_ms, self._traces.close(minute_ms), self._usage_of(minute_ms))
            self._keep_pending(detector)
            yield from self._rows(case or Case.without_traces(minute_ms))
        if changed:
            for case in self._open.judge(detector, still_open, changed, self._look):
                yield from self._rows(case, is_open=True)

    def _look(self, ahead: _Detector, minute_ms: int, learns: bool) -> list[Case]:
        """Have a detector that is ahead step an open minute."""
        return self._stepped(ahead, minute_ms, self._traces.of(minute_ms), learns)

    def _reject_ahead(self, progress: Progress, ahead: list[int], now_ms: int) -> Iterator[Row]:
        """Reject the traces of minutes that event time doesn't follow, once that has lasted; take back the rejects of
        those that it has come to, or that have moved."""
        if not ahead and not progress.rejected:
            progress.ahead_since = -1
            return
        progress.ahead_since = now_ms if progress.ahead_since < 0 else progress.ahead_since
        found = {trace.trace_id: (minute_ms, trace) for minute_ms in ahead for trace in self._traces.of(minute_ms)}
        for trace_id, minute_ms in list(progress.rejected.items()):
            if found.get(trace_id, (-1,))[0] != minute_ms:
                yield payload_row(AHEAD_TRACES, minute_ms, trace_id, TAKEN_BACK)
                del progress.rejected[trace_id]
        if now_ms - progress.ahead_since >= self._pace.settle_ms:
            for trace_id, (minute_ms, trace) in found.items():
                if trace_id not in progress.rejected:
                    yield self._ahead_row(trace)
                    progress.rejected[trace_id] = minute_ms

    # ---- what is emitted ------------------------------------------------------------------------

    def _rows(self, case: Case, is_open: bool = False) -> Iterator[Row]:
        # What a minute says by itself, when it is over, is less than what was said of it with those after it.
        if is_open or case.is_final or not self._open.stands(case.minute_ms):
            rows = case_rows(case, is_open, self._parts.get(case.minute_ms, 0))
            self._parts[case.minute_ms] = len(rows)
            yield from rows

    # ---- what is held ---------------------------------------------------------------------------

    def _known_buckets(self) -> set[int]:
        """Those of which usage is held."""
        if self._usage_held is None:
            self._usage_held = set(self._usage.keys())
        return self._usage_held

    def _forget_old_usage(self, judged_ms: int) -> None:
        """A late trace may still want the usage of its time."""
        for bucket_ms in list(self._known_buckets()):
            if bucket_ms + USAGE_KEPT_MS < judged_ms:
                self._forget_usage(bucket_ms)
                self._known_buckets().discard(bucket_ms)
                self._told.pop(bucket_ms, None)

    def _progress_at(self, context: KeyedProcessFunction.Context) -> Progress:
        """The state's, its clock set anew where the engine was started again.

        Raises:
            StateError: a newer version of this program wrote it.
        """
        progress = self._progress.value() or Progress()
        if not self._is_started:
            self._is_started = True
            progress.restart(self._clock.now_ms(context), self._pace, self._clock_ms(context))
        return progress

    @staticmethod
    def _clock_ms(context: KeyedProcessFunction.Context) -> int | None:
        return clock_at(context.timer_service().current_processing_time())


def _packed(frame: str) -> list[bytes]:
    return list(map(b64decode, frame.split()))


def _by_minute(frame: str) -> dict[str, Usage]:
    """Usage of a bucket by minute; a pod under several consumers is summed in the order of their names."""
    minutes: dict[str, Usage] = {}
    for consumer in sorted(frame.splitlines()):
        otel_service_name, pod, metered, *_ = orjson.loads(consumer)
        for minute, by_dimension in metered["minutes"].items():
            into = minutes.setdefault(minute, {}).setdefault((otel_service_name, pod), {})
            for dimension, used in by_dimension.items():
                into[dimension] = into.get(dimension, 0.0) + used
    return minutes

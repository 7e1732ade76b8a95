"""The detect stage on an input without end: when a minute is over, and what a late trace changes."""

from __future__ import annotations

import itertools
import logging
import pickle
from base64 import b64encode
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from pyflink.common import Row, RowKind

from tests.unit.keyed_stage import Stage
from tests.unit.test_detect import World, minute
from udfs import detect
from udfs.changelog import PULSE
from udfs.detect import AHEAD_TRACES, TRACES, USAGE, DetectAsItComes, DetectAtEnd
from udfs.judge import INCIDENTS, VERDICTS, Judge, case_rows
from udfs.pure.assemble import SEPARATOR
from udfs.pure.detect import EPISODES
from udfs.pure.pace import STARTING_MS, Pace
from udfs.pure.predict import DEFAULT_MODELS
from udfs.pure.windows import MINUTE_MS, USAGE_BUCKET_MS, bucket_start

MINUTES = 45
PACE = Pace(emit_every_ms=1_000, lateness_ms=2 * MINUTE_MS, settle_ms=3_000, idle_ms=10_000)


class DetectStage(Stage):
    """Frames in, and all that the engine would do in a second."""

    def __init__(self, pace: Pace | None, models: Path | None = None) -> None:
        # Work takes no time, however busy the machine is.
        stopwatch = itertools.repeat(0.0).__next__
        function = (
            DetectAsItComes(models, EPISODES, pace, stopwatch) if pace else DetectAtEnd(models, stopwatch=stopwatch)
        )
        super().__init__(function, "")
        self._judge = Stage(Judge(models, pace is not None, stopwatch), "")
        self._comes_one_by_one = pace is not None
        self.standing: dict[tuple[str, int], list[str]] = {}

    def register_event_time_timer(self, time_ms: int) -> None:
        self.event_timers = getattr(self, "event_timers", set()) | {time_ms}

    def frame(self, kind: str, time_ms: int, frame: str) -> None:
        """What is in a minute or a bucket, in place of what was: as one row, or a trace a row."""
        rows = frame.split("\n") if kind == TRACES and self._comes_one_by_one else [frame]
        before = self.standing.get((kind, time_ms), [])
        self._send(RowKind.UPDATE_BEFORE, kind, time_ms, [row for row in before if row not in rows])
        self._send(RowKind.UPDATE_AFTER, kind, time_ms, [row for row in rows if row not in before])
        self.standing[kind, time_ms] = rows

    def take_back(self, kind: str, time_ms: int) -> None:
        """A minute or a bucket is empty from now on."""
        self._send(RowKind.DELETE, kind, time_ms, self.standing.pop((kind, time_ms)))

    def _send(self, change: RowKind, kind: str, time_ms: int, rows: list[str]) -> None:
        for text in rows:
            row = Row(kind, time_ms, text)
            row.set_row_kind(change)
            self._take(self._function.process_element(row, self))

    def open_minutes(self) -> int:
        """Minutes of which traces are held that aren't judged."""
        return len(self._function._traces.minutes())

    def is_open(self, minute_ms: int) -> bool:
        """Whether the minute is not judged for good."""
        return minute_ms in self._function._traces.minutes()

    def seconds(self, count: int) -> None:
        """Let the engine's time pass."""
        for _ in range(count):
            due = self.timers = {t for t in self.timers}
            self.now_ms += 1_000
            due, self.timers = {t for t in due if t <= self.now_ms}, {t for t in due if t > self.now_ms}
            for time_ms in sorted(due):
                self._take(self._function.on_timer(time_ms, self))

    def _take(self, sent: Iterable[Row]) -> None:
        """As the judges pass it on."""
        for row in sent:
            super()._take(self._judge._function.process_element(row, self))

    def start_again(self) -> None:
        """The engine ended, and goes on from what it holds."""
        self._function.open(self)
        self._judge._function.open(self._judge)

    def end_of_input(self) -> None:
        for time_ms in sorted(self.event_timers):
            self._take(self._function.on_timer(time_ms, self))

    def verdicts(self) -> dict[str, tuple]:
        """trace_id -> what stands: the later row of a trace."""
        return {
            row["trace_id"]: (row["is_anomalous"], row["culprit_service_name"], row["anomaly_score"])
            for row in self.emitted()
        }

    def emitted(self) -> list[dict]:
        """All verdicts that were sent, in order."""
        return [row for kind, _, _, payload in self.sent if kind == VERDICTS for row in payload]

    def incidents(self) -> dict[str, object]:
        return {key: payload for (kind, _, key), payload in self.rows.items() if kind == INCIDENTS and payload[0]}


def frames(number: int) -> tuple[int, list[bytes], dict]:
    return minute(number, World(failing="tax") if number >= 35 else World())


def lines(traces: list[bytes]) -> str:
    return "\n".join(b64encode(trace).decode() for trace in traces)


def usage_frames() -> dict[int, str]:
    """Usage by bucket, as the meter makes it."""
    buckets: dict[int, dict[tuple[str, str], dict[str, dict]]] = {}
    for number in range(MINUTES):
        start_ms, _, usage = frames(number)
        for consumer, by_dimension in usage.items():
            of = buckets.setdefault(bucket_start(start_ms), {}).setdefault(consumer, {})
            of[str(start_ms)] = by_dimension
    return {
        bucket: "\n".join(orjson.dumps([*consumer, {"minutes": minutes}]).decode() for consumer, minutes in of.items())
        for bucket, of in buckets.items()
    }


def read_all(stage: DetectStage) -> None:
    """An input with an end."""
    for bucket_ms, frame in usage_frames().items():
        stage.frame(USAGE, bucket_ms, frame)
    for number in range(MINUTES):
        start_ms, traces, _ = frames(number)
        stage.frame(TRACES, start_ms, lines(traces))
    stage.end_of_input()


@pytest.fixture(scope="module")
def bounded() -> DetectStage:
    stage = DetectStage(None)
    read_all(stage)
    return stage


def stream(order: list[int], late: dict[int, int] | None = None) -> DetectStage:
    """Minutes come one a second in an order; of ``late`` ones a trace is missing until the minute that it names."""
    stage, late = DetectStage(PACE), late or {}
    for bucket_ms, frame in usage_frames().items():
        stage.frame(USAGE, bucket_ms, frame)
    for place, number in enumerate(order):
        start_ms, traces, _ = frames(number)
        stage.frame(TRACES, start_ms, lines(traces[1:] if number in late else traces))
        stage.seconds(1)
        for of, until in late.items():
            if until == place:
                start_ms, traces, _ = frames(of)
                stage.frame(TRACES, start_ms, lines(traces))
    stage.seconds(20)
    return stage


def test_a_stream_gives_what_a_bounded_input_gives(bounded: DetectStage) -> None:
    order = list(range(MINUTES))
    for at in range(0, MINUTES - 1, 4):
        order[at], order[at + 1] = order[at + 1], order[at]
    streamed = stream(order)
    assert streamed.verdicts() == bounded.verdicts()
    assert streamed.incidents() == bounded.incidents()
    assert any(of[0] for of in bounded.verdicts().values())


def test_a_verdict_is_out_before_its_minute_is_over() -> None:
    stage = DetectStage(PACE)
    start_ms, traces, _ = frames(0)
    stage.frame(TRACES, start_ms, lines(traces))
    stage.seconds(2)
    assert len(stage.verdicts()) == len(traces)


def test_a_verdict_of_a_minute_that_is_not_over_is_told_anew_where_it_says_something_else() -> None:
    stage = DetectStage(PACE)
    start_ms, traces, _ = frames(0)
    for count in range(1, len(traces) + 1):
        stage.frame(TRACES, start_ms, lines(traces[:count]))
        stage.seconds(1)
    assert len(stage.emitted()) == len(stage.verdicts()) == len(traces)
    # Nothing changed, nothing is judged.
    sent = len(stage.sent)
    stage.seconds(3)
    assert len(stage.sent) == sent


def test_usage_that_comes_after_its_traces_has_an_open_minute_judged_again() -> None:
    stage = DetectStage(PACE)
    start_ms, traces, _ = frames(0)
    stage.frame(TRACES, start_ms, lines(traces))
    stage.seconds(2)
    for number, judges in ((1, False), (0, True)):
        before = stage._function._clock.judged_ms
        start_ms, _, usage = frames(number)
        consumers = [[*consumer, {"minutes": {str(start_ms): used}}] for consumer, used in usage.items()]
        stage.frame(USAGE, bucket_start(start_ms), "\n".join(orjson.dumps(one).decode() for one in consumers))
        stage.seconds(2)
        assert (stage._function._clock.judged_ms > before) == judges


def test_a_new_start_tells_what_is_open_anew() -> None:
    """What was told after the last checkpoint may be something else."""
    stage = DetectStage(PACE)
    start_ms, traces, _ = frames(0)
    stage.frame(TRACES, start_ms, lines(traces))
    stage.seconds(2)
    stage.start_again()
    stage.frame(USAGE, bucket_start(start_ms), usage_frames()[bucket_start(start_ms)])
    stage.seconds(2)
    assert len(stage.emitted()) == 2 * len(traces)


def test_a_bounded_input_has_each_verdict_told_once() -> None:
    stage = DetectStage(None, DEFAULT_MODELS)
    for number in range(20):
        start_ms, traces, _ = frames(number)
        stage.frame(TRACES, start_ms, lines(traces))
    stage.end_of_input()
    assert len(stage.emitted()) == len(stage.verdicts()) == sum(len(frames(number)[1]) for number in range(20))


def test_of_two_minutes_that_have_a_trace_the_earlier_is_right() -> None:
    """It has moved there, and the frame without it is on its way."""
    stage = DetectStage(PACE)
    (early_ms, early, _), (late_ms, late, _) = frames(0), frames(1)
    for time_ms, traces in ((late_ms, late), (early_ms, early + late[:1]), (late_ms, late)):
        stage.frame(TRACES, time_ms, lines(traces))
        stage.seconds(1)
    of_early = [payload for kind, time_ms, _, payload in stage.sent if (kind, time_ms) == (VERDICTS, early_ms)]
    moved = {row["trace_id"] for payload in of_early for row in payload}
    assert len(moved) == len(early) + 1
    assert len(stage.emitted()) == len(early) + len(late) + 1


def test_a_trace_that_comes_late_is_judged_and_changes_no_other_minute(bounded: DetectStage) -> None:
    streamed = stream(list(range(MINUTES)), late={20: 30})
    found, expected = streamed.verdicts(), bounded.verdicts()
    assert found.keys() == expected.keys()
    assert {v[:2] for v in found.values()} == {v[:2] for v in expected.values()}


def test_traces_wait_for_the_usage_of_their_time() -> None:
    """A backlog of traces is read before that of the metrics; and metrics that never come hold nothing back."""
    stage = DetectStage(PACE)
    for number in range(MINUTES):
        start_ms, traces, _ = frames(number)
        stage.frame(TRACES, start_ms, lines(traces))
    stage.seconds(8)
    assert stage.open_minutes() == MINUTES
    for bucket_ms, frame in usage_frames().items():
        stage.frame(USAGE, bucket_ms, frame)
    stage.seconds(30)
    assert stage.open_minutes() == 0
    alone = DetectStage(PACE)
    alone.frame(TRACES, start_ms, lines(traces))
    alone.seconds(30)
    assert alone.open_minutes() == 0


def test_a_backlog_settles_longer_than_what_comes_as_it_happens() -> None:
    """Stages before this one hold more of it back, while its event time runs faster than the clock."""
    pace = replace(PACE, settle_backlog_ms=30_000, idle_ms=10**9)
    open_minutes = []
    for age_ms in (0, 3_600_000):
        stage = DetectStage(pace)
        stage.now_ms = frames(19)[0] + age_ms
        for bucket_ms, frame in usage_frames().items():
            stage.frame(USAGE, bucket_ms, frame)
        for number in range(20):
            start_ms, traces, _ = frames(number)
            stage.frame(TRACES, start_ms, lines(traces))
        for seconds in (6, 28):
            stage.seconds(seconds)
            open_minutes.append(stage.open_minutes())
    assert open_minutes == [2, 2, 20, 2]


def test_a_minute_that_is_over_ends_no_rest() -> None:
    stage = DetectStage(PACE)
    for bucket_ms, frame in usage_frames().items():
        stage.frame(USAGE, bucket_ms, frame)
    for number in range(10):
        start_ms, traces, _ = frames(number)
        stage.frame(TRACES, start_ms, lines(traces))
    stage.seconds(1)
    stage._function._clock.judging_took_ms = 8_000
    judged = stage._function._clock.judged_ms
    stage.seconds(5)
    assert stage.open_minutes() == 2
    stage.frame(TRACES, start_ms, lines(traces[1:]))
    stage.seconds(1)
    assert stage._function._clock.judged_ms == judged
    stage.seconds(4)
    assert stage._function._clock.judged_ms > judged


def test_a_backlogs_rest_is_over_when_its_minutes_are() -> None:
    """To judge them again while they were open took so long that ten times that would be minutes."""
    stages = [DetectStage(None, DEFAULT_MODELS), DetectStage(PACE, DEFAULT_MODELS)]
    for number in range(MINUTES):
        start_ms, traces, _ = frames(number)
        for stage in stages:
            stage.frame(TRACES, start_ms, lines(traces))
    stages[0].end_of_input()
    stages[1].seconds(1)
    stages[1]._function._clock.judging_took_ms = 10_000
    stages[1].seconds(15)
    assert stages[1].open_minutes() == 0
    progress = stages[1]._function._progress.value()
    assert progress.ended_at == progress.changed_at
    assert stages[1].verdicts() == stages[0].verdicts()


def test_a_restart_sets_the_clock_anew() -> None:
    stage = DetectStage(replace(PACE, idle_ms=10**9))
    for bucket_ms, frame in usage_frames().items():
        stage.frame(USAGE, bucket_ms, frame)
    for number in range(20):
        start_ms, traces, _ = frames(number)
        stage.frame(TRACES, start_ms, lines(traces))
    stage.seconds(2)
    stage.now_ms += 3_600_000
    stage.start_again()
    start_ms, traces, _ = frames(20)
    stage.frame(TRACES, start_ms, lines(traces))
    stage.seconds(2)
    assert stage.open_minutes() == 21
    stage.seconds(5)
    assert stage.open_minutes() == 2


def test_a_start_that_takes_longer_than_silence_may_last_ends_nothing() -> None:
    """The sources begin minutes after this stage: what it holds isn't over, and what comes then isn't late."""
    stage = DetectStage(PACE)
    for number in range(20):
        start_ms, traces, _ = frames(number)
        stage.frame(TRACES, start_ms, lines(traces))
    stage.seconds(2)
    stage.start_again()
    stage.frame(PULSE, 0, "")
    stage.seconds(60)
    assert stage.is_open(frames(19)[0])
    start_ms, traces, _ = frames(20)
    stage.frame(TRACES, start_ms, lines(traces))
    stage.seconds(2)
    assert stage.is_open(start_ms)
    stage.seconds(PACE.idle_ms // 1_000)
    assert stage.open_minutes() == 0


def test_a_start_after_which_nothing_comes_ends_what_is_held() -> None:
    stage = DetectStage(PACE)
    start_ms, traces, _ = frames(0)
    stage.frame(TRACES, start_ms, lines(traces))
    stage.start_again()
    stage.frame(PULSE, 0, "")
    stage.seconds((STARTING_MS + PACE.idle_ms) // 1_000 + 2)
    assert stage.open_minutes() == 0


def test_the_model_tells_its_last_minutes_anew_once_nothing_comes() -> None:
    """As it does at the end of a bounded input; and goes on from there as if it hadn't."""
    stages = [DetectStage(None, DEFAULT_MODELS), DetectStage(PACE, DEFAULT_MODELS)]
    for number in range(MINUTES):
        start_ms, traces, _ = frames(number)
        for stage in stages:
            stage.frame(TRACES, start_ms, lines(traces))
            stage.seconds(1)
        if number == 20:
            stages[1].seconds(15)
    stages[0].end_of_input()
    stages[1].seconds(30)
    bounded, streamed = (stage.verdicts() for stage in stages)
    assert streamed == bounded
    assert stages[0].incidents() == stages[1].incidents()


@pytest.mark.parametrize("bytes_at_once", [1, 1 << 30])
def test_minutes_are_worked_off_in_order_however_many_are_read_at_once(
    bytes_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """... and whatever the order in which the state gives them."""
    said = []
    for order in (range(MINUTES), reversed(range(MINUTES))):
        stage = DetectStage(None)
        for bucket_ms, frame in usage_frames().items():
            stage.frame(USAGE, bucket_ms, frame)
        for number in order:
            start_ms, traces, _ = frames(number)
            stage.frame(TRACES, start_ms, lines(traces))
        stage.end_of_input()
        said.append(stage.verdicts())
        monkeypatch.setattr(detect, "READ_AHEAD_BYTES", bytes_at_once)
    assert said[0] == said[1] and len(said[0]) == sum(len(frames(number)[1]) for number in range(MINUTES))


def test_what_is_over_leaves_no_frame_behind() -> None:
    streamed = stream(list(range(MINUTES)), late={20: 30})
    assert streamed.size()["trace_changes"] == 0
    assert streamed.size()[USAGE] <= 3 * (MINUTES * MINUTE_MS // USAGE_BUCKET_MS + 1)


def test_a_trace_that_moves_to_another_minute_is_in_one_only() -> None:
    stage = stream(list(range(30)))
    start_ms, traces, _ = frames(29)
    stage.take_back(TRACES, start_ms)
    stage.frame(TRACES, start_ms - MINUTE_MS, lines(frames(28)[1] + traces))
    stage.seconds(20)
    assert len(stage.verdicts()) == sum(len(frames(n)[1]) for n in range(30))
    assert SEPARATOR not in "".join(stage.verdicts())


def test_the_onset_of_an_episode_is_told_while_its_minutes_are_open() -> None:
    """Each by what there is of all of them; and what was told is not taken back when the minutes are over."""
    stage = DetectStage(replace(PACE, lateness_ms=4 * MINUTE_MS), DEFAULT_MODELS)
    slight = World(slow={"tax": 1.5})
    for bucket_ms, frame in usage_frames().items():
        stage.frame(USAGE, bucket_ms, frame)
    for number in range(38):
        start_ms, traces, _ = minute(number, slight if number >= 34 else World())
        stage.frame(TRACES, start_ms, lines(traces))
        stage.seconds(1)
    stage.seconds(4)
    first_ms = minute(34)[0]
    onset = {row["trace_id"] for row in stage.emitted() if row["start_time"] // MINUTE_MS * MINUTE_MS == first_ms}

    def share() -> float:
        found = stage.verdicts()
        return sum(found[trace][0] for trace in onset) / len(onset)

    told = [row for row in stage.emitted() if row["trace_id"] in onset]
    assert sum(row["is_anomalous"] for row in told[: len(onset)]) < 0.1 * len(onset)
    assert stage.is_open(first_ms) and share() > 0.5
    for number in range(38, 40):
        start_ms, traces, _ = minute(number, slight)
        stage.frame(TRACES, start_ms, lines(traces))
        stage.seconds(5)
        assert share() > 0.5
    assert not stage.is_open(first_ms)


# ---- what is ahead of the others ----------------------------------------------------------------

DAY = 24 * 60  # in minutes


def ahead(number: int, count: int = 1) -> tuple[int, list[bytes]]:
    """Traces of a minute that is not over for long."""
    start_ms, traces, _ = minute(number)
    return start_ms, traces[:count]


def rejects(stage: DetectStage) -> dict[str, dict]:
    """trace_id -> the reject that stands."""
    return {key: of for (kind, _, key), of in stage.rows.items() if kind == AHEAD_TRACES and of}


def with_one_ahead(place: int, by_minutes: int, clock_ms: int = 0) -> DetectStage:
    """The stream of ``stream``, and before its minute ``place`` one trace of a wrong clock."""
    stage = DetectStage(PACE)
    stage.now_ms = clock_ms
    for bucket_ms, frame in usage_frames().items():
        stage.frame(USAGE, bucket_ms, frame)
    for number in range(MINUTES):
        if number == place:
            start_ms, traces = ahead(number + by_minutes)
            stage.frame(TRACES, start_ms, lines(traces))
        start_ms, traces, _ = frames(number)
        stage.frame(TRACES, start_ms, lines(traces))
        stage.seconds(1)
    stage.seconds(20)
    return stage


@pytest.mark.parametrize("clock_ms", [0, frames(0)[0], frames(0)[0] + 400 * DAY * MINUTE_MS])
@pytest.mark.parametrize("place", [0, 1, 20, MINUTES - 1])
@pytest.mark.parametrize("by_minutes", [90, DAY, 365 * DAY])
def test_a_trace_that_is_ahead_is_rejected_and_nothing_else_changes(
    bounded: DetectStage, place: int, by_minutes: int, clock_ms: int
) -> None:
    """Live, and where old data is read again: the clock then says nothing."""
    stage = with_one_ahead(place, by_minutes, clock_ms)
    assert stage.verdicts() == bounded.verdicts()
    assert stage.incidents() == bounded.incidents()
    [reject] = rejects(stage).values()
    assert "correct the clock" in reject["reason"] and "more than 10 min" in reject["reason"]
    assert reject["stream"] == "otlp_spans" and '"pods"' in reject["payload"]


def test_a_bounded_input_rejects_the_same_traces(bounded: DetectStage) -> None:
    stage = DetectStage(None)
    for bucket_ms, frame in usage_frames().items():
        stage.frame(USAGE, bucket_ms, frame)
    for number in [*range(MINUTES), 20 + DAY]:
        start_ms, traces, _ = frames(number) if number < MINUTES else (*ahead(number), None)
        stage.frame(TRACES, start_ms, lines(traces))
    stage.end_of_input()
    assert stage.verdicts() == bounded.verdicts()
    assert rejects(stage) == rejects(with_one_ahead(20, DAY))


def test_a_host_with_a_wrong_clock_stops_no_learning(bounded: DetectStage) -> None:
    """A few traces of each minute are a day ahead."""
    stage = DetectStage(PACE)
    for bucket_ms, frame in usage_frames().items():
        stage.frame(USAGE, bucket_ms, frame)
    for number in range(MINUTES):
        start_ms, traces = ahead(number + DAY, 3)
        stage.frame(TRACES, start_ms, lines(traces))
        start_ms, traces, _ = frames(number)
        stage.frame(TRACES, start_ms, lines(traces))
        stage.seconds(1)
    stage.seconds(20)
    assert stage.verdicts() == bounded.verdicts()
    assert len(rejects(stage)) == 3 * MINUTES


@pytest.mark.parametrize("night", [12, 60, 9 * 60])
def test_after_a_night_without_traces_it_goes_on(night: int) -> None:
    stage = DetectStage(PACE)
    numbers = [*range(10), *range(10 + night, 20 + night)]
    for number in numbers:
        start_ms, traces, _ = minute(number)
        stage.frame(TRACES, start_ms, lines(traces))
        stage.seconds(1)
    assert stage.open_minutes() > 0
    stage.seconds(20)
    assert stage.open_minutes() == 0
    assert len(stage.verdicts()) == sum(len(minute(number)[1]) for number in numbers)
    assert not rejects(stage)


def test_a_reject_is_taken_back_once_the_others_have_come_so_far() -> None:
    """The tables are those of the same records in another order."""
    stage = DetectStage(PACE)
    early_ms, early = ahead(30)
    for number in range(15):
        if number == 5:
            stage.frame(TRACES, early_ms, lines(early))
        start_ms, traces, _ = minute(number)
        stage.frame(TRACES, start_ms, lines(traces))
        stage.seconds(1)
    stage.seconds(1)
    assert len(rejects(stage)) == 1
    for number in range(15, 40):
        start_ms, traces, _ = minute(number)
        stage.frame(TRACES, start_ms, lines(traces))
        stage.seconds(1)
    stage.seconds(20)
    assert not rejects(stage)
    assert len(stage.verdicts()) == sum(len(minute(number)[1]) for number in range(40))


def test_a_trace_that_turns_out_to_start_earlier_is_not_ahead() -> None:
    """The spans of the wrong clock came first."""
    stage = stream(list(range(10)))
    start_ms, traces = ahead(10 + DAY)
    stage.frame(TRACES, start_ms, lines(traces))
    stage.seconds(6)
    assert len(rejects(stage)) == 1
    stage.take_back(TRACES, start_ms)
    stage.seconds(2)
    assert not rejects(stage)
    assert stage.size()["trace_changes"] == 0


def test_a_restart_holds_what_is_ahead_and_what_was_rejected() -> None:
    stage = stream(list(range(10)))
    start_ms, traces = ahead(10 + DAY)
    stage.frame(TRACES, start_ms, lines(traces))
    stage.seconds(6)
    stage.start_again()
    start_ms, traces, _ = frames(10)
    stage.frame(TRACES, start_ms, lines(traces))
    stage.seconds(20)
    assert len(rejects(stage)) == 1
    assert len(stage.verdicts()) == sum(len(frames(number)[1]) for number in range(11))


def test_of_traces_ahead_so_many_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detect, "AHEAD_MAX", 5)
    stage = stream(list(range(10)))
    for number in range(10, 20):
        start_ms, traces = ahead(number + DAY, 2)
        stage.frame(TRACES, start_ms, lines(traces))
        start_ms, traces, _ = frames(number)
        stage.frame(TRACES, start_ms, lines(traces))
        stage.seconds(1)
    stage.seconds(20)
    assert len(rejects(stage)) == 20
    assert stage.size()["trace_changes"] <= 6
    assert len(stage.verdicts()) == sum(len(frames(number)[1]) for number in range(20))


def test_usage_that_is_ahead_holds_nothing_up_and_moves_nothing_on(bounded: DetectStage) -> None:
    stage = DetectStage(PACE)
    frames_of_usage = usage_frames()
    wrong_ms = minute(DAY)[0]
    wrong = orjson.dumps(["tax", "tax-pod", {"minutes": {str(wrong_ms): {"cpu": 1.0}}}]).decode()
    stage.frame(USAGE, bucket_start(wrong_ms), wrong)
    for bucket_ms, frame in frames_of_usage.items():
        stage.frame(USAGE, bucket_ms, frame)
    for number in range(MINUTES):
        start_ms, traces, _ = frames(number)
        stage.frame(TRACES, start_ms, lines(traces))
        stage.seconds(1)
    # Traces are idle, and usage that is ahead still comes.
    for count in range(2, 15):
        stage.frame(USAGE, bucket_start(wrong_ms), wrong.replace("1.0", f"{count}.0"))
        stage.seconds(1)
    stage.seconds(20)
    assert stage.verdicts() == bounded.verdicts()
    assert stage._function._progress.value().judged_ms < wrong_ms - DAY // 2 * MINUTE_MS


def test_a_pod_with_a_number_for_a_name_is_no_minute(bounded: DetectStage) -> None:
    stage = DetectStage(PACE)
    for bucket_ms, frame in usage_frames().items():
        first = orjson.dumps(["", "1900000000000", {"minutes": {str(bucket_ms): {"cpu": 0.0}}}]).decode()
        stage.frame(USAGE, bucket_ms, f"{first}\n{frame}")
    stage.seconds(5)
    assert stage._function._progress.value().judged_ms < minute(MINUTES)[0]


def test_minutes_may_be_judged_by_several_workers_in_any_order(bounded: DetectStage) -> None:
    rows: list[Row] = []
    stage = DetectStage(None)
    stage._take = rows.extend  # type: ignore[method-assign]
    read_all(stage)
    judges = [DetectStage(None) for _ in range(3)]
    for row in reversed(rows):
        judges[row[1] // MINUTE_MS % 3]._take([row])
    verdicts = {trace_id: verdict for judge in judges for trace_id, verdict in judge.verdicts().items()}
    assert verdicts == bounded.verdicts()
    assert {key: of for judge in judges for key, of in judge.incidents().items()} == bounded.incidents()


def test_a_case_whose_model_is_gone_is_judged_by_what_is_usual(caplog: pytest.LogCaptureFixture) -> None:
    stage = DetectStage(PACE, DEFAULT_MODELS)
    rows: list[Row] = []
    judged, stage._take = stage._take, rows.extend  # type: ignore[method-assign]
    start_ms, traces, _ = frames(0)
    stage.frame(TRACES, start_ms, lines(traces))
    stage.seconds(2)
    [row] = rows
    case, is_open = pickle.loads(row[3])
    with caplog.at_level(logging.WARNING):
        judged(case_rows(replace(case, model="masked-gone"), is_open))
    assert {verdict["model_version"] for verdict in stage.emitted()} == {"usual-1"}
    assert "masked-gone is not there any more" in caplog.text

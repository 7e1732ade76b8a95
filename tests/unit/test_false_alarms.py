"""A false alarm teaches the threshold: more is asked of that culprit, and a storm still speaks."""

from __future__ import annotations

import pickle
from itertools import pairwise

import orjson
import pytest
from pyflink.common import RowKind

from tests.unit.test_detect import START_MS, World, minute
from tests.unit.test_detect_stage import PACE, DetectStage, lines
from udfs.detect import FEEDBACK, TRACES
from udfs.pure.detect import Detector
from udfs.pure.feedback import FalseAlarm, collect_feedback, false_alarm
from udfs.pure.guard import EVIDENCE_MAX
from udfs.pure.windows import MINUTE_MS

EPISODE = 30
SLOW = World(slow={"tax": 2.0})
STORM = World(slow={"tax": 12.0})
LATENCY = "latency_spike"


@pytest.fixture(scope="module")
def after_an_episode() -> bytes:
    """A detector that saw tax being slow, and an hour of quiet since."""
    detector = Detector()
    for number in range(60):
        detector.step(*minute(number))
    flagged = sum(
        v["is_anomalous"] for n in range(60, 60 + EPISODE) for v in detector.step(*minute(n, SLOW))[0].verdicts
    )
    assert flagged > 100
    for number in range(60 + EPISODE, 150):
        detector.step(*minute(number))
    return pickle.dumps((detector, detector.pending))


def again(state: bytes) -> Detector:
    detector, detector.pending = pickle.loads(state)
    return detector


def alarm(key: str = "1", culprit: str = "tax", kind: str | None = None) -> FalseAlarm:
    return FalseAlarm(START_MS, key, culprit, kind, START_MS)


def asked(detector: Detector, world: World, minutes: int = 8) -> tuple[float, int]:
    """(the greatest threshold, anomalous traces) of some minutes, as seen at once."""
    verdicts = [v for n in range(150, 150 + minutes) for v in detector.step(*minute(n, world))[0].verdicts]
    return max(v["threshold"] for v in verdicts), sum(v["is_anomalous"] for v in verdicts)


def test_more_is_asked_of_who_raised_a_false_alarm(after_an_episode: bytes) -> None:
    before, flagged = asked(again(after_an_episode), SLOW)
    detector = again(after_an_episode)
    detector.admit(alarm())
    threshold, still_flagged = asked(detector, SLOW)
    assert before < threshold - 0.5
    assert still_flagged <= flagged


def test_the_same_alarm_counts_once_and_each_further_one_less(after_an_episode: bytes) -> None:
    detector = again(after_an_episode)
    for _ in range(5):
        detector.admit(alarm())
    assert asked(detector, SLOW) == asked(_admitted(after_an_episode, 1), SLOW)
    guards = [_admitted(after_an_episode, n)._beliefs._services.threshold().max() for n in range(5)]
    steps = [after - before for before, after in pairwise(guards)]
    assert steps == sorted(steps, reverse=True) and steps[-1] > 0
    assert _admitted(after_an_episode, 50)._beliefs._services.threshold().max() < EVIDENCE_MAX


def _admitted(state: bytes, alarms: int) -> Detector:
    detector = again(state)
    for number in range(alarms):
        detector.admit(alarm(str(number)))
    return detector


def test_a_storm_still_speaks(after_an_episode: bytes) -> None:
    _, flagged = asked(again(after_an_episode), STORM)
    assert flagged > 80
    assert asked(_admitted(after_an_episode, 50), STORM)[1] > 0.8 * flagged


@pytest.mark.parametrize("other", [alarm(culprit="cart"), alarm(kind="retry_loop"), alarm(culprit="nobody")])
def test_others_are_not_concerned(after_an_episode: bytes, other: FalseAlarm) -> None:
    detector = again(after_an_episode)
    detector.admit(other)
    assert asked(detector, SLOW) == asked(again(after_an_episode), SLOW)


def said(**changes: object) -> tuple[str, bytes]:
    record = {"verdict": "false_alarm", "author": "ann", "incident_id": "2025-03-03T01:00:00Z/shop/tax/USD"}
    key, text, _ = collect_feedback(orjson.dumps(record | {"given_at": "2025-03-04T00:00:00Z"} | changes))
    return key, text


def test_what_was_said_is_an_alarm_only_if_it_says_so_and_when() -> None:
    found = false_alarm(*said())
    assert (found.culprit, found.of_ms, found.given_ms) == ("shop/tax", 1_740_963_600_000, 1_741_046_400_000)
    of_service = false_alarm(*said(incident_id=None, otel_service_name="tax", anomaly_kind=LATENCY))
    assert (of_service.culprit, of_service.kind, of_service.of_ms) == ("tax", LATENCY, of_service.given_ms)
    assert false_alarm(*said(given_at=None)) is false_alarm(*said(verdict="fixed")) is None
    assert false_alarm(*said(incident_id="nonsense")) is None


@pytest.mark.parametrize("pace", [None, PACE])
@pytest.mark.parametrize(("given_minute", "is_learnt"), [(5, True), (50, False)])
def test_the_stage_learns_of_it_with_the_first_minute_after_it(pace, given_minute: int, is_learnt: bool) -> None:
    stage = DetectStage(pace)
    _, text = said(given_at=START_MS + given_minute * MINUTE_MS)
    stage._send(RowKind.INSERT, FEEDBACK, 0, [text.decode()])
    for number in range(20):
        start_ms, packed, _ = minute(number)
        stage.frame(TRACES, start_ms, lines(packed))
        if pace:
            stage.seconds(1)
    if pace:
        stage.seconds(20)
    else:
        stage.end_of_input()
    detector = stage._function._stored_detector()
    assert bool(detector._admitted) == is_learnt

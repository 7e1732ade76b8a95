"""A savepoint of an earlier version is restored; one of a newer version is refused in one line."""

from __future__ import annotations

import gzip
import logging
import pickle
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path

import orjson
import pytest
from pyflink.common import Row
from pyflink.common.typeinfo import PrimitiveArrayTypeInfo

from tests.unit.keyed_stage import Stage, by_kind
from tests.unit.test_attribute import HOUR, delivered, feed_charge, feed_usage
from tests.unit.test_attribute import stage as attribute_stage
from tests.unit.test_detect_stage import PACE, TRACES, DetectStage, frames, lines
from udfs.pure import versioned
from udfs.pure.attribute import Progress as ResourceProgress
from udfs.pure.detect import Detector
from udfs.pure.horizon import Horizon
from udfs.pure.pace import Progress
from udfs.pure.predict import DEFAULT_MODELS
from udfs.pure.versioned import Kept, StateError
from udfs.pure.windows import HOUR_MS, WINDOW_MS
from udfs.rank import Rank

STATES = Path(__file__).parents[1] / "data/states/1"


def stored(name: str) -> dict[str, object]:
    return pickle.loads(gzip.decompress((STATES / f"{name}.pickle.gz").read_bytes()))


class Unreadable:
    """A value in a map whose class is no more: the engine unpickles it where it is read, and so it never may be."""


def read_late(pickled: bytes) -> object:
    try:
        return pickle.loads(pickled)
    except ModuleNotFoundError:
        return Unreadable()


def restore(stage: Stage, held: Mapping[str, object]) -> None:
    """Start the function on a savepoint: a state is unpickled when it is read, one of bytes is not."""
    descriptors = {}

    def note(kind: str, descriptor, get):
        descriptors[kind, descriptor.name] = descriptor
        return get(descriptor)

    get_map, get_value = stage.get_map_state, stage.get_state
    stage.get_map_state = lambda descriptor: note("map", descriptor, get_map)
    stage.get_state = lambda descriptor: note("value", descriptor, get_value)
    stage._states.clear()
    stage._function.open(stage)
    for name, value in held.items():
        kind, _, state = name.partition(" ")
        descriptor = descriptors.get((kind, state))
        is_bytes = descriptor is not None and isinstance(descriptor.type_info, PrimitiveArrayTypeInfo)
        if descriptor is None:
            continue
        if kind == "map":
            stage._states[kind, state].update({key: read_late(one) for key, one in value.items()})
        elif (found := value if is_bytes else pickle.loads(value)) is not None:
            stage._states[kind, state].update(found)


@pytest.mark.parametrize("name, models", [("detect_rule", None), ("detect_masked", DEFAULT_MODELS)])
def test_a_detector_of_an_earlier_version_starts_anew_and_no_trace_is_lost(
    name: str, models: Path | None, caplog: pytest.LogCaptureFixture
) -> None:
    held = stored(name)
    stage = DetectStage(PACE, models)
    stage.now_ms = 60_000
    with caplog.at_level(logging.WARNING):
        restore(stage, held)
        was_open = stage.open_minutes()
        assert was_open == 2
        for number in range(24, 50):
            start_ms, traces, _ = frames(number)
            stage.frame(TRACES, start_ms, lines(traces))
            stage.seconds(1)
        stage.seconds(30)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "older version" in caplog.text
    expected = sum(len(frames(number)[1]) for number in range(24 - was_open, 50))
    assert len(stage.verdicts()) == expected
    assert stage._function._progress.value().judged_ms >= frames(49)[0]
    # What is late for a minute that was over is judged with the traces of that minute.
    start_ms, traces, _ = frames(10)
    stage._send(Row().get_row_kind(), TRACES, start_ms, [lines(traces[:1])])
    stage.seconds(2)
    assert len(stage.verdicts()) == expected + len(frames(10)[1])


def test_a_resource_of_an_earlier_version_goes_on_as_if_nothing_had_been() -> None:
    def beginning(it: Stage) -> None:
        for hour in range(8):
            for half in (0, WINDOW_MS):
                feed_usage(it, HOUR + hour * HOUR_MS + half, 1.0)
            if hour < 6:
                feed_charge(it, delivered("0.8", hour=hour))
        it.fire()

    def rest(it: Stage) -> None:
        for hour in range(8, 20):
            feed_usage(it, HOUR + hour * HOUR_MS, 1.0)
            feed_charge(it, delivered("0.8", hour=hour - 2))
            it.fire()
        feed_charge(it, delivered("0.8", hour=1) | {"key": "late"})

    undisturbed, restored = attribute_stage(2 * HOUR_MS), attribute_stage(2 * HOUR_MS)
    beginning(undisturbed)
    rest(undisturbed)
    restore(restored, stored("attribute"))
    rest(restored)
    windows = by_kind(restored.rows, "allocations")
    assert windows == {ms: rows for ms, rows in by_kind(undisturbed.rows, "allocations").items() if ms in windows}
    billed = [row for rows in windows.values() for row in rows if row["cost_status"] == "billed"]
    assert sum(Decimal(row["allocated_cost"]) for row in billed) >= Decimal("0.8") * 12
    assert len(by_kind(restored.rows, "late_charges")) == 1
    assert restored.size() == undisturbed.size()


def test_a_window_of_an_earlier_version_is_ranked_as_it_was() -> None:
    stage = Stage(Rank("excess", 1_000, 10**9), 1)
    held = stored("rank")
    restore(stage, held)
    assert len(stage._states["map", "incidents"]) == 3
    key, versions = next(iter(held["map incidents"].items()))
    [payload] = pickle.loads(versions)
    stage._take(stage._function.process_element(Row("incidents", 1, "60000", payload), stage))
    stage.fire()
    assert len(stage._states["map", "incidents"]) == 4
    assert orjson.loads(payload)


@pytest.mark.parametrize("of", [Progress(), ResourceProgress()])
def test_a_state_of_a_newer_version_is_refused_in_one_line(of: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(of), "STATE_VERSION", 99)
    newer = pickle.dumps(of)
    monkeypatch.undo()
    with pytest.raises(
        StateError, match=r"of Progress is of version 99, this program knows up to \d+: run the release"
    ):
        pickle.loads(newer)


def test_a_detector_of_a_newer_version_is_refused_in_one_line() -> None:
    stage = DetectStage(PACE)
    newer = Kept(Detector(), Detector.STATE_VERSION + 1)
    stage._states["value", "kept_detector"].update(pickle.loads(pickle.dumps(newer)))
    start_ms, traces, _ = frames(0)
    stage.frame(TRACES, start_ms, lines(traces))
    with pytest.raises(StateError, match="of the detector is of version"):
        stage.seconds(2)


class Gone:
    """A class that a later version doesn't have."""


def test_a_kept_value_of_an_older_version_is_never_read(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = pickle.dumps(Kept(Gone(), 3))
    monkeypatch.delattr(f"{__name__}.Gone")
    kept = pickle.loads(packed)
    assert kept.value("it", 4) is None
    # And it may be written again as it is.
    assert pickle.loads(pickle.dumps(kept)).value("it", 4) is None
    with pytest.raises(AttributeError):
        kept.value("it", 3)


def test_a_kept_value_of_this_version_is_the_one_that_was_written() -> None:
    kept = Kept({"a": 1}, 3)
    assert kept.value("it", 3) == {"a": 1} == pickle.loads(pickle.dumps(kept)).value("it", 3)


def test_a_field_that_is_new_has_its_default() -> None:
    old = Progress(judged_ms=5)
    del old.__dict__["rejected"], old.__dict__["ahead_since"]
    restored = pickle.loads(pickle.dumps(old))
    assert (restored.judged_ms, restored.rejected, restored.ahead_since) == (5, {}, -1)


def test_what_is_restored_is_what_was_written() -> None:
    for written in (
        Progress(judged_ms=7, late={1}, rejected={"t": 3}),
        ResourceProgress(Horizon(3, {9: 1}, 1), closed_ms=2),
    ):
        assert pickle.loads(pickle.dumps(written)) == written


def test_versions_are_checked_before_anything_is_read() -> None:
    versioned.check("it", 1, 1)
    with pytest.raises(StateError):
        versioned.check("it", 2, 1)

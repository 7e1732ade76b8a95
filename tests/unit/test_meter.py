"""meter: what a consumer used, cut at bounds, whatever the order, the resets and the gaps."""

from __future__ import annotations

import random

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from udfs.pure.meter import meter
from udfs.pure.windows import MAX_GAP_MS, MINUTE_MS, USAGE_BUCKET_MS, WINDOW_MS, window_start

MS = 1_000_000
BUCKET = 250_000 * USAGE_BUCKET_MS
GIB = 2.0**30


def counter(time_ms, value, start_ms=0, dimension="cpu", preference=0, series="a"):
    return [dimension, preference, series, "c", start_ms * MS, time_ms * MS, value]


def gauge(time_ms, value, dimension="cpu", preference=3, series="a"):
    return [dimension, preference, series, "g", 0, time_ms * MS, value]


def delta(start_ms, time_ms, value):
    return ["io", 0, "a", "d", start_ms * MS, time_ms * MS, value]


def windows(*points, bucket=BUCKET):
    return meter(bucket, [orjson.dumps(points)])["windows"]


def cpu(*points):
    """{minutes since the bucket's start: core-seconds}, minute by minute."""
    minutes = meter(BUCKET, [orjson.dumps(points)])["minutes"]
    return {(ms - BUCKET) // MINUTE_MS: usage["cpu"] for ms, usage in minutes.items()}


def in_buckets(points):
    """Fragments of each bucket as collect makes them: a point also in neighbours within MAX_GAP."""
    buckets = {}
    for point in points:
        first_ms, time_ms = point[4] // MS, point[5] // MS
        first_ms = first_ms if point[3] == "d" else time_ms
        low, high = first_ms - MAX_GAP_MS, time_ms + MAX_GAP_MS
        for bucket in range(low - low % USAGE_BUCKET_MS, high + 1, USAGE_BUCKET_MS):
            buckets.setdefault(bucket, []).append(orjson.dumps([point]))
    return buckets


def total(points, dimension="cpu"):
    return sum(
        usage.get(dimension, 0.0)
        for bucket, fragments in in_buckets(points).items()
        for usage in meter(bucket, fragments)["windows"].values()
    )


def test_a_counter_is_spread_evenly_and_cut_at_the_windows_bound():
    # 30 s before the second window to 90 s into it: a quarter before, three quarters after
    bound = BUCKET + WINDOW_MS
    found = windows(counter(bound - 30_000, 100.0), counter(bound + 90_000, 108.0))
    assert found == {BUCKET: {"cpu": 2.0}, bound: {"cpu": 6.0}}


def test_minutes_add_up_to_their_window():
    points = [counter(BUCKET + 7_000 + 40_000 * i, 1.7 * i * i) for i in range(150)]
    result = meter(BUCKET, [orjson.dumps(points)])
    for window, usage in result["windows"].items():
        minutes = [u["cpu"] for ms, u in result["minutes"].items() if window_start(ms) == window]
        assert sum(minutes) == pytest.approx(usage["cpu"], rel=1e-14)


def test_a_bound_belongs_to_the_later_minute():
    assert cpu(counter(BUCKET, 1.0), counter(BUCKET + MINUTE_MS, 4.0)) == {0: 3.0}


def test_an_interval_across_two_buckets_is_counted_once():
    points = [counter(BUCKET - 20_000, 5.0), counter(BUCKET + 60_000, 9.0)]
    before = windows(*points, bucket=BUCKET - USAGE_BUCKET_MS)
    assert before == {BUCKET - WINDOW_MS: {"cpu": 1.0}}
    assert windows(*points) == {BUCKET: {"cpu": 3.0}}


def test_a_value_that_falls_counts_anew_from_the_previous_point():
    points = [counter(BUCKET + 60_000 * i, value) for i, value in enumerate((50.0, 6.0, 7.0))]
    assert cpu(*points) == {0: 6.0, 1: 1.0}


def test_a_new_start_time_counts_anew_from_it_even_if_the_value_rose():
    start = BUCKET + 30_000
    found = cpu(counter(BUCKET, 2.0, BUCKET - 99_000), counter(BUCKET + 90_000, 6.0, start))
    assert found == {0: 3.0, 1: 3.0}


def test_a_start_time_before_the_previous_point_is_no_reset():
    found = cpu(counter(BUCKET, 2.0, BUCKET - 9), counter(BUCKET + 60_000, 6.0, BUCKET - 8))
    assert found == {0: 4.0}


def test_a_first_point_that_starts_at_its_own_time_is_a_reference_only():
    # OTel metrics data model: the start is unknown, later points repeat it as theirs
    found = cpu(counter(BUCKET, 40.0, BUCKET), counter(BUCKET + 60_000, 43.0, BUCKET))
    assert found == {0: 3.0}


def test_an_emitter_that_stamps_each_point_with_its_own_start_is_still_counted():
    later = BUCKET + 60_000
    assert cpu(counter(BUCKET, 40.0, BUCKET), counter(later, 43.0, later)) == {0: 3.0}


def test_the_first_point_of_a_new_counter_counts_from_its_start():
    assert cpu(counter(BUCKET + 60_000, 9.0, BUCKET + 30_000)) == {0: 9.0}


def test_a_first_point_of_unknown_or_distant_start_counts_nothing():
    assert cpu(counter(BUCKET + 60_000, 9.0)) == {}
    assert cpu(counter(BUCKET + 60_000, 9.0, BUCKET + 60_000 - MAX_GAP_MS - 1)) == {}


def test_a_gap_is_counted_up_to_its_bound_and_not_beyond():
    reach = BUCKET + MAX_GAP_MS
    assert sum(cpu(counter(BUCKET, 1.0), counter(reach, 2.0)).values()) == pytest.approx(1.0)
    assert cpu(counter(BUCKET, 1.0), counter(reach + 1, 2.0)) == {}
    assert cpu(gauge(BUCKET, 1.0), gauge(reach + 1, 2.0)) == {}


def test_gauges_are_integrated_by_the_trapezoid_rule():
    # from 1 to 3 cores in two minutes: 1.5 on average in the first, 2.5 in the second
    assert cpu(gauge(BUCKET, 1.0), gauge(BUCKET + 120_000, 3.0)) == {0: 90.0, 1: 150.0}


def test_memory_is_in_byte_seconds():
    points = [gauge(BUCKET + 60_000 * i, 2 * GIB, "memory", 0) for i in range(31)]
    assert windows(*points) == {BUCKET: {"memory": 2 * GIB * 1800}}


def test_a_delta_counts_over_its_own_interval_however_long():
    hour = delta(BUCKET, BUCKET + 2 * WINDOW_MS, 10.0)
    assert windows(hour) == {BUCKET: {"io": 5.0}, BUCKET + WINDOW_MS: {"io": 5.0}}


def test_measured_and_unused_is_zero_and_not_missing():
    assert windows(counter(BUCKET, 4.0), counter(BUCKET + 60_000, 4.0)) == {BUCKET: {"cpu": 0.0}}


def test_the_best_metric_of_a_dimension_counts_alone_and_its_series_are_added():
    points = []
    for series, rate in (("app", 2.0), ("sidecar", 1.0)):
        for i in range(3):
            points.append(counter(BUCKET + 60_000 * i, rate * i, preference=1, series=series))
            points.append(gauge(BUCKET + 60_000 * i, 77.0, preference=3, series=series))
    assert windows(*points) == {BUCKET: {"cpu": 6.0}}


def test_a_better_metric_with_a_single_point_does_not_hide_the_next_best():
    points = [counter(BUCKET, 5.0), gauge(BUCKET, 1.0), gauge(BUCKET + 60_000, 1.0)]
    assert windows(*points) == {BUCKET: {"cpu": 60.0}}


def test_of_two_values_at_one_time_the_greater_counts():
    a, b, late = counter(BUCKET, 1.0), counter(BUCKET, 2.0), counter(BUCKET + 60_000, 5.0)
    assert cpu(a, b, late) == cpu(late, b, a) == {0: 3.0}


STEPS = st.lists(
    st.tuples(
        st.integers(2, MAX_GAP_MS * 5 // 4),  # ms to the next point, at times too long
        st.integers(0, 10_000),  # used meanwhile
        st.sampled_from(["runs", "runs", "restarts", "restarts unseen"]),
    ),
    min_size=1,
    max_size=40,
)


@settings(derandomize=True, max_examples=150, deadline=None)
@given(steps=STEPS, offset=st.integers(0, USAGE_BUCKET_MS), shuffle=st.randoms())
def test_adjacent_buckets_add_up_to_what_the_counter_counted(steps, offset, shuffle):
    now = start = BUCKET + offset
    value, expected = 0, 0.0
    points = [counter(now, 0, start)]
    for gap, used, event in steps:
        if event == "restarts":  # in the middle of the gap; used since then
            start, value = now + gap // 2, used
            since = start
        elif event == "restarts unseen" and used < value:  # the emitter sends no new start time
            value, since = used, now
        else:
            value, since = value + used, now
        now += gap
        if since < now and now - since <= MAX_GAP_MS:
            expected += used
        points.append(counter(now, value, start))
    disordered = points + shuffle.sample(points, len(points) // 2)
    shuffle.shuffle(disordered)
    assert total(disordered) == pytest.approx(expected, rel=1e-9)


@settings(derandomize=True, max_examples=60, deadline=None)
@given(values=st.lists(st.floats(0, 1e9), min_size=2, max_size=60), shuffle=st.randoms())
def test_any_order_repetition_and_packing_of_points_gives_the_same_bits(values, shuffle):
    points = [
        point
        for i, value in enumerate(values)
        for point in (
            gauge(BUCKET + 50_000 * i, value),
            counter(BUCKET + 50_000 * i, value, dimension="io", series="x"),
            counter(BUCKET + 49_000 * i, value / 3, dimension="io", series="y"),
        )
    ]
    first = meter(BUCKET, [orjson.dumps(points)])
    again = points + shuffle.sample(points, len(values))
    shuffle.shuffle(again)
    cut = random.Random(len(values)).randrange(1, len(again))
    result = meter(BUCKET, [orjson.dumps(again[:cut]), orjson.dumps(again[cut:])])
    assert orjson.dumps(result, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_SORT_KEYS) == (
        orjson.dumps(first, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_SORT_KEYS)
    )

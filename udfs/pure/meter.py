"""meter: usage points of one consumer -> usage u per window and per minute of a bucket.

Grain in: one consumer (pod) and one bucket of USAGE_BUCKET_MS; its points and those of the
neighbour buckets that lie within MAX_GAP_MS of it. Grain out: window or minute, and dimension.
Units are those of udfs/pure/dimensions.py: cpu core-seconds, memory byte-seconds and so on.

Between two points of a series an interval counts if it is no longer than MAX_GAP_MS. So every point
that has a say in it is among the fragments of each bucket that it reaches into, each bucket cuts
out its own piece, and adjacent buckets add up to the interval, no more and no less.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator

import orjson

from udfs.pure.dimensions import CUMULATIVE, DELTA, GAUGE
from udfs.pure.windows import MAX_GAP_MS, MINUTE_MS, USAGE_BUCKET_MS, window_start

NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000
MAX_GAP_NS = MAX_GAP_MS * NS_PER_MS
MINUTE_NS = MINUTE_MS * NS_PER_MS

# A point is (time_ns, start_ns, value).
Point = tuple[int, int, float]

# An interval is (since_ns, until_ns, usage at the rate of its beginning, usage at the rate of its
# end); in between the rate is linear. A counter's two are equal: its delta.
Interval = tuple[int, int, float, float]


def meter(bucket_start_ms: int, fragments: Iterable[bytes]) -> dict[str, dict[int, dict[str, float]]]:
    """Usage of one consumer in one bucket, cut at the windows' and the minutes' bounds.

    fragments: orjson of [[dimension, preference, series, kind, start_ns, time_ns, value], ...],
        kind "c" cumulative, "d" delta, "g" gauge; start_ns 0 = unknown; value finite; in any
        order, repeated or not. Points of one series and time count once, with the greater value.
    returns: {"windows": {window_start_ms: {dimension: u}}, "minutes": {minute_ms: {dimension: u}}},
        ascending. A window or dimension is missing where no interval tells its usage; 0.0 means
        that it was measured and nothing was used. A window is the sum of its minutes.

    Per dimension the best metric (lowest preference) with an interval in the bucket is taken, and
    its series are added up. Counters follow the OTel metrics data model: a value that falls, or a
    start time after the previous point, is a reset, and the new value counts from there.
    """
    first_ns = bucket_start_ms * NS_PER_MS
    last_ns = first_ns + USAGE_BUCKET_MS * NS_PER_MS

    pieces: dict[tuple[str, int], dict[int, list[float]]] = {}
    for (dimension, preference, _, kind), points in _series(fragments).items():
        for interval in _INTERVALS[kind](points):
            if interval[0] < last_ns and interval[1] > first_ns:
                minutes_of_metric = pieces.setdefault((dimension, preference), defaultdict(list))
                _cut(interval, first_ns, last_ns, minutes_of_metric)

    best: dict[str, int] = {}
    for dimension, preference in sorted(pieces):
        best.setdefault(dimension, preference)

    minutes: dict[int, dict[str, float]] = defaultdict(dict)
    windows: dict[int, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for dimension, preference in best.items():
        for minute_ns, amounts in pieces[dimension, preference].items():
            minute_ms = minute_ns // NS_PER_MS
            usage = math.fsum(amounts)  # correctly rounded, hence the same in any order
            minutes[minute_ms][dimension] = usage
            windows[window_start(minute_ms)][dimension].append(usage)
    return {
        "windows": {
            window_ms: {dimension: math.fsum(amounts) for dimension, amounts in usage.items()}
            for window_ms, usage in sorted(windows.items())
        },
        "minutes": dict(sorted(minutes.items())),
    }


def _series(fragments: Iterable[bytes]) -> dict[tuple[str, int, str, str], list[Point]]:
    """Points of each (dimension, preference, series, kind) in time order, each time once."""
    series: dict[tuple[str, int, str, str], dict[int, tuple[float, int]]] = defaultdict(dict)
    for fragment in fragments:
        for dimension, preference, name, kind, start_ns, time_ns, value in orjson.loads(fragment):
            points = series[dimension, preference, name, kind]
            point = (float(value), start_ns)
            if time_ns not in points or point > points[time_ns]:
                points[time_ns] = point
    return {
        key: [(time_ns, start_ns, value) for time_ns, (value, start_ns) in sorted(points.items())]
        for key, points in series.items()
    }


def _cumulative(points: list[Point]) -> Iterator[Interval]:
    """Deltas of a counter. The first point counts from its start time, if that is known.

    That point may only be the first of this bucket's fragments. But whatever the fragments leave
    out lies more than MAX_GAP before the bucket; so either the counter started later than that,
    and no point of it is left out, or start and point are too far apart to count.
    """
    previous_ns, previous_start_ns, previous_value = None, 0, 0.0
    for time_ns, start_ns, value in points:
        since_ns, amount = previous_ns, value - previous_value
        if _is_known(start_ns, time_ns) and (
            previous_ns is None or (start_ns >= previous_ns and start_ns != previous_start_ns)
        ):
            since_ns, amount = start_ns, value
        elif amount < 0:
            amount = value
        if since_ns is not None and time_ns - since_ns <= MAX_GAP_NS:
            yield since_ns, time_ns, amount, amount
        previous_ns, previous_start_ns, previous_value = time_ns, start_ns, value


def _delta(points: list[Point]) -> Iterator[Interval]:
    """Each value over its own interval, of any length: collect enters it in all that it touches."""
    for time_ns, start_ns, value in points:
        if _is_known(start_ns, time_ns):
            yield start_ns, time_ns, value, value


def _gauge(points: list[Point]) -> Iterator[Interval]:
    """A straight line from each value to the next (trapezoid rule), in value-seconds."""
    for (since_ns, _, before), (time_ns, _, after) in zip(points, points[1:]):
        if time_ns - since_ns <= MAX_GAP_NS:
            seconds = (time_ns - since_ns) / NS_PER_S
            yield since_ns, time_ns, before * seconds, after * seconds


_INTERVALS = {CUMULATIVE: _cumulative, DELTA: _delta, GAUGE: _gauge}


def _is_known(start_ns: int, time_ns: int) -> bool:
    """OTel: a start time of 0, or equal to the point's own time, says that it is unknown."""
    return 0 < start_ns < time_ns


def _cut(interval: Interval, first_ns: int, last_ns: int, minutes: dict[int, list[float]]) -> None:
    """Add to each minute of [first_ns, last_ns) the piece of the interval that falls in it."""
    since_ns, until_ns, before, after = interval
    length_ns = until_ns - since_ns
    from_ns, end_ns = max(since_ns, first_ns), min(until_ns, last_ns)
    while from_ns < end_ns:
        minute_ns = from_ns - from_ns % MINUTE_NS
        to_ns = min(minute_ns + MINUTE_NS, end_ns)
        middle = (from_ns + to_ns - 2 * since_ns) / (2 * length_ns)
        piece = (before + (after - before) * middle) * ((to_ns - from_ns) / length_ns)
        minutes[minute_ns].append(piece)
        from_ns = to_ns

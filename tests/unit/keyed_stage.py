"""A keyed function without the engine: its state in memory, its timers fired by hand."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable

import orjson
from pyflink.common import Row, RowKind
from pyflink.datastream import KeyedProcessFunction, ProcessFunction

from udfs.attribute import ALLOCATIONS
from udfs.changelog import END_OF_INPUT
from udfs.pure.attribute import unpacked


class _Map(dict):
    put = dict.__setitem__
    contains = dict.__contains__

    def remove(self, key: object) -> None:
        self.pop(key, None)


class _Value:
    _held: object = None

    def value(self) -> object:
        return self._held

    def update(self, value: object) -> None:
        self._held = value

    def clear(self) -> None:
        self._held = None


class Metrics:
    """What a function counts: ``counters`` by name, and what each gauge tells."""

    def __init__(self) -> None:
        self.counters: dict[str, int] = defaultdict(int)
        self.gauges: dict[str, Callable[[], int]] = {}

    def add_group(self, name: str) -> Metrics:
        return self

    def counter(self, name: str) -> _Counter:
        return _Counter(self.counters, name)

    def gauge(self, name: str, value: Callable[[], int]) -> None:
        self.gauges[name] = value


class _Counter:
    def __init__(self, counters: dict[str, int], name: str) -> None:
        self._counters, self._name = counters, name

    def inc(self, n: int = 1) -> None:
        self._counters[self._name] += n


class Stage:
    """One key of a keyed function. ``sent``: (kind, time_ms, event_key, payload) in order, ``rows``: what
    stands of them, by the first three."""

    def __init__(self, function: KeyedProcessFunction | ProcessFunction, key: str) -> None:
        self._function, self._key = function, key
        self._states: dict[tuple[str, str], object] = {}
        self.now_ms = 0
        self.timers: set[int] = set()
        self.sent: list[tuple[str, int, str, list]] = []
        self.rows: dict[tuple[str, int, str], list] = {}
        self.metrics = Metrics()
        function.open(self)

    # ---- what the engine gives the function -----------------------------------------------------

    def get_map_state(self, descriptor) -> _Map:
        return self._states.setdefault(("map", descriptor.name), _Map())

    def get_state(self, descriptor) -> _Value:
        return self._states.setdefault(("value", descriptor.name), _Value())

    def get_metrics_group(self) -> Metrics:
        return self.metrics

    def timer_service(self) -> Stage:
        return self

    def current_processing_time(self) -> int:
        return self.now_ms

    def register_processing_time_timer(self, time_ms: int) -> None:
        self.timers.add(time_ms)

    def register_event_time_timer(self, time_ms: int) -> None:
        assert time_ms == END_OF_INPUT

    def get_current_key(self) -> str:
        return self._key

    # ---- what a test does -----------------------------------------------------------------------

    def feed(self, kind: str, event_key: str, payload: object, of: RowKind = RowKind.INSERT) -> None:
        """Send one change to it; a payload that is no text is sent as JSON."""
        text = payload if isinstance(payload, str) else orjson.dumps(payload, option=orjson.OPT_NON_STR_KEYS).decode()
        row = Row(self._key, kind, event_key, text)
        row.set_row_kind(of)
        self._take(self._function.process_element(row, self))

    def fire(self) -> dict[tuple[str, int, str], list]:
        """Fire the timers that are due at the end of the next period; returns what was sent."""
        before = len(self.sent)
        for time_ms in sorted(self.timers):
            self.now_ms = time_ms
            self._take(self._function.on_timer(time_ms, self))
        self.timers.clear()
        return {tuple(row[:3]): row[3] for row in self.sent[before:]}

    def end(self) -> dict[tuple[str, int, str], list]:
        """The end of the input; returns what stands."""
        self._take(self._function.on_timer(END_OF_INPUT, self))
        return {key: rows for key, rows in self.rows.items() if rows}

    def size(self) -> dict[str, int]:
        """Entries by state."""
        return {name: len(state) for (kind, name), state in self._states.items() if kind == "map"}

    def _take(self, sent: Iterable[Row]) -> None:
        for kind, time_ms, event_key, payload in sent:
            read = unpacked if kind == ALLOCATIONS else orjson.loads
            self.sent.append((kind, time_ms, event_key, read(payload)))
            self.rows[kind, time_ms, event_key] = read(payload)


def by_kind(rows: dict[tuple[str, int, str], list], kind: str) -> dict[int, list]:
    """{time_ms: rows} of one kind."""
    found: dict[int, list] = defaultdict(list)
    for (of_kind, time_ms, _), payload in rows.items():
        if of_kind == kind:
            found[time_ms] = payload
    return dict(found)

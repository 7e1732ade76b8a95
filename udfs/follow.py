"""follow: the anomalies of windows to incidents, which last as long as their culprit is seen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import orjson
from pyflink.common import Row, Types
from pyflink.datastream import KeyedProcessFunction, RuntimeContext
from pyflink.datastream.state import MapStateDescriptor, ValueStateDescriptor

from udfs.changelog import END_OF_INPUT, Sent, payload_row, tick
from udfs.pure.follow import incident, incident_id, runs
from udfs.rank import FEEDBACK, OVER, WINDOWS

INCIDENTS = "incidents"


class _Key(NamedTuple):
    """Whose incidents, in which currency."""

    culprit: str
    currency: str


class Follow(KeyedProcessFunction):
    """Rows of ``rank``, all under one key: the anomalies of each window, until when its minutes are over, and what
    people say -> incidents, each an upsert by its id; what is no incident any more is sent without a row.

    There is little of it: a row a window and culprit. State: these rows; until when minutes are over; what people said;
    of each incident that was sent a digest. A worker keeps the rows in memory, too, by culprit.
    """

    def __init__(
        self, quiet_ms: int, trace_url: str = "", emit_every_ms: int | None = None, keep_ms: int | None = None
    ) -> None:
        """quiet_ms: so long a culprit has to be quiet until its incident is closed. trace_url: of an exemplar, see
        follow.incident. emit_every_ms: at most so often a change is sent, in the engine's time; None = at the end of
        the input. keep_ms: an incident is let go that ended so long before the last minute that is over; None = kept
        for ever."""
        self._quiet_ms, self._trace_url = quiet_ms, trace_url
        self._emit_every_ms, self._keep_ms = emit_every_ms, keep_ms

    def open(self, context: RuntimeContext) -> None:
        def map_state(name: str) -> Any:
            return context.get_map_state(MapStateDescriptor(name, Types.STRING(), Types.PICKLED_BYTE_ARRAY()))

        self._rows = map_state("windows")  # window, culprit and currency, as text -> the row
        self._said = map_state("said")
        self._sent = map_state("sent")  # incident's id -> (whose, its first window, digest)
        self._over_ms = context.get_state(ValueStateDescriptor("over", Types.LONG()))
        self._sending = Sent()
        # In memory, as soon as something comes: the rows by whose they are and window, the ids that were sent, and who
        # has an open incident, or may have.
        self._windows: dict[_Key, dict[int, dict[str, Any]]] | None = None
        self._ids: dict[_Key, set[str]] = {}
        self._open: set[_Key] = set()
        self._changed: set[_Key] = set()

    def process_element(self, row: Row, context: KeyedProcessFunction.Context) -> Iterator[Row]:
        kind, window_ms, event_key, payload = row
        if kind not in (WINDOWS, OVER, FEEDBACK):
            return
        windows = self._known()
        if kind == WINDOWS:
            self._take_window(windows, window_ms, orjson.loads(payload))
        elif kind == OVER:
            self._take_time(windows, int(payload))
        else:
            self._said.put(event_key, payload)
            self._changed.update(windows)
        context.timer_service().register_event_time_timer(END_OF_INPUT)
        if self._emit_every_ms is not None and self._changed:
            tick(context, self._emit_every_ms)
        yield from ()

    def on_timer(self, timestamp: int, context: KeyedProcessFunction.OnTimerContext) -> Iterator[Row]:
        windows = self._known()
        over_ms = self._over_ms.value() or 0
        said = [orjson.loads(payload) for payload in self._said.values()]
        changed, self._changed = sorted(self._changed), set()
        for key in changed:
            yield from self._incidents(key, windows.get(key, {}), over_ms, said)

    def _incidents(self, key: _Key, windows: dict[int, dict], over_ms: int, said: list[dict]) -> Iterator[Row]:
        """What is to be sent of somebody's incidents."""
        found = [
            incident(run, over_ms, self._quiet_ms, said, self._trace_url)
            for run in runs(windows.values(), self._quiet_ms)
        ]
        ids = {row["incident_id"] for row in found}
        for gone in sorted(self._ids.get(key, set()) - ids):
            yield payload_row(INCIDENTS, self._sent.get(gone)[1], gone, b"[]")
            self._sent.remove(gone)
        for row in found:
            payload = orjson.dumps([row], default=str)
            to_send = key, row["window_start"], self._sending.digest(payload)
            if self._sent.get(row["incident_id"]) != to_send:
                self._sent.put(row["incident_id"], to_send)
                yield payload_row(INCIDENTS, row["window_start"], row["incident_id"], payload)
        self._note(key, ids, any(row["closed_at"] is None for row in found))

    def _note(self, key: _Key, ids: set[str], is_open: bool) -> None:
        (self._open.add if is_open else self._open.discard)(key)
        if ids:
            self._ids[key] = ids
        else:
            self._ids.pop(key, None)

    def _known(self) -> dict[_Key, dict[int, dict[str, Any]]]:
        """The rows in memory, read from the state at first."""
        if self._windows is None:
            self._windows = self._read()
        return self._windows

    def _read(self) -> dict[_Key, dict[int, dict[str, Any]]]:
        """The state, into memory. All are looked at once more: what was sent after the last checkpoint is forgotten."""
        windows: dict[_Key, dict[int, dict[str, Any]]] = {}
        for payload in self._rows.values():
            row = orjson.loads(payload)
            windows.setdefault(_key(row), {})[row["window_start"]] = row
        for id_, (key, *_) in self._sent.items():
            self._ids.setdefault(_Key(*key), set()).add(id_)
        self._open = set(windows)
        self._changed = {*windows, *self._ids}
        return windows

    def _take_window(self, windows: dict[_Key, dict[int, dict]], window_ms: int, rows: list[dict]) -> None:
        """Put the rows of a window in the place of those that it had."""
        new = {_key(row): row for row in rows}
        for key in [key for key, of in windows.items() if window_ms in of and key not in new]:
            self._remove(windows, key, window_ms)
            self._changed.add(key)
        for key, row in new.items():
            windows.setdefault(key, {})[window_ms] = row
            self._rows.put(_text(window_ms, key), orjson.dumps(row))
            self._changed.add(key)

    def _remove(self, windows: dict[_Key, dict[int, dict]], key: _Key, window_ms: int) -> None:
        self._rows.remove(_text(window_ms, key))
        del windows[key][window_ms]
        if not windows[key]:
            del windows[key]

    def _take_time(self, windows: dict[_Key, dict[int, dict]], over_ms: int) -> None:
        """Minutes are over until then: what is open may be closed, and what is long over is let go."""
        if over_ms <= (self._over_ms.value() or 0):
            return
        self._over_ms.update(over_ms)
        self._changed |= self._open
        if self._keep_ms is not None:
            self._forget(windows, over_ms - self._keep_ms)

    def _forget(self, windows: dict[_Key, dict[int, dict]], before_ms: int) -> None:
        """Let the incidents go that ended before; their rows stay as they were sent."""
        for key in [key for key, of in windows.items() if min(of) < before_ms]:
            for run in runs(windows[key].values(), self._quiet_ms):
                if run[-1]["window_end"] >= before_ms:
                    break
                id_ = incident_id(run)
                self._ids.get(key, set()).discard(id_)
                self._sent.remove(id_)
                for window in run:
                    self._remove(windows, key, window["window_start"])


def _key(row: dict[str, Any]) -> _Key:
    return _Key(row["otel_service_name"], row["billing_currency"])


def _text(window_ms: int, key: _Key) -> str:
    return orjson.dumps([window_ms, *key]).decode()

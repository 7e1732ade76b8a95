"""rank: one window's incidents and allocations to its ranked anomalies."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import orjson
from pyflink.common import Row, Types
from pyflink.datastream import KeyedProcessFunction, RuntimeContext
from pyflink.datastream.state import ValueStateDescriptor

from udfs.attribute import ALLOCATIONS
from udfs.changelog import CALL, END_OF_INPUT, PULSE, Latest, Sent, payload_row, tick
from udfs.judge import INCIDENTS, minute_of
from udfs.pure.attribute import unpacked
from udfs.pure.rank import rank_window
from udfs.pure.verdicts import merged

RANKED = "ranked"


class Rank(KeyedProcessFunction):
    """Rows (kind, window, event_key, payload) of one window -> its ranked anomalies, ranks and all.

    State: the window's incidents by minute and part, and its allocations by resource; a digest of what was sent last.
    """

    def __init__(self, order: str, emit_every_ms: int | None = None, keep_ms: int | None = None) -> None:
        """order: what rank 1 has most of, one of rank.ORDERS. emit_every_ms: at most so often a changed window is
        sent, in the engine's time; None = at the end of the input. keep_ms: so long after its last change a
        window's evidence is kept, in the engine's time; None = for ever."""
        self._order = order
        self._emit_every_ms, self._keep_ms = emit_every_ms, keep_ms

    def open(self, context: RuntimeContext) -> None:
        self._evidence = {
            kind: Latest[str, bytes](context, kind, Types.STRING(), self._keep_ms) for kind in (INCIDENTS, ALLOCATIONS)
        }
        self._sending = Sent()
        self._sent = context.get_state(ValueStateDescriptor("sent", Types.PICKLED_BYTE_ARRAY()))

    def process_element(self, row: Row, context: KeyedProcessFunction.Context) -> Iterator[Row]:
        kind, _, event_key, payload = row
        if kind == PULSE:
            return
        if kind == CALL:
            now_ms = context.timer_service().current_processing_time()
            if self._emit_every_ms is not None and self._sending.is_first_call(context.get_current_key(), now_ms):
                tick(context, self._emit_every_ms)
            return
        self._evidence[kind].apply(row.get_row_kind(), event_key, payload)
        context.timer_service().register_event_time_timer(END_OF_INPUT)
        if self._emit_every_ms is not None:
            tick(context, self._emit_every_ms)
        yield from ()

    def on_timer(self, timestamp: int, context: KeyedProcessFunction.OnTimerContext) -> Iterator[Row]:
        parts = [(key, orjson.loads(payload)) for key, payload in sorted(self._evidence[INCIDENTS].items())]
        if not parts:
            return
        window_ms = context.get_current_key()
        by_minute: dict[str, list[list[dict]]] = defaultdict(list)
        for key, (of_part, _) in parts:
            by_minute[minute_of(key)].append(of_part)
        incidents = [merged(of_minute) for of_minute in by_minute.values()]
        service_traces = [traces for _, (_, traces) in parts]
        rows = []
        if any(incidents):
            allocations = [row for payload in self._evidence[ALLOCATIONS].values() for row in unpacked(payload)]
            rows = rank_window(window_ms, incidents, service_traces, allocations, self._order)
        payload = orjson.dumps(rows, default=str)
        digest, sent = self._sending.digest(payload), self._sent.value()
        # A window that lost all its rows says so.
        if digest != sent and (rows or sent):
            self._sent.update(digest)
            yield payload_row(RANKED, window_ms, "", payload)

"""rank: one window's incidents, requests and allocations to its ranked anomalies and unit costs.

Beside them it tells ``follow`` what that needs: of each window its anomalies in short, and until when it is over.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import orjson
from pyflink.common import Row, RowKind, Types
from pyflink.datastream import KeyedProcessFunction, RuntimeContext
from pyflink.datastream.state import ValueStateDescriptor

from udfs.attribute import ALLOCATIONS
from udfs.changelog import CALL, END_OF_INPUT, PULSE, Latest, Sent, payload_row, tick
from udfs.judge import INCIDENTS, REQUESTS, minute_of
from udfs.pure.attribute import unpacked
from udfs.pure.follow import windows_of
from udfs.pure.rank import rank_window
from udfs.pure.unit_cost import unit_costs, unit_costs_by_attribute
from udfs.pure.verdicts import merged
from udfs.pure.windows import MINUTE_MS

RANKED, UNIT_COSTS, UNIT_COSTS_BY_ATTRIBUTE = "ranked", "unit_costs", "unit_costs_by_attribute"
# What ``follow`` reads: anomalies in short; the end of the last minute that is over (ms, as text); what people say.
WINDOWS, OVER, FEEDBACK = "windows", "over", "feedback"

# Of so many windows it is remembered when they were sent.
WINDOWS_REMEMBERED = 1_000


class Rank(KeyedProcessFunction):
    """Rows (kind, window, event_key, payload) of one window -> its ranked anomalies, ranks and all, and its unit costs.

    A window is sent as soon as an incident of it changes, if it was not sent lately; else, and what it costs, when a
    timer fires.

    State: the window's incidents and requests by minute and part, and its allocations by resource; a digest of what
    was sent last of each kind.
    """

    def __init__(
        self, order: str, emit_every_ms: int | None = None, keep_ms: int | None = None, traits: Sequence[str] = ()
    ) -> None:
        """order: what rank 1 has most of, one of rank.ORDERS. emit_every_ms: a changed window is sent within so long,
        and at most twice in it, in the engine's time; None = at the end of the input. keep_ms: so long after its last
        change a window's evidence is kept, in the engine's time; None = for ever. traits: attributes by which unit
        costs are told."""
        self._order = order
        self._emit_every_ms, self._keep_ms, self._traits = emit_every_ms, keep_ms, traits

    def open(self, context: RuntimeContext) -> None:
        self._evidence = {
            kind: Latest[str, bytes](context, kind, Types.STRING(), self._keep_ms)
            for kind in (INCIDENTS, REQUESTS, ALLOCATIONS)
        }
        self._sending = Sent()
        self._sent = {
            kind: context.get_state(ValueStateDescriptor(name, Types.PICKLED_BYTE_ARRAY()))
            for kind, name in (
                (RANKED, "sent"),
                (UNIT_COSTS, "sent_unit_costs"),
                (UNIT_COSTS_BY_ATTRIBUTE, "sent_unit_costs_by_attribute"),
                (WINDOWS, "sent_windows"),
                (OVER, "sent_over"),
            )
        }
        # When each window was last sent, in the engine's time, and those of which nothing has changed since.
        self._sent_ms: dict[int, int] = {}
        self._unchanged: set[int] = set()
        # Incidents come often while their minute is open, and change no unit cost.
        self._is_restated = context.get_state(ValueStateDescriptor("is_restated", Types.BOOLEAN()))

    def process_element(self, row: Row, context: KeyedProcessFunction.Context) -> Iterator[Row]:
        kind, window_ms, event_key, payload = row
        if kind == PULSE:
            return
        if kind == FEEDBACK:
            yield payload_row(kind, window_ms, event_key, payload)
            return
        if kind == CALL:
            now_ms = context.timer_service().current_processing_time()
            if self._emit_every_ms is not None and self._sending.is_first_call(context.get_current_key(), now_ms):
                self._is_restated.update(True)
                tick(context, self._emit_every_ms)
            return
        self._evidence[kind].apply(row.get_row_kind(), event_key, payload)
        self._unchanged.discard(window_ms)
        if kind != INCIDENTS:
            self._is_restated.update(True)
        context.timer_service().register_event_time_timer(END_OF_INPUT)
        if self._emit_every_ms is None:
            return
        now_ms = context.timer_service().current_processing_time()
        # The version that takes the place of one which was taken back follows it.
        is_whole = row.get_row_kind() in (RowKind.INSERT, RowKind.UPDATE_AFTER)
        is_rested = now_ms >= self._sent_ms.get(window_ms, 0) + self._emit_every_ms
        if kind == INCIDENTS and is_whole and is_rested:
            yield from self._anomalies(window_ms, now_ms)
        else:
            tick(context, self._emit_every_ms)

    def on_timer(self, timestamp: int, context: KeyedProcessFunction.OnTimerContext) -> Iterator[Row]:
        window_ms = context.get_current_key()
        if window_ms not in self._unchanged:
            yield from self._anomalies(window_ms, context.timer_service().current_processing_time())
        if self._is_restated.value():
            self._is_restated.clear()
            requests = dict(self._evidence[REQUESTS].items())
            if requests:
                over_ms = max(int(minute_of(key)) for key in requests) + MINUTE_MS
                yield from self._changed(OVER, window_ms, b"%d" % over_ms)
            demands = [orjson.loads(payload) for payload in requests.values()]
            allocations = self._allocations()
            yield from self._rows(UNIT_COSTS, window_ms, unit_costs(window_ms, demands, allocations))
            by_attribute = unit_costs_by_attribute(window_ms, self._traits, demands, allocations)
            yield from self._rows(UNIT_COSTS_BY_ATTRIBUTE, window_ms, by_attribute)

    def _anomalies(self, window_ms: int, now_ms: int) -> Iterator[Row]:
        """The window's anomalies, if they are others than those sent last."""
        ranked, windows = self._ranked(window_ms)
        yield from self._rows(RANKED, window_ms, ranked)
        yield from self._rows(WINDOWS, window_ms, windows)
        if len(self._sent_ms) >= WINDOWS_REMEMBERED:
            self._sent_ms.clear()
            self._unchanged.clear()
        self._sent_ms[window_ms] = now_ms
        self._unchanged.add(window_ms)

    def _allocations(self) -> list[dict]:
        return [row for payload in self._evidence[ALLOCATIONS].values() for row in unpacked(payload)]

    def _ranked(self, window_ms: int) -> tuple[list[dict], list[dict]]:
        """The window's rows, and the same in short."""
        by_minute: dict[str, list[list[dict]]] = defaultdict(list)
        service_traces = []
        for key, payload in sorted(self._evidence[INCIDENTS].items()):
            of_part, traces = orjson.loads(payload)
            by_minute[minute_of(key)].append(of_part)
            service_traces.append(traces)
        incidents = {int(minute_ms): merged(of_minute) for minute_ms, of_minute in by_minute.items()}
        if not any(incidents.values()):
            return [], []
        ranked = rank_window(window_ms, incidents.values(), service_traces, self._allocations(), self._order)
        return ranked, windows_of(ranked, incidents)

    def _rows(self, kind: str, window_ms: int, rows: list[dict]) -> Iterator[Row]:
        """The window's rows, if they are others than those sent last."""
        # A window that lost all its rows says so.
        if rows or self._sent[kind].value():
            yield from self._changed(kind, window_ms, orjson.dumps(rows, default=str))

    def _changed(self, kind: str, window_ms: int, payload: bytes) -> Iterator[Row]:
        """What is of a kind, if it is other than what was sent last."""
        digest = self._sending.digest(payload)
        if digest != self._sent[kind].value():
            self._sent[kind].update(digest)
            yield payload_row(kind, window_ms, "", payload)

"""rank: one window's incidents and allocations to its ranked anomalies."""

from __future__ import annotations

from collections.abc import Iterator

import orjson
from pyflink.common import Row, Types
from pyflink.datastream import KeyedProcessFunction, RuntimeContext

from udfs.attribute import ALLOCATIONS
from udfs.changelog import END_OF_INPUT, Latest, upsert
from udfs.detect import INCIDENTS
from udfs.pure.rank import rank_window

RANKED = "ranked"


class Rank(KeyedProcessFunction):
    """Rows (kind, window, event_key, payload) of one window -> its ranked anomalies, ranks and all.

    State: the window's incidents by minute and its allocations by resource.
    """

    def __init__(self, order: str) -> None:
        """order: what rank 1 has most of, one of rank.ORDERS."""
        self._order = order

    def open(self, context: RuntimeContext) -> None:
        self._evidence = {
            kind: Latest(context, kind, Types.STRING()) for kind in (INCIDENTS, ALLOCATIONS)
        }

    def process_element(self, row: Row, context: KeyedProcessFunction.Context) -> Iterator[Row]:
        kind, _, event_key, payload = row
        self._evidence[kind].apply(row.get_row_kind(), event_key, payload)
        context.timer_service().register_event_time_timer(END_OF_INPUT)
        yield from ()

    def on_timer(self, timestamp: int, context: KeyedProcessFunction.OnTimerContext) -> Iterator[Row]:
        minutes = [orjson.loads(payload) for payload in self._evidence[INCIDENTS].values()]
        if not minutes:
            return
        incidents, service_traces = zip(*minutes, strict=True)
        allocations = [
            row for payload in self._evidence[ALLOCATIONS].values() for row in orjson.loads(payload)
        ]
        window_ms = context.get_current_key()
        rows = rank_window(window_ms, incidents, service_traces, allocations, self._order)
        if rows:
            yield upsert(RANKED, window_ms, "", orjson.dumps(rows, default=str))

"""rank: one window's incidents and allocations to its ranked anomalies."""

from __future__ import annotations

from collections.abc import Iterator

import orjson
from pyflink.common import Row, RowKind, Types
from pyflink.datastream import KeyedProcessFunction, RuntimeContext
from pyflink.datastream.state import MapStateDescriptor

from udfs.attribute import ALLOCATIONS
from udfs.changelog import END_OF_INPUT, upsert
from udfs.detect import INCIDENTS
from udfs.pure.detect import RuleDetector
from udfs.pure.rank import rank_window

RANKED = "ranked"


class Rank(KeyedProcessFunction):
    """Rows (kind, window, event_key, payload) of one window -> its ranked anomalies, ranks and all.

    State: the window's incidents by minute and its allocations by resource.
    """

    def open(self, context: RuntimeContext) -> None:
        self._evidence = {
            kind: context.get_map_state(
                MapStateDescriptor(kind, Types.STRING(), Types.PICKLED_BYTE_ARRAY())
            )
            for kind in (INCIDENTS, ALLOCATIONS)
        }

    def process_element(self, row: Row, context: KeyedProcessFunction.Context) -> Iterator[Row]:
        kind, _, event_key, payload = row
        if row.get_row_kind() in (RowKind.UPDATE_BEFORE, RowKind.DELETE):
            self._evidence[kind].remove(event_key)
        else:
            self._evidence[kind].put(event_key, payload)
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
        rows = rank_window(
            window_ms, incidents, service_traces, allocations, RuleDetector.MODEL_VERSION
        )
        if rows:
            yield upsert(RANKED, window_ms, "", orjson.dumps(rows, default=str))

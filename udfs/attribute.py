"""price, attribute: all that concerns one billed resource to its allocations and odd charges."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import orjson
from pyflink.common import Row, Types
from pyflink.datastream import KeyedProcessFunction, RuntimeContext

from udfs.changelog import END_OF_INPUT, Latest, upsert
from udfs.pure import attribute, price

USAGE, CHARGE = "usage", "charge"
ALLOCATIONS, CHARGE_ANOMALIES = "allocations", "charge_anomalies"


class Attribute(KeyedProcessFunction):
    """Rows (resource_id, kind, event_key, payload) -> allocations of each window of the resource.

    State: the resource's metered usage by consumer and bucket, and its charges by key. Both are
    rare: a few rows an hour. What is sent is a function of that state alone, so that neither order
    nor repetition of the input shows in it.
    """

    def open(self, context: RuntimeContext) -> None:
        self._events = {
            kind: Latest(context, kind, Types.STRING()) for kind in (USAGE, CHARGE)
        }

    def process_element(self, row: Row, context: KeyedProcessFunction.Context) -> Iterator[Row]:
        _, kind, event_key, payload = row
        self._events[kind].apply(row.get_row_kind(), event_key, payload)
        context.timer_service().register_event_time_timer(END_OF_INPUT)
        yield from ()

    def on_timer(self, timestamp: int, context: KeyedProcessFunction.OnTimerContext) -> Iterator[Row]:
        resource_id = context.get_current_key()
        usage = self._usage()
        bill = self._bill()
        metered = {dimension for window in usage.values() for dimension in window}
        for window_ms in sorted(usage.keys() | bill.keys()):
            rows = attribute.allocate_window(resource_id, window_ms, usage, bill, metered)
            if rows:
                yield upsert(ALLOCATIONS, window_ms, resource_id, orjson.dumps(rows, default=str))
        for window_ms, rows in self._irregularities(resource_id, bill).items():
            yield upsert(CHARGE_ANOMALIES, window_ms, resource_id, orjson.dumps(rows, default=str))

    def _usage(self) -> dict[int, dict[str, dict[str, float]]]:
        """window -> dimension -> workload -> usage."""
        parts: defaultdict[int, list[tuple[str, str, float]]] = defaultdict(list)
        for payload in self._events[USAGE].values():
            otel_service_name, _, metered = orjson.loads(payload)
            for window_ms, by_dimension in metered["windows"].items():
                parts[int(window_ms)] += [
                    (dimension, otel_service_name, used) for dimension, used in by_dimension.items()
                ]
        return {window_ms: attribute.sum_usage(part) for window_ms, part in parts.items()}

    def _bill(self) -> dict[int, list[tuple[dict, dict[str, int]]]]:
        """window -> [(charge, its cost there by dimension)]."""
        bill: defaultdict[int, list] = defaultdict(list)
        for payload in self._events[CHARGE].values():
            charge = orjson.loads(payload)
            for window_ms, costs in price.cost_by_window(charge).items():
                bill[window_ms].append((charge, costs))
        return dict(bill)

    @staticmethod
    def _irregularities(resource_id: str, bill: dict) -> dict[int, list[dict]]:
        """Rows of charge_anomalies by window."""
        costs: defaultdict[tuple[str, str], defaultdict[int, int]] = defaultdict(
            lambda: defaultdict(int)
        )
        for window_ms, charges in bill.items():
            for charge, by_dimension in charges:
                for dimension, units in by_dimension.items():
                    costs[dimension, charge["currency"]][window_ms] += units
        found: defaultdict[int, list[dict]] = defaultdict(list)
        for (dimension, currency), by_window in sorted(costs.items()):
            for row in attribute.charge_anomalies(resource_id, dimension, currency, by_window):
                found[row["window_start"]].append(row)
        return found

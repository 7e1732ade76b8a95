"""price, attribute: all that concerns one billed resource to its allocations and odd charges."""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Collection, Generator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
import pandas as pd
from pyflink.common import Row, RowKind, Types
from pyflink.common.typeinfo import TypeInformation
from pyflink.datastream import KeyedProcessFunction, RuntimeContext
from pyflink.datastream.state import MapState, MapStateDescriptor, ValueStateDescriptor
from pyflink.table.udf import udf

from udfs import metrics
from udfs.changelog import CALL, END_OF_INPUT, PULSE, TAKEN_BACK, Latest, Sent, payload_row, tick
from udfs.pure import attribute, irregular, price, rates, unit_price
from udfs.pure.cache import Bounded
from udfs.pure.cost_center import NO_COST_CENTERS, CostCenters
from udfs.pure.focus import WITHDRAWN_KEY
from udfs.pure.horizon import SKEW_MS, Horizon, clock_at
from udfs.pure.outstanding import Adds, Outstanding
from udfs.pure.windows import HOUR_MS, UNALLOCATED, WINDOW_MS

USAGE, CHARGE, RATES = "usage", "charge", "rates"
ALLOCATIONS, CHARGE_ANOMALIES = "allocations", "charge_anomalies"
LATE_CHARGES, LATE_USAGE = "late_charges", "late_usage"
AHEAD_CHARGES, AHEAD_USAGE = "ahead_charges", "ahead_usage"

# An open billing month and the days until it is closed: so long every snapshot tells its rows again.
REMEMBERED_MS = 40 * 24 * HOUR_MS


# What is held in memory of resources' newest windows, in all; a resource of which nothing is held is allocated as a
# whole.
RECENT_BYTES = 128 << 20


# STRING, since it is joined and kept in state; see udfs.assemble.
@udf(result_type="STRING", func_type="pandas", deterministic=False)
def rate_card(offers: pd.Series) -> pd.Series:
    """ARRAY<STRING> of "number of resources, blank, offer" -> the rate card, as JSON."""
    return pd.Series([
        rates.rate_card(
            (int(resources), text) for resources, text in (each.split(" ", 1) for each in of_all)
        )
        for of_all in offers
    ])  # fmt: skip


@dataclass
class _Recent:
    """In memory, of a resource as it was allocated last."""

    windows: attribute.Recent
    latest_ms: int  # of its usage and charges for use
    total: Adds = (0, 0)
    _adds: dict[int, Adds] = field(default_factory=dict)

    def add(self, adds: dict[int, Adds]) -> None:
        """What windows add to the gauges by now."""
        for window_ms, (waiting, micros) in adds.items():
            before = self._adds.get(window_ms, (0, 0))
            self.total = self.total[0] + waiting - before[0], self.total[1] + micros - before[1]
        self._adds |= adds


def _adds(rows: list[dict[str, Any]]) -> Adds:
    """What a window adds to the gauges."""
    return (
        int(any(row["cost_status"] == attribute.PROVISIONAL for row in rows)),
        sum(int(row["allocated_cost"] * 1_000_000) for row in rows if row["otel_service_name"] == UNALLOCATED),
    )


class Attribute(KeyedProcessFunction):
    """Rows (resource_id, kind, event_key, payload) -> allocations of each window of the resource.

    State: the resource's metered usage by consumer and bucket, its charges by key, and the rate card;
    a digest of each window as it was last sent. Usage and charges are rare: a few rows an hour. What is
    sent is a function of that state alone, so that neither order nor repetition of the input shows in
    it. Where windows wait for their usage for a time only, what is older is settled: what is kept of it is the usage of
    each window by service, and its charges, so that a charge restates its windows for as long as a month can be
    corrected. What is older than that is forgotten, but for what later windows need of it: rates, prices, the past of
    the bill, and keys of charges, to know them again. A charge or usage that is ahead of the clock, where the others
    agree with it, is rejected as long as it is.
    """

    def __init__(
        self,
        wait_ms: int | None = None,
        emit_every_ms: int | None = None,
        price_book: tuple[rates.BookPrice, ...] = (),
        idle_policy: str = attribute.PROPORTIONAL,
        skew_ms: int = SKEW_MS,
        corrections_ms: int = 0,
        cost_centers: CostCenters = NO_COST_CENTERS,
    ) -> None:
        """wait_ms: how long a window waits for its usage, in event time, and is priced anew with each change; None =
        for ever. corrections_ms: how long a charge may restate it, if that is longer.
        emit_every_ms: at most so often changed windows are sent, in the engine's time; None = at the
        end of the input. price_book: see rates.load_price_book. idle_policy: one of IDLE_POLICIES. skew_ms: how
        far clocks may differ. cost_centers: the user's."""
        self._wait_ms = wait_ms
        self._emit_every_ms = emit_every_ms
        self._price_book = price_book
        self._idle_policy = idle_policy
        self._skew_ms = skew_ms
        self._cost_centers = cost_centers
        self._corrections_ms = max(corrections_ms, wait_ms or 0)
        self._is_restating = wait_ms is not None and corrections_ms > wait_ms

    def open(self, context: RuntimeContext) -> None:
        self._events: dict[str, Latest[str, Any]] = {
            USAGE: Latest(context, USAGE, Types.STRING(), part=attribute.usage_told),
            CHARGE: Latest(context, CHARGE, Types.STRING()),
            RATES: Latest(context, RATES, Types.STRING()),
        }

        def map_state(name: str, key_type: TypeInformation) -> MapState:
            return context.get_map_state(MapStateDescriptor(name, key_type, Types.PICKLED_BYTE_ARRAY()))

        self._sending = Sent()
        self._sent = {kind: map_state(f"sent_{kind}", Types.LONG()) for kind in (ALLOCATIONS, CHARGE_ANOMALIES)}
        self._is_rebilled = context.get_state(ValueStateDescriptor("is_rebilled", Types.PICKLED_BYTE_ARRAY()))
        # attribute.Progress; only where windows close, as all that follows but the next.
        self._progress = context.get_state(ValueStateDescriptor("progress", Types.PICKLED_BYTE_ARRAY()))
        # kind and event_key of what is rejected as ahead of the clock -> its time.
        self._ahead = map_state("ahead", Types.STRING())
        # kind and event_key -> end of the event, in ms.
        self._ends = map_state("ends", Types.STRING())
        # A charge's key -> end of its period.
        self._counted = map_state("counted", Types.STRING())
        # Settled window -> its usage, see attribute.Settled.
        self._settled = map_state("settled", Types.LONG())
        # Start and end of a period that ended in settled windows -> its charges by event_key, as zlib of JSON.
        self._old = map_state("old_charges", Types.STRING())
        # Periods of late charges whose windows are to be restated.
        self._late = context.get_state(ValueStateDescriptor("late", Types.PICKLED_BYTE_ARRAY()))
        # Closed window -> its bill, as _irregularities reads it.
        self._past = map_state("past", Types.LONG())
        # By resource, of those that were allocated lately.
        self._recent: Bounded[_Recent] = Bounded(RECENT_BYTES)
        self._charges_in = metrics.counter(context, "charges_in")
        self._late_charges = metrics.counter(context, "late_charges")
        self._bills_outstanding = metrics.Gauge(context, "bills_outstanding")
        self._unallocated_micros = metrics.Gauge(context, "unallocated_micros")
        self._outstanding = Outstanding(self._wait_ms)

    def process_element(self, row: Row, context: KeyedProcessFunction.Context) -> Iterator[Row]:
        _, kind, event_key, payload = row
        if kind == PULSE:
            return
        if kind == CALL:
            now_ms = context.timer_service().current_processing_time()
            if self._emit_every_ms is not None and self._sending.is_first_call(context.get_current_key(), now_ms):
                self._is_rebilled.update(True)
                tick(context, self._emit_every_ms)
            return
        context.timer_service().register_event_time_timer(END_OF_INPUT)
        if self._emit_every_ms is not None:
            tick(context, self._emit_every_ms)
        if kind == CHARGE and row.get_row_kind() in (RowKind.INSERT, RowKind.UPDATE_AFTER):
            self._charges_in.inc()
            self._late_charges.inc(0)
        if self._wait_ms is not None and kind == CHARGE:
            charge = orjson.loads(payload)
            progress = self._at()
            late = attribute.late_charge(charge, progress.kept_ms, self._corrections_ms)
            if late is not None:
                if not self._counted.contains(charge["key"]):
                    self._late_charges.inc()
                    yield payload_row(LATE_CHARGES, charge["start_ms"], event_key, late.encode())
                return
            self._counted.put(charge["key"], charge["end_ms"])
            if charge["start_ms"] < progress.closed_ms:
                self._late.update((self._late.value() or set()) | {(charge["start_ms"], charge["end_ms"])})
            if charge["end_ms"] <= progress.closed_ms:
                self._take_late(charge, event_key, payload)
                return
            self._passes(kind, event_key, charge["start_ms"], charge["end_ms"], attribute.tells_time(charge))
        elif self._wait_ms is not None and kind == USAGE:
            windows = orjson.loads(payload)[2]["windows"]
            late = attribute.late_usage(event_key, windows, self._closed_ms(), self._wait_ms)
            if late is not None:
                if row.get_row_kind() in (RowKind.INSERT, RowKind.UPDATE_AFTER):
                    yield payload_row(LATE_USAGE, max(map(int, windows)), event_key, late.encode())
                return
            newest_ms = max(map(int, windows), default=0)
            self._passes(kind, event_key, newest_ms, newest_ms + 1)
        if kind == CHARGE:
            self._is_rebilled.update(True)
            if event_key.endswith(WITHDRAWN_KEY):
                self._events[CHARGE].remove(event_key.removesuffix(WITHDRAWN_KEY))
            elif self._events[CHARGE].get(event_key + WITHDRAWN_KEY) is not None:
                return
        self._events[kind].apply(row.get_row_kind(), event_key, payload)
        resource_id = context.get_current_key()
        held = self._recent.take(resource_id.encode())
        is_taken_back = row.get_row_kind() in (RowKind.UPDATE_BEFORE, RowKind.DELETE)
        if held and kind == USAGE and held.windows.touch(event_key, is_taken_back):
            self._hold(resource_id, held)

    def on_timer(self, timestamp: int, context: KeyedProcessFunction.OnTimerContext) -> Iterator[Row]:
        resource_id = context.get_current_key()
        yield from self._restate(resource_id)
        clock_ms = clock_at(context.timer_service().current_processing_time())
        held = self._recent.take(resource_id.encode())
        changed = held.windows.take(self._events[USAGE].get) if held else None
        if held is None or changed is None or not self._is_recent_alone(held, changed, clock_ms):
            yield from self._allocate_all(resource_id, clock_ms)
        elif changed:
            yield from self._allocate_recent(resource_id, held, changed)
        else:
            self._hold(resource_id, held)

    def _take_late(self, charge: dict[str, Any], event_key: str, payload: str) -> None:
        """A charge, or what takes one back, of settled windows alone."""
        period = f"{charge['start_ms']} {charge['end_ms']}"
        charges = _old_charges(self._old.get(period))
        if event_key.endswith(WITHDRAWN_KEY):
            charges.pop(event_key.removesuffix(WITHDRAWN_KEY), None)
        elif event_key + WITHDRAWN_KEY in charges:
            return
        self._old.put(period, _packed(charges | {event_key: payload}))

    def _restate(self, resource_id: str) -> Iterator[Row]:
        """The settled windows that late charges touched, and those that may show their price as one that changed."""
        late, progress = self._late.value(), self._at()
        if not late:
            return
        self._late.clear()
        touched = {
            window_ms
            for period in late
            for window_ms in price.windows_of(*period)
            if progress.kept_ms <= window_ms < progress.closed_ms
        }
        if not touched:
            return
        ended = {price.window_start(end_ms) for _, end_ms in late}
        after = {ms for end_ms in ended for ms in range(end_ms, end_ms + unit_price.REACH_MS + 1, WINDOW_MS)}
        after = {ms for ms in after if progress.kept_ms <= ms < progress.closed_ms}
        first_ms, end_ms = min(touched), max(touched | after) + WINDOW_MS
        payloads = list(self._events[CHARGE].values())
        for period in list(self._old.keys()):
            start_ms, _, until_ms = period.partition(" ")
            if int(start_ms) < end_ms and int(until_ms) >= first_ms - unit_price.REACH_MS:
                payloads += _old_charges(self._old.get(period)).values()
        stands = price.standing(map(orjson.loads, payloads))
        prices = unit_price.periods(stands)
        bill = attribute.bill_of(unit_price.noted(stands, prices))
        settled = {window_ms: self._settled.get(window_ms) for window_ms in touched | (after & bill.keys())}
        of_use = self._of_use(settled, bill)
        beside = {
            window_ms: self._settled.get(window_ms)
            for window_ms in of_use - settled.keys()
            if progress.kept_ms <= window_ms < progress.closed_ms
        }
        is_open = any(window_ms >= progress.closed_ms for window_ms in of_use)
        told = self._events[USAGE].values() if is_open else ()
        still_open = [attribute.read_told(attribute.usage_told(text)) for text in told]
        rows = attribute.restated(
            resource_id, settled, bill, self._prices(), self._idle_policy, progress.known, beside, still_open
        )
        for window_ms, of_window in rows.items():
            yield payload_row(ALLOCATIONS, window_ms, resource_id, attribute.packed(of_window, self._cost_centers))
        for window_ms in touched:
            if window_ms >= progress.closed_ms - irregular.HISTORY_MS:
                self._past.put(window_ms, [
                    (_period(charge), costs)
                    for charge, costs in bill.get(window_ms, [])
                    if charge["end_ms"] <= progress.closed_ms
                ])  # fmt: skip
        if max(ended) >= progress.closed_ms - unit_price.REACH_MS:
            kept = unit_price.kept(prices, progress.closed_ms)
            progress.known = replace(progress.known, prices=kept)
            self._progress.update(progress)
        self._is_rebilled.update(True)

    @staticmethod
    def _of_use(windows: Collection[int], bill: Mapping[int, attribute.Bill]) -> set[int]:
        """The windows of all periods of what is charged by the unit in some."""
        charges = [charge for ms in windows for charge, _ in bill.get(ms, ()) if charge["per"] == "unit"]
        periods = {(charge["start_ms"], charge["end_ms"]) for charge in charges}
        return {window_ms for period in periods for window_ms in price.windows_of(*period)}

    def _is_recent_alone(self, held: _Recent, changed: set[int], clock_ms: int | None) -> bool:
        """Whether nothing but usage of the windows that changed has to be worked off."""
        held.latest_ms = max([held.latest_ms, *changed])
        is_ahead = clock_ms is not None and held.latest_ms > clock_ms + self._skew_ms
        return not is_ahead and not self._is_rebilled.value() and self._closes_before(clock_ms) is None

    def _allocate_recent(self, resource_id: str, held: _Recent, changed: set[int]) -> Iterator[Row]:
        """Allocate those of the resource's newest windows of which usage changed."""
        found = held.windows.rows(resource_id, changed, self._prices(), self._idle_policy)
        yield from self._changes(ALLOCATIONS, resource_id, found, changed)
        held.add({window_ms: _adds(found.get(window_ms, [])) for window_ms in changed})
        self._show(resource_id, held.total)
        self._hold(resource_id, held)

    def _hold(self, resource_id: str, held: _Recent) -> None:
        self._recent.put(resource_id.encode(), held, held.windows.size)

    def _allocate_all(self, resource_id: str, clock_ms: int | None) -> Iterator[Row]:
        """Allocate all windows that the resource has."""
        told, consumers, charges, is_any_ahead = yield from self._without_ahead(clock_ms)
        resource = attribute.Resource(consumers, charges, self._known())
        found = resource.rows(resource_id, self._prices(), self._idle_policy)
        yield from self._changes(ALLOCATIONS, resource_id, found)
        held = _Recent(resource.recent(told), resource.latest_ms)
        closed_ms = self._closed_ms()
        held.add({window_ms: _adds(rows) for window_ms, rows in found.items() if window_ms >= closed_ms})
        self._show(resource_id, held.total)
        if self._is_rebilled.value():
            self._is_rebilled.clear()
            bill = dict(resource.bill)
            for window_ms, past in self._past.items():
                bill[window_ms] = past + bill.get(window_ms, [])
            found = self._irregularities(resource_id, bill, closed_ms)
            yield from self._changes(CHARGE_ANOMALIES, resource_id, found)
        bound_ms = self._closes_before(clock_ms)
        if bound_ms is not None:
            self._close(bound_ms, resource, clock_ms)
        elif not is_any_ahead:
            self._hold(resource_id, held)

    def _prices(self) -> rates.Prices:
        card = next(iter(self._events[RATES].values()), "[]")
        return rates.Prices(tuple(orjson.loads(card)), self._price_book)

    def _without_ahead(
        self, clock_ms: int | None
    ) -> Generator[Row, None, tuple[dict[str, str], list[attribute.Consumer], list[dict], bool]]:
        """(usage as it was told, consumers and charges of ``attribute.resource_rows`` without what is ahead of the
        clock, whether anything is); rejects of that."""
        charges = {key: orjson.loads(payload) for key, payload in self._events[CHARGE].items()}
        told = {key: attribute.usage_told(text) for key, text in self._events[USAGE].items()}
        usage = {key: attribute.read_told(text, key) for key, text in told.items()}
        last_ms = attribute.last_possible(usage.values(), charges.values(), self._skew_ms, clock_ms, self._newest_ms())
        found: dict[str, tuple[str, int]] = {}  # kind and event key -> reject and its time
        for key, charge in charges.items():
            if attribute.tells_time(charge) and charge["start_ms"] > last_ms:
                found[f"{AHEAD_CHARGES} {key}"] = attribute.ahead_charge(charge, self._skew_ms), charge["start_ms"]
        for key, consumer in usage.items():
            if ahead := {window_ms: used for window_ms, used in consumer.windows.items() if window_ms > last_ms}:
                found[f"{AHEAD_USAGE} {key}"] = attribute.ahead_usage(key, ahead, self._skew_ms), max(ahead)
        yield from self._reject_ahead(found)
        consumers = [
            each._replace(windows={window_ms: used for window_ms, used in each.windows.items() if window_ms <= last_ms})
            for each in usage.values()
        ]
        charged = [charge for key, charge in charges.items() if f"{AHEAD_CHARGES} {key}" not in found]
        return told, consumers, charged, bool(found)

    def _reject_ahead(self, found: dict[str, tuple[str, int]]) -> Iterator[Row]:
        """The rejects that are new, by kind and event key; and those that no longer hold, taken back."""
        for name, time_ms in list(self._ahead.items()):
            if name not in found or found[name][1] != time_ms:
                yield payload_row(*_kind_and_key(name, time_ms), TAKEN_BACK)
                self._ahead.remove(name)
        for name, (text, time_ms) in sorted(found.items()):
            if not self._ahead.contains(name):
                yield payload_row(*_kind_and_key(name, time_ms), text.encode())
                self._ahead.put(name, time_ms)

    def _changes(
        self, kind: str, resource_id: str, found: dict[int, list[dict]], windows: Collection[int] | None = None
    ) -> Iterator[Row]:
        """The open windows that are not as they were last sent; [] where nothing is left of one.

        windows: of which there may be changes; None = of all.
        """
        sent, closed_ms = self._sent[kind], self._closed_ms()
        before = dict(sent.items()) if windows is None else {window_ms: sent.get(window_ms) for window_ms in windows}
        for window_ms in sorted(found.keys() | before.keys()):
            if window_ms < closed_ms:
                continue
            rows = found.get(window_ms, [])
            payload = (
                attribute.packed(rows, self._cost_centers) if kind == ALLOCATIONS else orjson.dumps(rows, default=str)
            )
            digest = self._sending.digest(payload) if rows else None
            if digest != before.get(window_ms):
                yield payload_row(kind, window_ms, resource_id, payload)
                if digest:
                    sent.put(window_ms, digest)
                else:
                    sent.remove(window_ms)

    def _show(self, resource_id: str, adds: Adds) -> None:
        """Set the gauges anew, where this resource adds something else to them than before."""
        self._outstanding.put(resource_id, self._newest_ms(), adds)
        self._bills_outstanding.value, self._unallocated_micros.value = self._outstanding.total

    def _at(self) -> attribute.Progress:
        """How far the resource's event time has come."""
        stored = self._progress.value()
        if isinstance(stored, tuple):  # before version 1 had a number
            newest_ms, closed_ms, known = stored
            return attribute.Progress(Horizon(newest_ms), closed_ms, known)
        return stored or attribute.Progress()

    def _closed_ms(self) -> int:
        return self._at().closed_ms

    def _newest_ms(self) -> int:
        return self._at().horizon.firm_ms

    def _known(self) -> attribute.Known:
        return self._at().known

    def _passes(self, kind: str, event_key: str, newest_ms: int, end_ms: int, tells_time: bool = True) -> None:
        """Note the event time that an event tells, once, and until when it is kept."""
        key = f"{kind} {event_key}"
        kept_ms = self._ends.get(key) or 0
        if end_ms <= kept_ms:
            return
        self._ends.put(key, end_ms)
        if tells_time:
            progress = self._at()
            progress.take(newest_ms, self._skew_ms)
            self._progress.update(progress)

    def _closes_before(self, clock_ms: int | None) -> int | None:
        """The first window that still waits, where others have waited long enough; else None."""
        if self._wait_ms is None:
            return None
        progress = self._at()
        newest_ms = progress.newest(self._skew_ms, clock_ms)
        bound_ms = attribute.closed_before(newest_ms, self._wait_ms)
        return bound_ms if newest_ms >= 0 and bound_ms > progress.closed_ms else None

    def _close(self, bound_ms: int, resource: attribute.Resource, clock_ms: int | None) -> None:
        """Forget the windows before ``bound_ms``; they have been sent."""
        progress = self._at()
        newest_ms = progress.newest(self._skew_ms, clock_ms)
        if self._is_restating:
            for window_ms, packed in resource.settled(progress.closed_ms, bound_ms).items():
                self._settled.put(window_ms, packed)
            kept_ms = max(progress.kept_ms, attribute.kept_from(newest_ms, self._corrections_ms))
        else:
            kept_ms = bound_ms
        is_letting_go = self._is_restating and kept_ms > progress.kept_ms
        progress.closed_ms, progress.kept_ms = bound_ms, kept_ms
        progress.known = resource.known_before(bound_ms)
        self._progress.update(progress)
        past: defaultdict[int, list] = defaultdict(list)
        for charge in resource.charges:
            if charge["end_ms"] <= bound_ms:
                for window_ms, costs in price.cost_by_window(charge).items():
                    past[window_ms].append((_period(charge), costs))
        for window_ms, entries in past.items():
            self._past.put(window_ms, (self._past.get(window_ms) or []) + entries)
        ended: defaultdict[str, dict[str, str]] = defaultdict(dict)
        for key, end_ms in list(self._ends.items()):
            if end_ms <= bound_ms:
                kind, event_key = key.split(" ", 1)
                if self._is_restating and kind == CHARGE and (payload := self._events[kind].get(event_key)) is not None:
                    ended[f"{orjson.loads(payload)['start_ms']} {end_ms}"][event_key] = payload
                self._events[kind].remove(event_key)
                self._ends.remove(key)
        for period, charges in ended.items():
            self._old.put(period, _packed(_old_charges(self._old.get(period)) | charges))
        if is_letting_go:
            for window_ms in list(self._settled.keys()):
                if window_ms < kept_ms:
                    self._settled.remove(window_ms)
            for period in list(self._old.keys()):
                if int(period.partition(" ")[2]) <= kept_ms:
                    self._old.remove(period)
        for state, before_ms in (
            (self._sent[ALLOCATIONS], bound_ms),
            (self._sent[CHARGE_ANOMALIES], bound_ms),
            (self._past, bound_ms - irregular.HISTORY_MS),
        ):
            for window_ms in list(state.keys()):
                if window_ms < before_ms:
                    state.remove(window_ms)
        for key, end_ms in list(self._counted.items()):
            if end_ms < newest_ms - REMEMBERED_MS:
                self._counted.remove(key)

    @staticmethod
    def _irregularities(resource_id: str, bill: dict, first_ms: int) -> dict[int, list[dict]]:
        """Rows of charge_anomalies by window, from the first one that is open."""
        costs: defaultdict[tuple[str, str], defaultdict[int, int]] = defaultdict(lambda: defaultdict(int))
        periods: defaultdict[tuple[str, str], dict[int, tuple[int, int]]] = defaultdict(dict)
        for window_ms, charges in bill.items():
            for charge, by_dimension in charges:
                period = charge["start_ms"], charge["end_ms"]
                for dimension, units in by_dimension.items():
                    key = dimension, charge["currency"]
                    costs[key][window_ms] += units
                    periods[key][window_ms] = min(
                        period,
                        periods[key].get(window_ms, period),
                        key=lambda of: (of[1] - of[0], of[0]),
                    )
        found: defaultdict[int, list[dict]] = defaultdict(list)
        for key, by_window in sorted(costs.items()):
            windows = range(max(first_ms, min(by_window)), max(by_window) + WINDOW_MS, WINDOW_MS)
            for row in irregular.charge_anomalies(resource_id, *key, by_window, periods[key], windows):
                found[row["window_start"]].append(row)
        return found


def _packed(charges: dict[str, str]) -> bytes:
    return zlib.compress(orjson.dumps(charges), 1)


def _old_charges(packed: bytes | None) -> dict[str, str]:
    """Payloads by event_key of ``_packed``."""
    return orjson.loads(zlib.decompress(packed)) if packed else {}


def _period(charge: Mapping[str, Any]) -> dict[str, Any]:
    """What of a charge the past of a bill keeps."""
    return {name: charge[name] for name in ("currency", "start_ms", "end_ms")}


def _kind_and_key(name: str, time_ms: int) -> tuple[str, int, str]:
    """The first three fields of a row."""
    kind, event_key = name.split(" ", 1)
    return kind, time_ms, event_key

"""attribute: all of one billed resource -> its rows of cost_allocations.

Equation (1) of docs/interface.md: a resource's cost in W goes to the services by their share of its
usage. Grain: one row per (window, resource, dimension, service, currency). Per (window, resource,
dimension, currency) the rows' allocated_cost sums to what was charged, to the last decimal.

A user is a service, or "" where it is unknown; of a group of machines that is billed as one the service, its node and
the node's cores (``user_of``). Usage of a window is {dimension: {user: u}}, 0.0 where measured and unused; the bill of
a window is [(charge, {dimension: units of 1e-12}), ...], a charge once each, with the parts that price.cost_by_window
gives for that window. All results are functions of the sets: no order of services, windows or charges makes a
difference.
"""

from __future__ import annotations

import math
import zlib
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Context, Decimal
from fractions import Fraction
from itertools import starmap
from typing import Any, ClassVar, NamedTuple

import orjson

from udfs.pure import unit_price
from udfs.pure.cost_center import NO_COST_CENTERS, CostCenters, of_tags, one_of
from udfs.pure.dimensions import DIMENSIONS
from udfs.pure.focus_record import record_of
from udfs.pure.horizon import Horizon, agreed
from udfs.pure.names import RESERVED
from udfs.pure.price import (
    CORRECTION,
    EXACT,
    apportion,
    cost_by_window,
    integer_weights,
    overlap,
    period_length,
    standing,
    to_decimal,
    to_units,
    utc,
    windows_of,
)
from udfs.pure.rates import PRICE_BOOK, RESOURCE, Prices, capacity
from udfs.pure.reject import Code, reject
from udfs.pure.versioned import Versioned
from udfs.pure.windows import (
    HOUR_MS,
    IDLE,
    NO_RESOURCE,
    SYSTEM,
    UNALLOCATED,
    USAGE_BUCKET_MS,
    WINDOW_MS,
    window_start,
)

Usage = Mapping[str, Mapping[str, float]]
Bill = Sequence[tuple[Mapping[str, Any], Mapping[str, int]]]
Row = dict[str, Any]


class Consumer(NamedTuple):
    """What one of those that used a resource used of it.

    windows: {window_start_ms: {dimension: u}}. cost_center: as its telemetry says; "" if it doesn't.
    """

    user: str
    windows: Mapping[Any, Mapping[str, float]]
    cost_center: str = ""


# Between the parts of a user's name, as between those of a consumer's key (otlp.collect_metrics): of that five, then
# the node's name and cores.
_SEPARATOR, _CONSUMER_PARTS = "\x1f", 5

# How the cost of a group of machines that is billed as one is divided over its nodes; over all of them by use where
# not all of its use tells its node.
BY_CORES, EVENLY, BY_USE = "cores", "even", "use"

# What no usage metric measures (support, licences, taxes of a resource).
OTHER = "other"

PROVISIONAL, BILLED, CORRECTED = "provisional", "billed", "corrected"

# Who bears what a resource costs beyond its use, where its capacity is known: the services by their
# usage, as equation (1) has it; nobody, as a row of its own; or the services in equal parts.
PROPORTIONAL, NONE, EVEN = "proportional", "none", "even"
IDLE_POLICIES = (PROPORTIONAL, NONE, EVEN)

# Of whom nobody knows who it is. The cluster's own use has a name, given by the meter alone.
NAMELESS = frozenset({"", *RESERVED}) - {SYSTEM}

# How the price of one more unit of usage is known. See ``_price_of_more``.
METERED, POOL, CAPACITY, LIST, USED_SHARE = "metered", "pool", "capacity", "list", "used_share"
# Those under which more use is more money; elsewhere a machine is paid for whether it is used or not.
GROWING = frozenset({METERED, POOL})

# No autoscaler adds machines to a pool that is emptier than that in all dimensions.
_BUSY = Fraction(1, 2)

# A unit rate is a quotient; as many digits as DECIMAL(28, 12) has, so that a rate times a usage
# is good to the last decimal.
RATE_DIGITS = Context(prec=28)


@dataclass(frozen=True)
class Known(Versioned):
    """What a resource's forgotten windows still say.

    metered: dimensions with telemetry. rates: of ``Past.rates`` by dimension, as of their end. paid: of ``Past.paid``
    by dimension, for the windows that come after them. prices: of ``unit_price.kept``, for the charges that come after.
    used: of ``Used.kept``, for the charges that began before their end.
    """

    metered: frozenset[str] = frozenset()
    rates: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    paid: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    prices: Sequence[tuple[Any, ...]] = ()
    used: Mapping[int, Mapping[str, float]] = field(default_factory=dict)


@dataclass
class Progress(Versioned):
    """How far the event time of a resource has come, where windows close. Times in ms.

    A charge or a point of usage that is ahead of the others moves nothing on, and a charge's end never does: a month's
    fee would be the end of the month.
    """

    STATE_VERSION: ClassVar[int] = 2

    horizon: Horizon = field(default_factory=Horizon)
    closed_ms: int = 0  # start of the first open window
    known: Known = field(default_factory=Known)
    kept_ms: int = 0  # start of the first window that a charge may still restate

    @classmethod
    def migrated(cls, version: int, state: dict[str, Any]) -> dict[str, Any]:
        """Version 1 kept nothing of a closed window."""
        return state if version > 1 else state | {"kept_ms": state["closed_ms"]}

    def take(self, time_ms: int, skew_ms: int) -> None:
        """Something of a time came that hadn't before."""
        self.horizon.take(time_ms, _slack(skew_ms))

    def newest(self, skew_ms: int, clock_ms: int | None) -> int:
        """The latest time that is believed; it stays. Never later than the clock, where there is one."""
        newest_ms = self.horizon.newest(_slack(skew_ms), clock_ms)
        self.horizon.confirm(newest_ms, _slack(skew_ms))
        return newest_ms if clock_ms is None else min(newest_ms, clock_ms + skew_ms)


def _slack(skew_ms: int) -> int:
    """By how much the next time of a resource may be later than the last, where nothing is missing: usage is told by
    window."""
    return WINDOW_MS + skew_ms


def tells_time(charge: Mapping[str, Any]) -> bool:
    """Whether a charge is for use that was: commitments and fees may be charged ahead."""
    return charge.get("charge_category") in (None, "Usage")


def last_possible(
    consumers: Iterable[Consumer],
    charges: Iterable[Mapping[str, Any]],
    skew_ms: int,
    clock_ms: int | None,
    known_ms: int = -1,
) -> float:
    """The latest time (ms) that use of a resource, or a charge for it, may have: later, its clock is wrong.

    The engine's clock says so, if the resource's other times, or ``known_ms``, agree with it; without a clock, or where
    it is behind them (a simulated future), nothing is too late. Old data read again has no clock to be compared with:
    there what is ahead counts, and moves nothing on. A function of the set of events and the clock.
    """
    if clock_ms is None:
        return math.inf
    votes: dict[int, int] = defaultdict(int)
    for consumer in consumers:
        votes[max(map(int, consumer.windows), default=0)] += 1
    for charge in charges:
        if tells_time(charge):
            votes[charge["start_ms"]] += 1
    believed_ms = max(known_ms, agreed(votes, _slack(skew_ms), clock_ms, known_ms))
    return clock_ms + skew_ms if 0 <= believed_ms <= clock_ms + skew_ms else math.inf


def ahead_charge(charge: Mapping[str, Any], skew_ms: int) -> str:
    """A reject of a charge for use that has not been yet."""
    reason = (
        f"a charge for use at {utc(charge['start_ms'])}, more than {skew_ms // 60_000} min ahead of the clock: correct"
        " its ChargePeriodStart, or deliver it when that has come"
    )
    return reject("focus_charges", reason, record_of(charge), charge["start_ms"], code=Code.AHEAD)


def ahead_usage(consumer: str, windows: Mapping[Any, Mapping[str, float]], skew_ms: int) -> str:
    """A reject of usage in windows that have not begun yet."""
    reason = (
        f"usage more than {skew_ms // 60_000} min ahead of the clock: correct the clock of the host, or set clock.skew"
        " higher"
    )
    record = {"consumer": consumer.split(_SEPARATOR), "windows": windows}
    return reject("otlp_metrics", reason, record, max(map(int, windows)), code=Code.AHEAD)


def sum_usage(parts: Iterable[tuple[str, str, float]]) -> dict[str, dict[str, float]]:
    """Usage of a resource in W from its consumers' (dimension, service or "", u), in any order."""
    amounts: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for dimension, service, used in parts:
        amounts[dimension][service].append(used)
    return {
        dimension: {service: math.fsum(used) for service, used in sorted(services.items())}
        for dimension, services in sorted(amounts.items())
    }


def resource_rows(
    resource_id: str,
    consumers: Iterable[tuple],
    charges: Iterable[Mapping[str, Any]],
    prices: Prices | None = None,
    idle_policy: str = PROPORTIONAL,
    known: Known | None = None,
) -> dict[int, list[Row]]:
    """Rows of cost_allocations of one resource, by window, ascending; windows without rows are out.

    consumers: fields of ``Consumer``. charges: all that were delivered, whether they stand or not. prices: what use
        may cost where the resource's own bill doesn't say. known: what windows that are forgotten still say.
    """
    return Resource(list(starmap(Consumer, consumers)), list(charges), known).rows(resource_id, prices, idle_policy)


class Resource:
    """All that is known of a billed resource."""

    def __init__(
        self,
        consumers: Collection[Consumer],
        charges: Sequence[Mapping[str, Any]],
        known: Known | None = None,
    ) -> None:
        """As of ``resource_rows``."""
        self._known = known or Known()
        stands = standing(charges)
        self._prices = unit_price.periods(stands, self._known.prices)
        self._delivered, self.charges = charges, unit_price.noted(stands, self._prices)
        self._usage, self.bill = usage_of(consumers), bill_of(self.charges)
        self._used = Used(self._usage, self._known.used)
        self._past = Past(self._usage, self.bill, self._known.paid, self._used)
        self._cost_centers = cost_centers_of(consumers)
        self._metered = self._known.metered | {dimension for of in self._usage.values() for dimension in of}

    def rows(
        self, resource_id: str, prices: Prices | None = None, idle_policy: str = PROPORTIONAL
    ) -> dict[int, list[Row]]:
        """See ``resource_rows``."""
        rows = {
            window_ms: allocate_window(
                resource_id, window_ms, self._usage, self.bill, self._metered, prices, idle_policy, self._known,
                self._past, self._cost_centers, self._used,
            )
            for window_ms in sorted(self._usage.keys() | self.bill.keys())
        }  # fmt: skip
        return {window_ms: of_window for window_ms, of_window in rows.items() if of_window}

    @property
    def latest_ms(self) -> int:
        """The latest time of usage, or of a charge for use; -1 = there is none."""
        charged = (charge["start_ms"] for charge in self._delivered if tells_time(charge))
        return max([-1, *self._usage, *charged])

    def known_before(self, closed_ms: int) -> Known:
        """What is still known once the windows before ``closed_ms`` are forgotten."""
        return Known(
            frozenset(self._metered),
            self._rates(closed_ms),
            self._paid(closed_ms),
            unit_price.kept(self._prices, closed_ms),
            self._used.kept(self.charges, closed_ms),
        )

    def settled(self, from_ms: int, before_ms: int) -> dict[int, bytes]:
        """Windows from ``from_ms`` and before ``before_ms`` in which something was used, as ``Settled.read`` reads
        them."""
        return {
            window_ms: Settled(
                used,
                {each: self._past.rates(window_ms, each) for each in self._unbilled(window_ms)},
                {each: sorted(self._past.skus(window_ms, each)) for each in self._unbilled(window_ms)},
                self._past.is_billed,
                {dimension: paid for dimension, paid in self._paid(window_ms).items() if paid},
                self._cost_centers.get(window_ms, {}),
            ).packed()
            for window_ms, used in self._usage.items()
            if from_ms <= window_ms < before_ms
        }

    def _unbilled(self, window_ms: int) -> list[str]:
        """Dimensions that have usage in a window and no charge."""
        billed = {dimension for _, parts in self.bill.get(window_ms, ()) for dimension in parts}
        return sorted(self._usage[window_ms].keys() - billed)

    def recent(self, told: Mapping[str, str]) -> Recent:
        """Its newest windows, but those in which anything is charged by the unit: their usage says what a unit costs.

        told: all of its usage by consumer and bucket, see ``usage_told``.
        """
        newest_ms = max(self._usage, default=0)
        windows = {
            window_ms: Priced(
                self.bill.get(window_ms, []),
                self._rates(window_ms),
                {dimension: self._past.skus(window_ms, dimension) for dimension in self._metered},
                self._paid(window_ms),
            )
            for window_ms in range(newest_ms - RECENT_MS, newest_ms + RECENT_MS, WINDOW_MS)
            if all(charge["per"] == "hour" for charge, _ in self.bill.get(window_ms, []))
        }
        recent = {
            key: text for key, text in told.items() if max(read_told(text)[1], default=-1) >= newest_ms - RECENT_MS
        }
        return Recent(frozenset(self._metered), windows, self._past.is_billed, recent)

    def _rates(self, before_ms: int) -> dict[str, Mapping[str, Mapping[str, Any]]]:
        return {
            dimension: self._past.rates(before_ms, dimension) or self._known.rates.get(dimension, {})
            for dimension in sorted(self._metered)
        }

    def _paid(self, window_ms: int) -> dict[str, Mapping[str, str]]:
        return {dimension: self._past.paid(window_ms, dimension) for dimension in DIMENSIONS}


class Settled(NamedTuple):
    """A window whose usage changes no more: what its rows depend on beside its bill, which may.

    usage: of the window. rates, skus: by dimension, of those that have no charge, as of when it was settled. is_billed:
    whether the resource has had any bill by then. paid: by dimension, for before the window. cost_centers: by service.
    """

    usage: Usage
    rates_by_dimension: Mapping[str, Mapping[str, Mapping[str, Any]]]
    skus_by_dimension: Mapping[str, Sequence[str]]
    is_billed: bool
    paid_by_dimension: Mapping[str, Mapping[str, str]]
    cost_centers: Mapping[str, str] = {}

    def packed(self) -> bytes:
        """For ``read``."""
        return zlib.compress(orjson.dumps(list(self)), 1)

    @classmethod
    def read(cls, packed: bytes | None) -> Settled:
        """None = nothing was used."""
        return cls(*orjson.loads(zlib.decompress(packed))) if packed else cls({}, {}, {}, True, {})

    def rates(self, window_start_ms: int, dimension: str) -> Mapping[str, Mapping[str, Any]]:
        """As of ``Past``."""
        return self.rates_by_dimension.get(dimension, {})

    def skus(self, window_start_ms: int, dimension: str) -> set[str]:
        """As of ``Past``."""
        return set(self.skus_by_dimension.get(dimension, ()))

    def paid(self, window_start_ms: int, dimension: str) -> Mapping[str, str]:
        """As of ``Past``."""
        return self.paid_by_dimension.get(dimension, {})


def restated(
    resource_id: str,
    settled: Mapping[int, bytes | None],
    bill: Mapping[int, Bill],
    prices: Prices,
    idle_policy: str,
    known: Known,
    beside: Mapping[int, bytes | None] | None = None,
    consumers: Iterable[Consumer] = (),
) -> dict[int, list[Row]]:
    """Rows of settled windows, by what is charged for them by now; [] where nothing is left of one.

    settled: window -> what ``Resource.settled`` gave, None where nothing was used. bill: of the same windows, of the
        charges that stand. beside, consumers: of the other windows of these charges' periods, those that are settled
        and those that are open. The rest as of ``resource_rows``.
    """
    read = {window_ms: Settled.read(packed) for window_ms, packed in sorted(settled.items())}
    others = {window_ms: Settled.read(packed).usage for window_ms, packed in (beside or {}).items()}
    used = Used(usage_of(consumers) | others | {window_ms: of.usage for window_ms, of in read.items()})
    return {
        window_ms: allocate_window(
            resource_id, window_ms, {window_ms: of.usage}, bill, known.metered | of.usage.keys(), prices, idle_policy,
            known, of, {window_ms: of.cost_centers}, used,
        )
        for window_ms, of in read.items()
    }  # fmt: skip


# So long usage still changes, as a rule.
RECENT_MS = 2 * USAGE_BUCKET_MS


class Priced(NamedTuple):
    """Of a window: its bill, and by dimension the rates by currency, SKUs, and capacity before it."""

    bill: Bill
    rates: Mapping[str, Mapping[str, Mapping[str, Any]]]
    skus: Mapping[str, set[str]]
    paid: Mapping[str, Mapping[str, str]]


@dataclass
class Recent:
    """The newest windows of a resource, some of them yet to come, and all that their rows depend on.

    Where the usage of one changes, its rows change and no others. So a change of usage takes no longer the more windows
    wait for their bill.
    """

    _metered: frozenset[str]
    _windows: Mapping[int, Priced]
    is_billed: bool
    _told: dict[str, str]  # consumer and bucket -> its usage, see ``usage_told``
    _touched: set[str] = field(default_factory=set)  # consumers and buckets

    def touch(self, key: str, is_taken_back: bool) -> bool:
        """Something that a consumer and bucket told came, or is taken back.

        returns: whether that is of the newest windows; else this is of no use any more.
        """
        self._touched.add(key)
        return key in self._told or not is_taken_back

    def take(self, told: Callable[[str], str | None]) -> set[int] | None:
        """Take in all that was touched. told: by consumer and bucket, None where nothing is told any more.

        returns: the windows whose usage changed. None where more than their own rows may have changed by it: the whole
            resource is to be allocated anew, and this is of no use any more.
        """
        changed: set[int] = set()
        for key in self._touched:
            before, after = self._told.get(key), told(key)
            if after == before:
                continue
            if after is None:
                return None
            was, now = read_told(before or _NOTHING), read_told(after)
            is_another = (was.user, was.cost_center) != (now.user, now.cost_center)
            for window_ms in was.windows.keys() | now.windows.keys():
                used = now.windows.get(window_ms, {})
                if not was.windows.get(window_ms, {}).keys() <= used.keys() <= self._metered:
                    return None
                if is_another or was.windows.get(window_ms) != used:
                    changed.add(window_ms)
            self._told[key] = after
        self._touched.clear()
        return changed if changed <= self._windows.keys() else None

    def rows(
        self, resource_id: str, windows: Collection[int], prices: Prices, idle_policy: str
    ) -> dict[int, list[Row]]:
        """Rows of some of the windows, as of ``resource_rows``."""
        consumers = [
            each._replace(windows={ms: each.windows[ms] for ms in windows if ms in each.windows})
            for each in (read_told(text, key) for key, text in self._told.items())
        ]
        usage, cost_centers = usage_of(consumers), cost_centers_of(consumers)
        rows = {
            window_ms: allocate_window(
                resource_id, window_ms, usage, {window_ms: self._windows[window_ms].bill}, self._metered, prices,
                idle_policy, past=self, cost_centers=cost_centers,
            )
            for window_ms in usage
        }  # fmt: skip
        return {window_ms: of_window for window_ms, of_window in rows.items() if of_window}

    def rates(self, window_start_ms: int, dimension: str) -> Mapping[str, Mapping[str, Any]]:
        """As of ``Past``."""
        return self._windows[window_start_ms].rates[dimension]

    def skus(self, window_start_ms: int, dimension: str) -> set[str]:
        """As of ``Past``."""
        return self._windows[window_start_ms].skus[dimension]

    def paid(self, window_start_ms: int, dimension: str) -> Mapping[str, str]:
        """As of ``Past``."""
        return self._windows[window_start_ms].paid.get(dimension, {})

    @property
    def size(self) -> int:
        """About how many bytes it takes."""
        told = sum(200 + len(key) + len(text) for key, text in self._told.items())
        return told + 400 * len(self._windows) * (1 + len(self._metered))


_NOTHING = '["","",{"windows":{}}]'


def usage_told(text: str) -> str:
    """The part of what ``udfs.meter.own`` tells that allocation needs: JSON [service or "", pod, {"windows": ...}, and
    the cost centre if there is one].

    Its minutes, of which there are thirty to a window, are the detector's.
    """
    service, pod, metered, *cost_center = orjson.loads(text)
    if metered.keys() == {"windows"}:
        return text
    told = [service, pod, {"windows": metered["windows"]}, *cost_center]
    return orjson.dumps(told, option=orjson.OPT_SORT_KEYS).decode()


def read_told(text: str, consumer: str = "") -> Consumer:
    """The consumer of ``usage_told``. consumer: its key, as of ``otlp.collect_metrics``."""
    service, _, metered, *cost_center = orjson.loads(text)
    windows = {int(window_ms): used for window_ms, used in metered["windows"].items()}
    return Consumer(user_of(service, consumer), windows, *cost_center)


def user_of(service: str, consumer: str) -> str:
    """A service, or "", with the node and its cores that a consumer's key names, if it does."""
    node = consumer.split(_SEPARATOR)[_CONSUMER_PARTS:]
    return _SEPARATOR.join((service, *node))


def _service(user: str) -> str:
    """Of ``user_of``."""
    return user.partition(_SEPARATOR)[0]


def usage_of(consumers: Iterable[Consumer]) -> dict[int, dict[str, dict[str, float]]]:
    """{window_start_ms: usage} of consumers, in any order."""
    parts: dict[int, list[tuple[str, str, float]]] = defaultdict(list)
    for consumer in consumers:
        for window_ms, by_dimension in consumer.windows.items():
            parts[int(window_ms)] += [(dimension, consumer.user, used) for dimension, used in by_dimension.items()]
    return {window_ms: sum_usage(part) for window_ms, part in parts.items()}


def cost_centers_of(consumers: Iterable[Consumer]) -> dict[int, dict[str, str]]:
    """{window_start_ms: {service: cost centre}}, where all consumers of a service that say one in W say the same."""
    told: dict[int, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for consumer in consumers:
        service = _service(consumer.user)
        if consumer.cost_center and service:
            for window_ms in consumer.windows:
                told[int(window_ms)][service].add(consumer.cost_center)
    return {
        window_ms: {service: one for service, found in sorted(of.items()) if (one := one_of(found))}
        for window_ms, of in told.items()
    }


def bill_of(charges: Iterable[Mapping[str, Any]]) -> dict[int, list[tuple[Mapping, dict[str, int]]]]:
    """{window_start_ms: [(charge, its cost there by dimension), ...]}."""
    bill: dict[int, list[tuple[Mapping, dict[str, int]]]] = defaultdict(list)
    for charge in charges:
        for window_ms, costs in cost_by_window(charge).items():
            bill[window_ms].append((charge, costs))
    return dict(bill)


def allocate_window(
    resource_id: str,
    window_start_ms: int,
    usage: Mapping[int, Usage],
    bill: Mapping[int, Bill],
    metered_dimensions: Collection[str],
    prices: Prices | None = None,
    idle_policy: str = PROPORTIONAL,
    known: Known | None = None,
    past: Past | Recent | Settled | None = None,
    cost_centers: Mapping[int, Mapping[str, str]] | None = None,
    of_resource: Used | None = None,
) -> list[Row]:
    """Rows of cost_allocations of one resource and window, from all that is known of the resource.

    usage, bill: {window_start_ms: ...}; bill: of the charges that stand. past: of these, for who asks for more than one
        window, or what is kept of it. cost_centers: of ``cost_centers_of``. of_resource: the usage of all of the
        resource's windows that charges of this one are for; None = that of ``usage``. See ``allocate``.

    A window's rows change with its own usage and bill; with ``metered_dimensions``; with what was paid for, and at
    which price, before its charges; with the usage of the whole periods of what is charged by the unit; with ``prices``
    where nobody tells the size of what it is charged for; and, as long as it has usage and no bill, with anything
    earlier, from which it takes its rate, and with ``prices``.
    """
    charges = bill.get(window_start_ms, ())
    used = usage.get(window_start_ms, {})
    past = past or Past(usage, bill, known.paid if known else None)
    billed = {dimension for _, parts in charges for dimension in parts}
    rates: dict[str, Mapping[str, Mapping[str, Any]]] = {}
    for dimension in used:
        if dimension in billed or dimension == OTHER:
            continue
        rates[dimension] = past.rates(window_start_ms, dimension)
        if not rates[dimension] and known:
            rates[dimension] = known.rates.get(dimension, {})
        if not rates[dimension] and prices:
            skus = past.skus(window_start_ms, dimension)
            rates[dimension] = prices.rates(resource_id, dimension, window_start_ms, skus, past.is_billed)
    before = {dimension: past.paid(window_start_ms, dimension) for dimension in billed}
    return allocate(
        resource_id, window_start_ms, used, charges, metered_dimensions, rates, idle_policy, before, prices,
        (cost_centers or {}).get(window_start_ms), of_resource or Used(usage),
    )  # fmt: skip


class Used:
    """How much of a resource was used, by whomever, in the windows of charge periods."""

    def __init__(self, usage: Mapping[int, Usage], known: Mapping[int, Mapping[str, float]] | None = None) -> None:
        """usage: {window_start_ms: ...}. known: of ``kept``, of windows that ``usage`` lacks."""
        self._usage, self._known = usage, known or {}
        self._of_period: dict[tuple[str, int, int], tuple[float, int]] = {}

    def within(self, dimension: str, start_ms: int, end_ms: int) -> tuple[float, int]:
        """(usage in a charge period, for how much of it there is telemetry in ms).

        Only windows with telemetry count, on both sides of the quotient: where a stream begins in the middle of a
        charge period, half the usage doesn't stand against the whole cost.
        """
        key = dimension, start_ms, end_ms
        if key not in self._of_period:
            parts = [
                (used, part)
                for window_ms, part in windows_of(start_ms, end_ms).items()
                if (used := self._in(window_ms, dimension)) is not None
            ]
            # A period of no length is a whole window's.
            amount = math.fsum(used * (part / WINDOW_MS if end_ms > start_ms else 1) for used, part in parts)
            self._of_period[key] = amount, sum(part for _, part in parts)
        return self._of_period[key]

    def kept(self, charges: Iterable[Mapping[str, Any]], before_ms: int) -> dict[int, dict[str, float]]:
        """{window_start_ms: {dimension: usage}} of windows before ``before_ms``: as far back as the periods of what is
        charged by the unit from then on reach, and a day, for the charges that are still to come."""
        open_ms = (of["start_ms"] for of in charges if of["per"] == "unit" and of["end_ms"] > before_ms)
        from_ms = min([before_ms - 24 * HOUR_MS, *map(window_start, open_ms)])
        found: dict[int, dict[str, float]] = {}
        for window_ms in sorted(self._usage.keys() | self._known.keys()):
            if from_ms <= window_ms < before_ms:
                dimensions = self._usage.get(window_ms, self._known.get(window_ms, {}))
                found[window_ms] = {dimension: self._in(window_ms, dimension) or 0.0 for dimension in dimensions}
        return found

    def _in(self, window_ms: int, dimension: str) -> float | None:
        """None where there is no telemetry."""
        services = self._usage.get(window_ms, {}).get(dimension)
        return self._known.get(window_ms, {}).get(dimension) if services is None else math.fsum(services.values())


class Past:
    """What a resource's own usage and bill say of windows whose bill is not there yet; each window of the bill is read
    once, however many ask."""

    def __init__(
        self,
        usage: Mapping[int, Usage],
        bill: Mapping[int, Bill],
        known_paid: Mapping[str, Mapping[str, str]] | None = None,
        used: Used | None = None,
    ) -> None:
        """usage, bill: {window_start_ms: ...}; bill: of the charges that stand. known_paid: of ``Known``. used: None =
        that of ``usage``."""
        self._usage, self._bill, self._known_paid = usage, bill, known_paid or {}
        self.is_billed = bool(bill)
        self._billed: dict[str, list[int]] = defaultdict(list)  # windows that charge a dimension, ascending
        for window_ms in sorted(bill):
            for dimension in {dimension for _, parts in bill[window_ms] for dimension in parts}:
                self._billed[dimension].append(window_ms)
        # By dimension and place among these windows: the rates of the nearest one, itself or before, that gives some.
        self._rates: dict[tuple[str, int], dict[str, dict[str, Any]]] = {}
        self._used = used or Used(usage)
        # By dimension: windows that name SKUs, ascending, and which.
        self._skus: dict[str, tuple[list[int], list[set[str]]]] = {}

    def rates(self, window_start_ms: int, dimension: str) -> dict[str, dict[str, Any]]:
        """What the latest earlier bill says that this dimension costs, by currency; {} if none does.

        returns: {currency: {"source": "resource", "cost_per_window": decimal text, of what is charged by
            the hour, "cost_per_usage": decimal text, of what is charged by the unit, or None,
            "capacity": text of what that window paid for where all is charged by the hour, else None,
            "window_start": ISO time of the window it is taken from, "charges": as in ``allocate``}}

        Latest is meant in event time: the window before W, nearest to it, whose bill gives a rate. It
        doesn't where the sum is a credit, or where something is charged by the unit and nothing was
        used. A unit's cost is that of the whole charge period over the usage of it: within an hour, or
        a day, the bill doesn't tell when the units were used.
        """
        windows = self._billed.get(dimension, [])
        place = bisect_left(windows, window_start_ms) - 1
        passed: list[int] = []
        rates: dict[str, dict[str, Any]] = {}
        while place >= 0 and not rates:
            if (dimension, place) in self._rates:
                rates = self._rates[dimension, place]
                break
            rates = self._rates_at(windows[place], dimension)
            passed.append(place)
            place -= 1
        self._rates |= {(dimension, place): rates for place in passed}
        return rates

    def _rates_at(self, rated_ms: int, dimension: str) -> dict[str, dict[str, Any]]:
        """Rates by currency that the bill of one window gives."""
        by_currency: dict[str, list[tuple[Mapping[str, Any], int]]] = defaultdict(list)
        for charge, parts in sorted(self._bill[rated_ms], key=lambda entry: entry[0]["key"]):
            if dimension in parts:
                by_currency[charge["currency"]].append((charge, parts[dimension]))
        rates = {currency: self._rate(rated_ms, dimension, entries) for currency, entries in by_currency.items()}
        return {currency: rate for currency, rate in sorted(rates.items()) if rate}

    def _rate(
        self, rated_ms: int, dimension: str, entries: Sequence[tuple[Mapping[str, Any], int]]
    ) -> dict[str, Any] | None:
        """Rate of one currency from the charges [(charge, units in the window ``rated_ms``), ...]."""
        if sum(cost for _, cost in entries) < 0:
            return None
        flat = sum(cost for charge, cost in entries if charge["per"] == "hour")
        by_unit = [(charge, cost) for charge, cost in entries if charge["per"] == "unit"]
        per_usage = _price_of_use(rated_ms, dimension, by_unit, self._used)
        if per_usage is None:
            return None
        charges = [charge for charge, _ in entries]
        paid = _capacity(rated_ms, dimension, charges)
        pools = _pool_prices(rated_ms, self._usage.get(rated_ms, {}), self._bill[rated_ms], self.paid)
        pool = pools.get((dimension, charges[0]["currency"]))
        basis, marginal = _price_of_more(sum(cost for _, cost in entries), dimension, charges, paid, pool)
        return {
            "source": RESOURCE,
            "cost_per_window": _text(to_decimal(flat)),
            "cost_per_usage": _text(per_usage) if by_unit else None,
            "capacity": None if paid is None or by_unit else str(paid),
            "marginal_basis": basis,
            "marginal_rate": None if marginal is None else _text(marginal),
            "window_start": utc(rated_ms),
            "charges": [_explain(charge, cost) for charge, cost in entries],
        }

    def paid(self, window_start_ms: int, dimension: str) -> dict[str, str]:
        """What was paid for before the charges for machines that W is part of began, by the latest bill before.

        returns: {currency: text of the usage that one window of it paid for}; {} where nobody knows.
        """
        began = (
            charge["start_ms"]
            for charge, parts in self._bill.get(window_start_ms, ())
            if dimension in parts and charge.get("machine")
        )
        windows = self._billed.get(dimension, [])
        place = bisect_left(windows, window_start(min(began, default=window_start_ms))) - 1
        if place < 0:
            return dict(self._known_paid.get(dimension, {}))
        charged: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
        for charge, parts in self._bill[windows[place]]:
            if dimension in parts:
                charged[charge["currency"]].append(charge)
        paid = {currency: _capacity(windows[place], dimension, of) for currency, of in sorted(charged.items())}
        return {currency: str(amount) for currency, amount in paid.items() if amount is not None}

    def skus(self, window_start_ms: int, dimension: str) -> set[str]:
        """What the resource is, by the bill of the window nearest to W that charges its usage."""
        if dimension not in self._skus:
            named = [(ms, found) for ms in self._billed.get(dimension, []) if (found := self._skus_at(ms, dimension))]
            self._skus[dimension] = [ms for ms, _ in named], [found for _, found in named]
        windows, skus = self._skus[dimension]
        place = bisect_left(windows, window_start_ms)
        nearest = min(
            range(max(place - 1, 0), min(place + 1, len(windows))),
            key=lambda at: (abs(windows[at] - window_start_ms), at),
            default=None,
        )
        return set() if nearest is None else skus[nearest]

    def _skus_at(self, window_ms: int, dimension: str) -> set[str]:
        return {
            charge["sku_id"]
            for charge, parts in self._bill[window_ms]
            if dimension in parts
            and charge["sku_id"] is not None
            and charge["charge_class"] != CORRECTION
            and charge.get("charge_category") in (None, "Usage")
        }


def allocate(
    resource_id: str,
    window_start_ms: int,
    usage: Usage,
    charges: Bill,
    metered_dimensions: Collection[str],
    rates: Mapping[str, Mapping[str, Mapping[str, Any]]],
    idle_policy: str = PROPORTIONAL,
    before: Mapping[str, Mapping[str, str]] | None = None,
    prices: Prices | None = None,
    cost_centers: Mapping[str, str] | None = None,
    of_resource: Used | None = None,
) -> list[Row]:
    """Rows of cost_allocations of one resource and window.

    usage, charges: of this window. metered_dimensions: those of which this resource has usage
        telemetry in any window. rates: {dimension: {currency: rate}} of ``Past.rates`` or
        ``Prices.rates``, for the dimensions that have usage in this window and no charge.
    idle_policy: one of IDLE_POLICIES. before: {dimension: {currency: capacity}} of ``Past.paid``. prices: list prices,
        for machines of unknown size. cost_centers: {service: cost centre} as its telemetry says; where it says
        none the tags of the charges do. of_resource: see ``allocate_window``.
    returns: sorted by (dimension, billing_currency, otel_service_name); window_start in ms,
        resource_cost and allocated_cost Decimal with 12 places; usage and total_usage None where
        no telemetry exists. Beside the table's columns, for the explanation: ``charges`` (those
        that make up resource_cost, money and times as text; with ``price_change`` where the unit price of one changed
        in W or shortly before, see ``unit_price``), ``rate`` (of a row without charges, else
        None), ``charge_period_end`` (ms, the latest of the charges; None without charges),
        ``idle_policy``, ``capacity`` (what is paid for in W, in units of usage, None if unknown),
        ``idle_share`` (1 - total_usage / capacity, in [0, 1]; None if unknown), ``divided_by`` (of a group of
        machines: BY_CORES, EVENLY or BY_USE, see ``_nodes``; else None), ``marginal_rate``
        (text: what one more unit of usage costs, whoever bears the idle part) and ``marginal_basis``
        (how that is known, see ``_price_of_more``); both None where nothing was used or measured.

    A dimension is billed in W as soon as any charge of it touches W, and corrected if one of them
    has ChargeClass Correction or took the place of one with another cost; provisional where the provider
    says of one of them that its time is not complete. Usage without a charge is provisional, if a rate is
    known; if none is, or if neither usage nor charge is there, there is no row.
    """
    billed: dict[tuple[str, str], list[tuple[Mapping[str, Any], int]]] = defaultdict(list)
    for charge, parts in sorted(charges, key=lambda entry: entry[0]["key"]):
        for dimension, cost in parts.items():
            billed[dimension, charge["currency"]].append((charge, cost))

    pools = _pool_prices(window_start_ms, usage, charges, lambda _, dimension: (before or {}).get(dimension, {}))
    costs = []  # (dimension, currency, cost in units, capacity, price of more, SKUs, columns that tell its origin)
    for (dimension, currency), entries in billed.items():
        of_dimension = [charge for charge, _ in entries]
        of_window = _capacity(window_start_ms, dimension, of_dimension)
        cost = sum(cost for _, cost in entries)
        basis, marginal = _price_of_more(cost, dimension, of_dimension, of_window, pools.get((dimension, currency)))
        if basis == METERED and marginal is None and of_resource:
            marginal = _price_of_use(window_start_ms, dimension, entries, of_resource)
        costs.append(
            (
                dimension,
                currency,
                cost,
                of_window,
                (basis, marginal),
                {charge["sku_id"] for charge in of_dimension if charge["sku_id"] is not None},
                {
                    "cost_status": _status(of_dimension),
                    "cost_center": one_of(of_tags(charge.get("tags") or {}) for charge in of_dimension),
                    "charges": [
                        _explain(charge, cost) | unit_price.note(charge, window_start_ms) for charge, cost in entries
                    ],
                    "rate": None,
                    "charge_period_end": max(charge["end_ms"] for charge, _ in entries),
                },
            )
        )
    for dimension, by_currency in rates.items():
        used = math.fsum(usage[dimension].values())
        for currency, rate in by_currency.items():
            of_window = Fraction(rate["capacity"]) if rate.get("capacity") else None
            costs.append(
                (
                    dimension,
                    currency,
                    provisional_cost(rate, used),
                    of_window,
                    _price_of_more_at(dimension, rate),
                    set(rate.get("sku_ids") or (charge["sku_id"] for charge in rate["charges"])) - {None},
                    {
                        "cost_status": PROVISIONAL,
                        "cost_center": None,
                        "charges": [],
                        "rate": rate,
                        "charge_period_end": None,
                    },
                )
            )

    rows = []
    for dimension, currency, cost, of_window, price, skus, origin in sorted(costs, key=lambda entry: entry[:2]):
        can_allocate = resource_id != NO_RESOURCE and dimension != OTHER and dimension in metered_dimensions
        services = usage.get(dimension, {}) if can_allocate else None
        idle_share = _idle_share(services, of_window)
        whole = math.fsum((services or {}).values())
        resource_cost = to_decimal(cost)
        basis, marginal = price
        if whole and marginal is None:
            listed = prices.listed(resource_id, dimension, skus, currency) if prices and basis != METERED else None
            basis = basis if listed is None else LIST
            marginal = RATE_DIGITS.divide(resource_cost, _exactly(whole)) if listed is None else listed
        nodes, divided_by = _nodes(services or {})
        if nodes and idle_policy != PROPORTIONAL and idle_share is not None:
            nodes, divided_by = {}, BY_USE  # use is paid for at the capacity's price, on whichever node
        for service, own_usage, total_usage, share, part in _shares(cost, services, idle_share, idle_policy, nodes):
            rows.append(
                {
                    "window_start": window_start_ms,
                    "resource_id": resource_id,
                    "dimension": dimension,
                    "otel_service_name": service,
                    "usage": own_usage,
                    "total_usage": total_usage,
                    "share": share,
                    "resource_cost": resource_cost,
                    "allocated_cost": to_decimal(part),
                    "billing_currency": currency,
                    **origin,
                    "cost_center": (cost_centers or {}).get(service) or origin["cost_center"],
                    "marginal_rate": None if marginal is None or not whole else _text(marginal),
                    "marginal_basis": basis if whole else None,
                    "idle_policy": idle_policy,
                    "capacity": None if of_window is None else float(of_window),
                    "idle_share": None if idle_share is None else float(idle_share),
                    "divided_by": divided_by,
                }
            )
    return rows


def _price_of_more(
    cost: int, dimension: str, charges: Sequence[Mapping[str, Any]], paid: Fraction | None, pool: Decimal | None
) -> tuple[str, Decimal | None]:
    """How the price of one more unit of usage is known, and the price; None where the charges alone don't tell it.

    cost: of ``charges`` in W, in units of 1e-12. paid: usage that they pay for in W. pool: see ``_pool_prices``.
    returns: METERED where use is charged: cost over the quantity that is charged. CAPACITY where machines are: cost
        over all that they can give, whether it is used or not. POOL where their number follows the use.
        Without a price: METERED where the quantity says nothing of usage, whose price ``_price_of_use`` tells;
        USED_SHARE where a size is missing: then a list price counts, else cost over usage, which is too much on a
        machine that is mostly idle.
    """
    of_use = [charge for charge in charges if _is_of_use(charge)]
    is_metered = bool(of_use) and all(map(_is_metered, of_use))
    is_size_told = all(capacity(of).get(dimension) is not None for of in of_use if of["charge_class"] != CORRECTION)
    if pool is not None:
        return POOL, pool
    if not (paid and of_use and is_size_told):
        return METERED if is_metered else USED_SHARE, None
    return METERED if is_metered else CAPACITY, RATE_DIGITS.divide(to_decimal(cost), _decimal(paid))


def _pool_prices(
    window_start_ms: int, usage: Usage, charges: Bill, paid_before: Callable[[int, str], Mapping[str, str]]
) -> dict[tuple[str, str], Decimal]:
    """``pool_prices`` of a group of machines that is billed as one, by (dimension, currency). paid_before: of
    ``Past.paid``."""
    of_dimension: dict[str, dict[str, list[tuple[Mapping[str, Any], int]]]] = defaultdict(lambda: defaultdict(list))
    for charge, parts in charges:
        for dimension, cost in parts.items():
            of_dimension[charge["currency"]][dimension].append((charge, cost))
    prices: dict[tuple[str, str], Decimal] = {}
    for currency, dimensions in of_dimension.items():
        cost, full = 0, {}
        for dimension, entries in dimensions.items():
            of_use = [charge for charge, _ in entries if _is_of_use(charge)]
            paid = _capacity(window_start_ms, dimension, of_use)
            if paid and _is_scaled(dimension, of_use, paid, paid_before(window_start_ms, dimension).get(currency)):
                cost += sum(each for _, each in entries)
                full[dimension] = sum(map(Fraction, usage.get(dimension, {}).values()), Fraction(0)) / paid, paid
        prices |= {(dimension, currency): price for dimension, price in pool_prices(cost, full).items()}
    return prices


def pool_prices(cost: int, full: Mapping[str, tuple[Fraction, Fraction]]) -> dict[str, Decimal]:
    """What one more unit of usage costs by dimension, in a pool whose machines come and go with the use.

    cost: of all of its machines, in units of 1e-12. full: {dimension: (use over what is paid for, usage that is paid
    for)}. Machines are added for the dimension that is fullest: what all of a machine costs goes with its use, and use
    of the others costs nothing more. {} of a pool that is less than half full in each.
    """
    fullest = max(full, key=lambda dimension: (full[dimension], dimension), default=None)
    if fullest is None or full[fullest][0] < _BUSY:
        return {}
    share, paid = full[fullest]
    price = RATE_DIGITS.divide(to_decimal(cost), _decimal(paid * min(share, Fraction(1))))
    return dict.fromkeys(full, Decimal(0)) | {fullest: price}


def _is_scaled(dimension: str, charges: Iterable[Mapping[str, Any]], paid: Fraction, paid_before: str | None) -> bool:
    """Whether the charges are for several machines of one size, of which some came or went just before or meanwhile."""
    sizes = {(charge.get("machine") or {}).get(dimension) for charge in charges}
    size = sizes.pop()
    if sizes or size is None:
        return False
    number = paid / (Fraction(size) * (WINDOW_MS // 1000))
    is_changed = paid_before is not None and Fraction(paid_before) != paid
    return number > 1 and (is_changed or number.denominator > 1)


def _price_of_use(
    window_start_ms: int, dimension: str, entries: Iterable[tuple[Mapping[str, Any], int]], of_resource: Used
) -> Decimal | None:
    """What a unit of usage costs by charges of W, [(charge, its units in W), ...]; None where nothing was used.

    The cost of each charge's whole period is taken over the usage of it: within an hour, or a day, the bill doesn't
    tell when the units were used, and W's even part of the cost may stand against uneven use.
    """
    price = Decimal(0)
    for charge, cost in entries:
        period = charge["start_ms"], charge["end_ms"]
        used, measured_ms = of_resource.within(dimension, *period)
        if not used:
            return None
        whole = EXACT.divide(
            EXACT.multiply(to_decimal(cost), Decimal(measured_ms)), Decimal(overlap(window_start_ms, *period))
        )
        price = EXACT.add(price, EXACT.divide(whole, _exactly(used)))
    return RATE_DIGITS.plus(price)


def _price_of_more_at(dimension: str, rate: Mapping[str, Any]) -> tuple[str, Decimal | None]:
    """As ``_price_of_more``, by a rate of ``Past.rates`` or ``Prices.rates``."""
    if rate.get("marginal_rate"):
        return rate["marginal_basis"], Decimal(rate["marginal_rate"])
    if rate.get("capacity"):
        return CAPACITY, RATE_DIGITS.divide(Decimal(rate["cost_per_window"]), _decimal(Fraction(rate["capacity"])))
    if rate["source"] == PRICE_BOOK and DIMENSIONS[dimension].is_capacity:
        return LIST, Decimal(rate["cost_per_usage"])
    return METERED if rate["cost_per_usage"] is not None else USED_SHARE, None


def _status(charges: Collection[Mapping[str, Any]]) -> str:
    """What charges make of the cost of a window."""
    if any(charge.get("is_incomplete") for charge in charges):
        return PROVISIONAL
    is_corrected = any(charge["charge_class"] == CORRECTION or charge.get("is_restated") for charge in charges)
    return CORRECTED if is_corrected else BILLED


def _is_of_use(charge: Mapping[str, Any]) -> bool:
    """Whether it is for use, or for what can be used; not a credit, a fee or a licence."""
    return charge.get("charge_category") in (None, "Usage") and not charge.get("is_licence")


def _is_metered(charge: Mapping[str, Any]) -> bool:
    """Whether it grows with use."""
    return charge["per"] == "unit" and not charge.get("is_provisioned")


def _capacity(window_start_ms: int, dimension: str, charges: Iterable[Mapping[str, Any]]) -> Fraction | None:
    """Usage that the charges pay for in W, each spread evenly over its period; None if unknown."""
    total = Fraction(0)
    for charge in charges:
        paid = capacity(charge).get(dimension)
        if paid:
            period = charge["start_ms"], charge["end_ms"]
            total += paid * Fraction(overlap(window_start_ms, *period), period_length(*period))
    return total if total > 0 else None


def _idle_share(services: Mapping[str, float] | None, paid: Fraction | None) -> Fraction | None:
    """Part of what is paid for that nobody used, in [0, 1]; None where it isn't known."""
    if services is None:
        return None
    if not math.fsum(services.values()):  # it is 0 only where the exact sum is
        return Fraction(1)
    return max(1 - sum(map(Fraction, services.values())) / paid, Fraction(0)) if paid else None


# Node -> its weight, and who used what of it.
_Nodes = Mapping[str, tuple[int, Mapping[str, float]]]


def _nodes(services: Mapping[str, float]) -> tuple[_Nodes, str | None]:
    """({node: (weight, {service: u})}, BY_CORES or EVENLY) of the users of a group of machines.

    A node's weight is its cores where all nodes' are known, else 1. ({}, BY_USE) where some use tells no node, ({},
    None) where none does: what is billed is one machine, or nobody knows of which.
    """
    used: dict[str, dict[str, float]] = {}
    cores: dict[str, int] = {}
    for user, amount in services.items():
        service, *node = user.split(_SEPARATOR)
        if node:
            name, told = node
            used.setdefault(name, {})[user] = amount
            cores[name] = max(cores.get(name, 0), int(told or 0))
    if sum(map(len, used.values())) < len(services):
        return {}, BY_USE if used else None
    if not used:
        return {}, None
    by_cores = all(cores.values())
    nodes = {name: (cores[name] if by_cores else 1, used[name]) for name in sorted(used)}
    return nodes, BY_CORES if by_cores else EVENLY


def _name(user: str) -> str:
    """Of a row. A name that is kept for these rows names no workload, wherever it comes from."""
    service = _service(user)
    return UNALLOCATED if service in NAMELESS else service


def _shares(
    cost: int,
    services: Mapping[str, float] | None,
    idle_share: Fraction | None,
    idle_policy: str,
    nodes: _Nodes,
) -> list[tuple[str, float | None, float | None, float, int]]:
    """(otel_service_name, usage, total_usage, share, units) of each who bears a part of ``cost``.

    services: {user: u}; None where the cost can't be tied to anybody's usage. nodes: of ``_nodes``, whose parts of the
    cost are by weight, and each part by the usage of that node; {} = one part.

    Workloads that nobody knows, and the cluster's own, bear their usage, never the idle part in equal
    shares: they are none of the services, and may be many or one.
    """
    if services is None:
        return [(UNALLOCATED, None, None, 1.0, cost)]
    total_usage = math.fsum(services.values())
    if not total_usage:
        return [(IDLE, 0.0, 0.0, 1.0, cost)]
    amounts: dict[str, list[float]] = defaultdict(list)
    for user, amount in services.items():
        amounts[_name(user)].append(amount)
    used = {name: math.fsum(of_name) for name, of_name in sorted(amounts.items())}
    if nodes:
        shares, parts = _shares_of_nodes(cost, nodes)
        return [(name, used.get(name, 0.0), total_usage, shares[name], parts[name]) for name in sorted(parts)]
    # Shares as integers over one whole, unrounded: a float is a fraction of a power of 2.
    parts_of = integer_weights(used)
    whole = sum(parts_of.values())
    idle = Fraction(0) if idle_policy == PROPORTIONAL else idle_share or Fraction(0)
    if idle:
        users = [name for name, amount in used.items() if amount and name not in (SYSTEM, UNALLOCATED)]
        bearers = users if idle_policy == EVEN and users else [IDLE]
        unused, busy = idle.numerator * whole, (idle.denominator - idle.numerator) * len(bearers)
        parts_of = {name: part * busy for name, part in parts_of.items()}
        for name in bearers:
            parts_of[name] = parts_of.get(name, 0) + unused
        whole *= idle.denominator * len(bearers)
    parts = apportion(cost, parts_of)
    return [
        (name, used.get(name, 0.0), total_usage, part / whole, parts[name]) for name, part in sorted(parts_of.items())
    ]


def _shares_of_nodes(cost: int, nodes: _Nodes) -> tuple[dict[str, float], dict[str, int]]:
    """(share, units) by name of a cost that is divided over nodes by weight, and over each by its usage; IDLE bears
    nodes that nobody used."""
    weights = {node: weight for node, (weight, _) in nodes.items()}
    whole = sum(weights.values())
    shares: dict[str, list[float]] = defaultdict(list)
    parts: dict[str, int] = defaultdict(int)
    for node, of_node in apportion(cost, weights).items():
        used = integer_weights(nodes[node][1])
        total = sum(used.values())
        if not total:
            shares[IDLE].append(weights[node] / whole)
            parts[IDLE] += of_node
            continue
        for user, part in apportion(of_node, used).items():
            shares[_name(user)].append(weights[node] / whole * (used[user] / total))
            parts[_name(user)] += part
    return {name: math.fsum(of_name) for name, of_name in shares.items()}, dict(parts)


# What differs from service to service, of one resource, window, dimension and currency.
_OWN = ("otel_service_name", "usage", "share", "allocated_cost", "cost_center")


def packed(rows: Iterable[Mapping[str, Any]], cost_centers: CostCenters = NO_COST_CENTERS) -> bytes:
    """Rows of ``allocate`` as JSON; what those of one dimension and currency have in common, stated once.

    cost_centers: go before what telemetry and bills say.
    """
    groups: dict[tuple[int, str, str, str], dict[str, Any]] = {}
    for row in rows:
        key = row["window_start"], row["resource_id"], row["dimension"], row["billing_currency"]
        if key not in groups:
            groups[key] = {name: value for name, value in row.items() if name not in _OWN} | {"services": []}
        cost_center = cost_centers.of(row["otel_service_name"]) or row["cost_center"]
        groups[key]["services"].append([*(row[name] for name in _OWN[:-1]), cost_center])
    return orjson.dumps(list(groups.values()), default=str)


def unpacked(payload: bytes) -> list[Row]:
    """The rows of ``packed``; money as text."""
    rows = []
    for group in orjson.loads(payload):
        services = group.pop("services", None)
        # An earlier release sent each row whole, and knew no cost centres.
        of_group = [group] if services is None else [group | dict(zip(_OWN, own)) for own in services]
        rows += [{"cost_center": None} | row for row in of_group]
    return rows


def kept_from(newest_ms: int, corrections_ms: int) -> int:
    """Start of the first window that a charge may restate, a day at a time: what is older is let go once a day."""
    bound_ms = newest_ms - corrections_ms
    return bound_ms - bound_ms % (24 * HOUR_MS)


def closed_before(newest_ms: int, wait_ms: int) -> int:
    """Start of the first window that still waits for its bill, by the newest event time of a resource."""
    return window_start(newest_ms - wait_ms)


def late_charge(charge: Mapping[str, Any], kept_ms: int, corrections_ms: int) -> str | None:
    """A reject of a charge that begins in a window that can't be restated any more; None if it doesn't.

    As a whole: a part of it in later windows would be a cost that no bill shows.
    """
    if window_start(charge["start_ms"]) >= kept_ms:
        return None
    hours = math.ceil((kept_ms - charge["start_ms"] + corrections_ms) / HOUR_MS)
    reason = (
        f"a charge for {utc(charge['start_ms'])} came after {corrections_ms // HOUR_MS} h, when windows before"
        f" {utc(kept_ms)} were let go: set billing.corrections to {hours} h or more, or run the bill from a"
        " directory"
    )
    return reject("focus_charges", reason, record_of(charge), charge["start_ms"], code=Code.LATE)


def late_usage(consumer: str, windows: Mapping[Any, Mapping[str, float]], closed_ms: int, wait_ms: int) -> str | None:
    """A reject of usage of which all windows are closed; None if one isn't."""
    newest_ms = max(map(int, windows), default=closed_ms)
    if newest_ms >= closed_ms:
        return None
    reason = (
        f"usage came after {wait_ms // HOUR_MS} h, when windows before {utc(closed_ms)} were closed:"
        " set billing.wait higher, or see why the metrics are late"
    )
    record = {"consumer": consumer.split(_SEPARATOR), "windows": windows}
    return reject("otlp_metrics", reason, record, newest_ms, code=Code.LATE)


def provisional_cost(rate: Mapping[str, Any], total_usage: float) -> int:
    """Units of 1e-12 that W costs at ``rate``: cost_per_window + cost_per_usage * total_usage."""
    metered = EXACT.multiply(Decimal(rate["cost_per_usage"] or 0), _exactly(total_usage))
    return to_units(EXACT.add(Decimal(rate["cost_per_window"]), metered))


def _explain(charge: Mapping[str, Any], cost: int) -> dict[str, Any]:
    """What a person needs to find a charge in the bill, and its part of this window's cost."""
    return {
        "key": charge["key"],
        **({"billed_resource_id": charge["billed_resource_id"]} if "billed_resource_id" in charge else {}),
        "sku_id": charge["sku_id"],
        "focus_service_name": charge["focus_service_name"],
        "charge_class": charge["charge_class"],
        "charge_period_start": utc(charge["start_ms"]),
        "charge_period_end": utc(charge["end_ms"]),
        "cost": charge["cost"],
        "cost_in_window": _text(to_decimal(cost)),
        "list_unit_price": charge["list_unit_price"],
        "consumed_quantity": charge["consumed_quantity"],
        "consumed_unit": charge["consumed_unit"],
        "converted": charge.get("converted"),
    }


def _exactly(value: float) -> Decimal:
    """The decimal that a float is printed as: the one a reader of the explanation works with."""
    return Decimal(repr(value))


def _decimal(amount: Fraction) -> Decimal:
    """To as many digits as a rate has."""
    return RATE_DIGITS.divide(Decimal(amount.numerator), Decimal(amount.denominator))


def _text(amount: Decimal) -> str:
    """Decimal digits without an exponent."""
    return format(amount, "f")

"""follow: windows of one culprit as one incident: its identity, its money, its end, and what people say of it."""

from __future__ import annotations

import random
from decimal import Decimal
from itertools import permutations
from typing import Any

import orjson
import pytest
from pyflink.common import Row

from tests.unit.keyed_stage import Stage
from tests.unit.test_rank import allocation
from tests.unit.test_rank import incident as trouble
from udfs.follow import INCIDENTS, Follow
from udfs.pure.follow import CLOSED, OPEN, feedback, incident, runs, windows_of
from udfs.pure.rank import rank_window
from udfs.pure.windows import HOUR_MS, MINUTE_MS, WINDOW_MS
from udfs.rank import FEEDBACK, OVER, WINDOWS

QUIET_MS = 30 * MINUTE_MS
DAY_MS = 1_767_225_600_000  # 2026-01-01
TEN = DAY_MS + 10 * HOUR_MS


def window(start_ms: int, first: int, last: int, **changes: Any) -> dict[str, Any]:
    """What rank tells of a window whose culprit was seen from minute ``first`` until minute ``last`` of it."""
    return {
        "window_start": start_ms,
        "window_end": start_ms + WINDOW_MS,
        "otel_service_name": "payment",
        "billing_currency": "USD",
        "first_ms": start_ms + first * MINUTE_MS,
        "last_ms": start_ms + last * MINUTE_MS,
        "minutes": last - first,
        "kinds": {"latency_spike": 10},
        "operations": {"INSERT": 10},
        "affected": {"cart": 4, "web": 10},
        "model_versions": {"usual-1": 10},
        "slower": [10 * 1.4109869737, 10],  # 4.1 times
        "overused": {},
        "changes": [],
        "exemplars": [[9.0, f"{start_ms:x}"]],
        "recurrence": [last - first, 1_000],
        "anomalous_traces": 10,
        "total_traces": 100,
        "anomaly_score": 30.0,
        "cost_status": "billed",
        "cost_center": "4711",
        "updated_at": start_ms + WINDOW_MS,
        "attributed_cost": "1.000000000000",
        "excess_cost": "0.100000000001",
        "billed_excess_cost": "0.000000000000",
    } | changes


def test_windows_that_follow_each_other_are_one_incident() -> None:
    three = [window(TEN + n * WINDOW_MS, 3 if not n else 0, 30 if n < 2 else 7) for n in range(3)]
    for order in permutations(three):
        assert runs(order, QUIET_MS) == [three]
    row = incident(three, TEN + 10 * HOUR_MS, QUIET_MS)
    assert row["incident_id"] == "2026-01-01T10:00:00Z/payment/USD"
    assert (row["opened_at"], row["last_seen_at"]) == (TEN + 3 * MINUTE_MS, TEN + 67 * MINUTE_MS)
    assert (row["window_start"], row["window_end"], row["windows"]) == (TEN, TEN + 3 * WINDOW_MS, 3)
    assert (row["anomalous_traces"], row["total_traces"], row["anomalous_minutes"]) == (30, 300, 64)
    assert row["affected_services"] == ["web", "cart"]


@pytest.mark.parametrize(("gap", "incidents"), [(29, 1), (30, 1), (31, 2)])
def test_another_incident_begins_after_a_quiet_time(gap: int, incidents: int) -> None:
    first = window(TEN, 0, 10)
    then = TEN + (10 + gap) * MINUTE_MS
    start_ms = then - then % WINDOW_MS
    second = window(start_ms, (then - start_ms) // MINUTE_MS, 30)
    assert len(runs([first, second], QUIET_MS)) == incidents


def test_its_money_is_the_sum_of_its_windows_to_the_last_decimal() -> None:
    rng = random.Random(7)
    run = [
        window(
            TEN + n * WINDOW_MS,
            0,
            30,
            excess_cost=f"{rng.uniform(-1e6, 1e6):.12f}",
            attributed_cost=f"{rng.uniform(-1e9, 1e9):.12f}",
            billed_excess_cost=None if n % 3 else "0.000000000007",
        )
        for n in range(50)
    ]
    row = incident(run, 0, QUIET_MS)
    for name in ("excess_cost", "attributed_cost", "billed_excess_cost"):
        assert row[name] == sum(Decimal(of[name]) for of in run if of[name] is not None)
        assert row[name].as_tuple().exponent == -12
    # What an hour of it costs, and a month in which it is seen in 30 of 1,000 minutes.
    assert abs(row["excess_cost_per_hour"] * 25 - row["excess_cost"]) < Decimal("1e-10")
    assert abs(row["projected_monthly_cost"] * 1_000 * 1_500 / (30 * 43_200) - row["excess_cost"]) < Decimal("1e-6")


def test_no_price_is_no_money() -> None:
    row = incident([window(TEN, 0, 5, excess_cost=None, billed_excess_cost=None, billing_currency="XXX")], 0, QUIET_MS)
    assert row["excess_cost"] is row["excess_cost_per_hour"] is row["projected_monthly_cost"] is None
    assert row["evidence"].endswith("; its cost is not known")


def test_it_is_closed_by_event_time_and_not_by_money() -> None:
    run = [window(TEN, 0, 10)]
    seen_ms = TEN + 10 * MINUTE_MS
    before, at = (incident(run, seen_ms + QUIET_MS + late, QUIET_MS) for late in (-1, 0))
    assert (before["incident_state"], before["closed_at"]) == (OPEN, None)
    assert (at["incident_state"], at["closed_at"]) == (CLOSED, seen_ms + QUIET_MS)
    restated = incident([run[0] | {"excess_cost": "99", "cost_status": "corrected"}], seen_ms + HOUR_MS, QUIET_MS)
    assert (restated["incident_state"], restated["cost_status"]) == (CLOSED, "corrected")


def test_its_status_is_that_of_its_least_settled_window() -> None:
    run = [window(TEN + n * WINDOW_MS, 0, 30, cost_status=of) for n, of in enumerate(("billed", "corrected", "billed"))]
    assert incident(run, 0, QUIET_MS)["cost_status"] == "corrected"
    run[2]["cost_status"] = "provisional"
    assert incident(run, 0, QUIET_MS)["cost_status"] == "provisional"


# ---- the sentence -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "over", "words"),
    [
        ({"excess_cost": "12.4", "cost_status": "provisional"}, False,
         "payment's INSERT takes 4.1× as long since 10:03 UTC; 10 traces; 12.40 USD above usual, provisional"),
        ({"excess_cost": "12.4"}, True,
         "payment's INSERT took 4.1× as long from 10:03 to 10:20 UTC; 10 traces; 12.40 USD above usual, billed"),
        ({"excess_cost": "-0.00123", "anomalous_traces": 1, "kinds": {"dependency_failure": 1}}, False,
         "payment's INSERT fails since 10:03 UTC; 1 trace; 0.0012 USD below usual, billed"),
        ({"excess_cost": "0", "kinds": {"retry_loop": 9}}, True,
         "payment's INSERT repeated its calls from 10:03 to 10:20 UTC; 10 traces; 0.00 USD above usual, billed"),
        ({"kinds": {"resource_overuse": 9}, "overused": {"memory": "0.01", "cpu": "0.2"}}, False,
         "payment uses more cpu than its calls explain since 10:03 UTC; 10 traces; 0.10 USD above usual, billed"),
        ({"kinds": {"structure_change": 9}, "slower": [0.0, 0]}, False,
         "payment's INSERT makes other calls than usual since 10:03 UTC; 10 traces; 0.10 USD above usual, billed"),
        ({"slower": [0.0, 0]}, False,
         "payment's INSERT takes longer than usual since 10:03 UTC; 10 traces; 0.10 USD above usual, billed"),
    ],
)  # fmt: skip
def test_the_evidence_is_a_plain_sentence(changes: dict, over: bool, words: str) -> None:
    row = incident([window(TEN, 3, 20, **changes)], TEN + (2 * HOUR_MS if over else 0), QUIET_MS)
    assert row["evidence"] == words


def test_an_incident_of_days_names_them() -> None:
    run = [window(DAY_MS + n * WINDOW_MS, 0, 30) for n in range(47, 50)]
    assert "since 2026-01-01 23:30 UTC" in incident(run, 0, QUIET_MS)["evidence"]
    assert "from 2026-01-01 23:30 to 2026-01-02 01:00 UTC" in incident(run, DAY_MS * 2, QUIET_MS)["evidence"]


def test_exemplars_have_links_and_changes_are_those_just_before() -> None:
    at_ms = TEN - 5 * MINUTE_MS
    of_first = window(TEN, 0, 30, changes=[["version", at_ms, "1.2", "1.3"], ["pods", TEN - 2 * HOUR_MS, 2, 3]])
    run = [of_first, window(TEN + WINDOW_MS, 0, 30, exemplars=[[11.0, "ff"]])]
    row = incident(run, 0, QUIET_MS, trace_url="http://jaeger:16686/trace/{trace_id}")
    assert row["exemplar_trace_ids"] == ["ff", f"{TEN:x}"]
    assert row["exemplar_urls"][0] == "http://jaeger:16686/trace/ff"
    assert orjson.loads(row["changes"]) == [
        {"what": "version", "at": "2026-01-01T09:55:00Z", "from": "1.2", "to": "1.3"}
    ]
    assert incident(run, 0, QUIET_MS)["exemplar_urls"] == []


PRICE = {"at": "2026-01-01T09:30:00Z", "from": "0.096", "to": "0.192", "currency": "USD", "unit": "Hours"}


def used(resource_id: str, *prices: dict[str, str], dimension: str = "cpu", usage: float = 1.0) -> dict[str, Any]:
    """What is allocated to payment of a resource whose charges' prices changed, each another SKU's."""
    charges = [{"sku_id": f"SKU-{number}", "price_change": each} for number, each in enumerate(prices)]
    of = {"resource_id": resource_id, "dimension": dimension, "usage": usage}
    return allocation("payment", "1", charges=[{"sku_id": "SKU-9"}, *charges], **of)


def changes_told(*allocations: dict[str, Any], changes: tuple = (), minute: int = 3) -> list[dict[str, str]]:
    """Of an incident that began in a minute after ten."""
    of_minute = trouble("payment", 9.0, kind="latency_spike", operations={"INSERT": 1}, changes=list(changes))
    ranked = rank_window(TEN, [[of_minute]], [], allocations)
    [of_window] = windows_of(ranked, {TEN + minute * MINUTE_MS: [of_minute]})
    return orjson.loads(incident([orjson.loads(orjson.dumps(of_window))], 0, QUIET_MS)["changes"])


def test_a_price_that_changed_just_before_is_among_the_changes() -> None:
    node = "arn:aws:ec2:eu-west-1:1:instance/i-1"
    billed = used("i-1", PRICE)
    billed["charges"][1]["billed_resource_id"] = node
    release = ("version", TEN - 5 * MINUTE_MS, "1.2", "1.3")
    # Of cpu and memory of a machine it is the same price.
    assert changes_told(billed, billed | {"dimension": "memory"}, changes=(release,)) == [
        {"what": f"price of SKU-0 at {node}", "at": "2026-01-01T09:30:00Z",
         "from": "0.096 USD per Hours", "to": "0.192 USD per Hours"},
        {"what": "version", "at": "2026-01-01T09:55:00Z", "from": "1.2", "to": "1.3"},
    ]  # fmt: skip


def test_a_price_that_changed_alike_at_several_resources_is_told_once() -> None:
    [change] = changes_told(used("node-2", PRICE), used("node-1", PRICE), used("node-3", PRICE))
    assert change["what"] == "price of SKU-0 at node-1 and 2 more"


def test_prices_that_have_nothing_to_do_with_the_culprit_are_not_told() -> None:
    assert changes_told(used("node-1", PRICE, usage=0.0)) == []
    assert changes_told(used("node-1", PRICE) | {"otel_service_name": "cart"}) == []
    # They changed later, or more than an hour before.
    assert changes_told(used("node-1", PRICE | {"at": "2026-01-01T10:15:00Z"})) == []
    assert changes_told(used("node-1", PRICE | {"at": "2026-01-01T09:00:00Z"})) == []
    assert len(changes_told(used("node-1", PRICE | {"at": "2026-01-01T09:00:00Z"}), minute=0)) == 1


def test_of_many_prices_that_changed_the_latest_are_told() -> None:
    prices = [PRICE | {"at": f"2026-01-01T09:{30 + number}:00Z"} for number in range(12)]
    assert [change["at"][14:16] for change in changes_told(used("node-1", *prices))] == [str(34 + n) for n in range(8)]


# ---- what people say --------------------------------------------------------------------------


def said(verdict: str, **changes: Any) -> dict[str, Any]:
    of_nothing = dict.fromkeys(("incident_id", "otel_service_name", "anomaly_kind", "valid_from", "valid_until"))
    return of_nothing | {"verdict": verdict, "author": "ann", "note": None, "given_at": TEN} | changes


@pytest.mark.parametrize(
    ("changes", "fits"),
    [
        ({"incident_id": "2026-01-01T10:00:00Z/payment/USD"}, True),
        ({"incident_id": "2026-01-01T10:30:00Z/payment/USD"}, False),
        ({"otel_service_name": "payment"}, True),
        ({"otel_service_name": "payment", "anomaly_kind": "retry_loop"}, False),
        ({"otel_service_name": "cart"}, False),
        ({"otel_service_name": "payment", "valid_from": TEN, "valid_until": TEN + HOUR_MS}, True),
        ({"otel_service_name": "payment", "valid_from": TEN + 10 * MINUTE_MS}, False),  # it was over by then
        ({"otel_service_name": "payment", "valid_until": TEN}, False),  # it had not begun
    ],
)
def test_what_is_said_fits_an_incident_or_not(changes: dict, fits: bool) -> None:
    row = incident([window(TEN, 0, 10)], 0, QUIET_MS, [said("planned", **changes)])
    assert (row["feedback"], row["is_silenced"]) == (("planned", True) if fits else (None, False))


def test_the_latest_that_was_said_counts() -> None:
    of = {"otel_service_name": "payment"}
    both = [said("false_alarm", **of), said("fixed", given_at=TEN + 1, author="bob", note="rolled back", **of)]
    for order in permutations(both):
        row = incident([window(TEN, 0, 10)], 0, QUIET_MS, order)
        assert (row["feedback"], row["feedback_by"], row["feedback_note"]) == ("fixed", "bob", "rolled back")
        assert row["is_silenced"] is False
    assert feedback(row, []) is None


# ---- the stage --------------------------------------------------------------------------------


class FollowStage(Stage):
    """Windows in, incidents out."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(Follow(QUIET_MS, **settings), "")

    def window(self, start_ms: int, *rows: dict[str, Any]) -> None:
        self._send(WINDOWS, start_ms, "", orjson.dumps(rows))

    def over(self, until_ms: int) -> None:
        self._send(OVER, 0, "", b"%d" % until_ms)

    def says(self, key: str, row: dict[str, Any]) -> None:
        self._send(FEEDBACK, 0, key, orjson.dumps(row))

    def _send(self, kind: str, time_ms: int, key: str, payload: bytes) -> None:
        self._take(self._function.process_element(Row(kind, time_ms, key, payload), self))

    def start_again(self) -> None:
        self._function.open(self)

    def told(self) -> dict[str, dict[str, Any]]:
        """What is sent at the next timer: id -> its row, or nothing where it is no more."""
        return {key: (rows[0] if rows else {}) for (kind, _, key), rows in self.fire().items() if kind == INCIDENTS}

    def standing(self) -> dict[str, dict[str, Any]]:
        return {key: rows[0] for (_, _, key), rows in self.rows.items() if rows}


PAYMENT_TEN = "2026-01-01T10:00:00Z/payment/USD"


def test_an_incident_opens_goes_on_closes_and_is_restated() -> None:
    stage = FollowStage(emit_every_ms=250)
    stage.window(TEN, window(TEN, 5, 6))
    assert stage.told()[PAYMENT_TEN]["incident_state"] == OPEN
    stage.window(TEN + WINDOW_MS, window(TEN + WINDOW_MS, 0, 10))
    assert stage.told()[PAYMENT_TEN]["windows"] == 2
    stage.over(TEN + WINDOW_MS + 39 * MINUTE_MS)
    assert not stage.told()
    stage.over(TEN + WINDOW_MS + 40 * MINUTE_MS)
    assert stage.told()[PAYMENT_TEN]["incident_state"] == CLOSED
    stage.window(TEN, window(TEN, 5, 6, excess_cost="7", cost_status="corrected"))
    restated = stage.told()[PAYMENT_TEN]
    assert (restated["incident_state"], restated["cost_status"]) == (CLOSED, "corrected")
    stage.window(TEN, window(TEN, 5, 6, excess_cost="7", cost_status="corrected"))
    assert not stage.told()


def test_a_window_that_lost_its_anomaly_ends_or_moves_the_incident() -> None:
    stage = FollowStage(emit_every_ms=250)
    stage.window(TEN, window(TEN, 5, 30))
    stage.window(TEN + WINDOW_MS, window(TEN + WINDOW_MS, 0, 10))
    stage.told()
    stage.window(TEN)
    later = "2026-01-01T10:30:00Z/payment/USD"
    told = stage.told()
    assert (told[PAYMENT_TEN], told[later]["windows"]) == ({}, 1)
    stage.window(TEN + WINDOW_MS)
    assert stage.told() == {later: {}}
    assert stage.size() == {"windows": 0, "said": 0, "sent": 0}


def test_culprits_and_currencies_are_apart() -> None:
    stage = FollowStage()
    stage.window(
        TEN, window(TEN, 0, 9), window(TEN, 0, 9, billing_currency="EUR"), window(TEN, 0, 9, otel_service_name="cart")
    )
    stage.end()
    assert sorted(stage.standing()) == [
        "2026-01-01T10:00:00Z/cart/USD",
        "2026-01-01T10:00:00Z/payment/EUR",
        PAYMENT_TEN,
    ]


def test_the_order_of_what_comes_changes_nothing() -> None:
    rng = random.Random(3)
    starts = [TEN + n * WINDOW_MS for n in (0, 1, 2, 5, 6, 9)]
    events = [(WINDOWS, start, window(start, rng.randrange(0, 14), rng.randrange(15, 30))) for start in starts]
    expected = None
    for _ in range(30):
        rng.shuffle(events)
        stage = FollowStage(emit_every_ms=250)
        stage.over(TEN + 6 * WINDOW_MS)
        for number, (_, start, row) in enumerate(events):
            if rng.random() < 0.3:
                stage.window(start, row | {"anomalous_traces": 1})
            stage.window(start, row)
            if number == 3:
                stage.start_again()
            if rng.random() < 0.5:
                stage.fire()
        stage.fire()
        expected = expected or stage.standing()
        assert stage.standing() == expected


def test_what_people_say_changes_incidents_at_once_and_those_to_come() -> None:
    stage = FollowStage(emit_every_ms=250)
    stage.window(TEN, window(TEN, 5, 6))
    stage.told()
    stage.says("1", said("expected", otel_service_name="payment", valid_until=TEN + 2 * HOUR_MS))
    assert stage.told()[PAYMENT_TEN]["is_silenced"] is True
    stage.window(TEN + 3 * WINDOW_MS, window(TEN + 3 * WINDOW_MS, 0, 9))
    assert [row["is_silenced"] for row in stage.told().values()] == [True]
    stage.window(TEN + 6 * WINDOW_MS, window(TEN + 6 * WINDOW_MS, 0, 9))
    assert [row["is_silenced"] for row in stage.told().values()] == [False]


def test_after_a_start_all_is_told_again_and_nothing_is_lost() -> None:
    stage = FollowStage(emit_every_ms=250)
    stage.window(TEN, window(TEN, 5, 30))
    stage.window(TEN + WINDOW_MS, window(TEN + WINDOW_MS, 0, 10))
    before = stage.told()
    stage.start_again()
    stage.over(TEN + HOUR_MS)
    assert stage.told() == before
    stage.over(TEN + 3 * HOUR_MS)
    assert stage.told()[PAYMENT_TEN]["incident_state"] == CLOSED


def test_what_ended_long_ago_is_let_go_and_its_row_stays() -> None:
    stage = FollowStage(emit_every_ms=250, keep_ms=24 * HOUR_MS)
    stage.window(TEN, window(TEN, 5, 30))
    stage.told()
    stage.over(TEN + 24 * HOUR_MS)
    stage.told()
    assert stage.size()["sent"] == 1
    stage.over(TEN + 25 * HOUR_MS)
    stage.told()
    assert stage.size() == {"windows": 0, "said": 0, "sent": 0}
    assert stage.standing()[PAYMENT_TEN]["incident_state"] == CLOSED

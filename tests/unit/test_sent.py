"""What a worker remembers of the keys that it sends rows of: as many as are alive."""

from __future__ import annotations

from tests.unit.test_attribute import HOUR, delivered, feed_charge, feed_usage
from tests.unit.test_attribute import stage as attribute_stage
from udfs.changelog import Sent
from udfs.pure.outstanding import Outstanding
from udfs.pure.windows import HOUR_MS, MINUTE_MS, WINDOW_MS


def test_a_key_that_is_called_each_minute_is_called_first_once() -> None:
    sent = Sent()
    assert [sent.is_first_call("node", now_ms) for now_ms in range(0, 300 * MINUTE_MS, MINUTE_MS)] == [True] + [
        False
    ] * 299


def test_keys_that_are_called_no_more_are_forgotten() -> None:
    """Windows come and go; a year of them would be 17,520."""
    sent = Sent()
    for minute in range(2_000):
        window_ms = minute * WINDOW_MS
        assert sent.is_first_call(window_ms, minute * MINUTE_MS)
        assert not sent.is_first_call(window_ms, minute * MINUTE_MS)
        assert len(sent) <= 20
    assert sent.is_first_call(0, 2_000 * MINUTE_MS)


def test_what_resources_add_is_summed() -> None:
    outstanding = Outstanding(None)
    outstanding.put("a", 0, (2, 500))
    outstanding.put("b", 0, (1, -200))
    assert outstanding.total == (3, 300)
    outstanding.put("a", HOUR_MS, (1, 0))
    assert outstanding.total == (2, -200)
    outstanding.put("b", HOUR_MS, (0, 0))
    assert (outstanding.total, len(outstanding)) == ((1, 0), 1)


def test_machines_that_are_gone_add_nothing_more_once_their_windows_would_wait_no_more() -> None:
    """Machines that live for an hour, of which no bill comes."""
    outstanding = Outstanding(72 * HOUR_MS)
    for hour in range(2_000):
        outstanding.put(f"node-{hour}", hour * HOUR_MS, (2, 10))
        assert len(outstanding) <= 74
    assert outstanding.total == (2 * len(outstanding), 10 * len(outstanding))
    assert len(outstanding) >= 72


def test_where_windows_wait_for_ever_nothing_is_forgotten() -> None:
    outstanding = Outstanding(None)
    for hour in range(200):
        outstanding.put(f"node-{hour}", hour * HOUR_MS, (1, 0))
    assert outstanding.total == (200, 0)


def test_the_gauge_tells_the_windows_that_wait_for_their_bill() -> None:
    it = attribute_stage(2 * HOUR_MS)
    for half in range(4):
        feed_usage(it, HOUR + half * WINDOW_MS, 1.0)
    feed_charge(it, delivered("0.8", hour=0))
    it.fire()
    assert it.metrics.gauges["bills_outstanding"]() == 2
    feed_charge(it, delivered("0.8", hour=1))
    it.fire()
    assert it.metrics.gauges["bills_outstanding"]() == 0

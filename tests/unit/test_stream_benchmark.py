"""The benchmark of the stream: what it makes of the writes of the tables."""

from __future__ import annotations

import pytest

from tests.benchmarks.stream import Ranked, Sent, Times, Verdict, times

WINDOW = "12:00"


def sent(at: float, spans: int = 2, ended: float | None = None) -> Sent:
    """A trace that ended half a second before it was sent."""
    return Sent(spans, 0, at - 0.5 if ended is None else ended, at)


def verdict(at: float, trace_id: str, culprit: str | None = None, spans: int = 2) -> Verdict:
    return Verdict(at, trace_id, spans, culprit is not None, culprit, WINDOW)


def ranked(at: float, traces: int, culprit: str = "cart") -> Ranked:
    return Ranked(at, culprit, traces, WINDOW)


def test_a_verdict_counts_once_it_is_on_all_spans() -> None:
    found = times({"a": sent(10)}, [verdict(9, "a", spans=1), verdict(12, "a"), verdict(13, "a")], [], 99)
    assert found == Times([2], [], [], [], [])


def test_what_is_written_after_the_kill_does_not_count() -> None:
    rows = [verdict(11, "a", "cart"), verdict(13, "b", "cart")]
    assert times({"a": sent(10), "b": sent(10)}, rows, [ranked(14, 1)], 12) == Times([1], [], [], [], [])


def test_a_row_counts_a_trace_once_it_counts_as_many_as_were_blamed_then() -> None:
    traces = {name: sent(10) for name in "ab"}
    rows = [verdict(11, "a", "cart"), verdict(11.5, "b", "cart")]
    found = times(traces, rows, [ranked(12, 1), ranked(13, 1, "other"), ranked(14, 2)], 99)
    assert sorted(found.ranked) == [2, 4]


def test_a_verdict_that_changed_since_is_waited_for_no_more() -> None:
    traces = {name: sent(10) for name in "ab"}
    rows = [verdict(11, "a", "cart"), verdict(11.5, "b", "cart"), verdict(12, "a")]
    assert times(traces, rows, [ranked(13, 1)], 99).ranked == [3]


def test_a_row_that_counted_a_trace_before_its_last_span_counts_from_its_verdict_on() -> None:
    rows = [verdict(9, "a", "cart", spans=1), verdict(11, "a", "cart")]
    assert times({"a": sent(10)}, rows, [ranked(9.5, 1)], 99).ranked == [1]


def test_waiting_for_evidence_and_for_the_machine_are_told_apart() -> None:
    # a is odd, and nothing by itself; b, 20 s later, makes the difference, and c of another culprit doesn't.
    traces = {"a": sent(10), "b": sent(30), "c": sent(31)}
    rows = [verdict(12, "a"), verdict(33, "a", "cart"), verdict(33.1, "b", "cart"), verdict(33.2, "c", "users")]
    found = times(traces, rows, [ranked(35, 2), ranked(35, 1, "users")], 99)
    assert found.evidence == [20] and found.machine == [5] and not found.others
    assert sorted(found.ranked) == [4, 5]  # those of b and c


@pytest.mark.parametrize("other", [None, verdict(38, "b", "cart"), verdict(33, "b", "users")])
def test_without_a_trace_that_made_the_difference_it_was_something_else(other: Verdict | None) -> None:
    traces = {"a": sent(10), "b": sent(30)}
    rows = [verdict(12, "a"), verdict(33, "a", "cart"), *filter(None, [other])]
    found = times(traces, rows, [ranked(34, 1)], 99)
    assert found.others == [23] and not found.evidence and not found.machine

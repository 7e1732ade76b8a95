"""assemble: literal traces with own times worked out by hand; only the set of fragments decides."""

from __future__ import annotations

import struct
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from udfs.pure import assemble as a

NS_PER_MS = 1_000_000
START_MS = 1_740_997_800_000  # on the minute
INTERNAL, SERVER, CLIENT, PRODUCER, CONSUMER = 1, 2, 3, 4, 5


def span(
    name: str,
    parent: str,
    otel_service_name: str,
    start_ms: float,
    end_ms: float,
    kind: int = 0,
    error: int = 0,
    peer: str = "",
    operation: str | None = None,
    pod: str = "",
) -> tuple[str, str, list]:
    """(service, pod, span of a fragment); ids are the names, times in ms from START_MS."""
    times = [int((START_MS + ms) * NS_PER_MS) for ms in (start_ms, end_ms)]
    packed = [name, parent, operation or name, kind, error, *times, peer]
    return otel_service_name, pod, packed


def fragment(*spans: tuple[str, str, list]) -> bytes:
    return orjson.dumps(["spans", [[service, pod, "node", [row]] for service, pod, row in spans]])


def logs(*records: tuple[str, str, int, int]) -> bytes:
    """(service, span_id, severity_number, body's checksum)"""
    rows = [[s, i, severity, START_MS * NS_PER_MS, body] for s, i, severity, body in records]
    return orjson.dumps(["logs", rows])


def assembled(*spans: tuple[str, str, list], fragments: tuple[bytes, ...] = ()) -> a.Trace:
    result = a.assemble("t", [fragment(*spans), *fragments])
    assert result is not None
    return a.unpack(result[1])


def columns(trace: a.Trace) -> dict[str, dict[str, Any]]:
    """operation -> its row, times in ms, parent by its operation; all operations distinct."""
    names = [trace.operations[i].split(a.SEPARATOR)[1] for i in trace.spans["operation"]]
    rows = {}
    for name, row in zip(names, trace.spans, strict=True):
        rows[name] = {
            "own": row["own_ns"] / NS_PER_MS,
            "parent": names[row["parent"]] if row["parent"] >= 0 else None,
            "depth": int(row["depth"]),
            "repeats": int(row["repeats"]),
            "logs": int(row["error_logs"]),
            "error": bool(row["flags"] & a.ERROR),
            "own_error": bool(row["flags"] & a.OWN_ERROR),
            "call": bool(row["flags"] & a.IS_CALL),
            "answered": bool(row["flags"] & a.IS_ANSWERED),
        }
    return rows


def own(*spans: tuple[str, str, list]) -> dict[str, float]:
    return {name: row["own"] for name, row in columns(assembled(*spans)).items()}


def test_own_time_is_what_no_child_covers() -> None:
    # 0..100, children 10..40 and 30..60 overlap, 90..120 outlives its parent: 100 - 50 - 10.
    assert own(
        span("root", "", "shop", 0, 100),
        span("x", "root", "shop", 10, 40),
        span("y", "root", "shop", 30, 60),
        span("z", "root", "shop", 90, 120),
    ) == {"root": 40, "x": 30, "y": 30, "z": 30}


def test_the_gap_between_a_call_and_its_server_span_is_not_the_callers() -> None:
    rows = columns(
        assembled(
            span("handle", "", "shop", 0, 100, SERVER),
            span("call", "handle", "shop", 10, 90, CLIENT, peer="cart"),
            span("serve", "call", "cart", 40, 80, SERVER),
        )
    )
    assert rows["handle"]["own"] == 20
    assert rows["serve"]["own"] == 40
    assert (rows["call"]["own"], rows["call"]["answered"]) == (40, True)  # 80 long, 40 covered


@pytest.mark.parametrize("skew_ms", [-500, -15, -1, 0, 1, 5, 9, 500])
def test_the_clock_of_the_callees_host_has_no_say_in_the_gap(skew_ms: float) -> None:
    rows = columns(
        assembled(
            span("handle", "", "shop", 0, 30, SERVER),
            span("call", "handle", "shop", 5, 25, CLIENT),
            span("serve", "call", "cart", 10 + skew_ms, 16 + skew_ms, SERVER),
        )
    )
    assert rows["call"]["own"] == 20 - 6
    assert rows["serve"]["own"] == 6
    assert rows["handle"]["own"] == 10


@pytest.mark.parametrize(
    ("answer", "own"),
    [
        # The caller gave up: nothing tells how long it waited before the callee began.
        (span("answer", "call", "cart", 10, 40, SERVER), 5),
        # A message is taken up after it was sent.
        (span("answer", "call", "mail", 100, 110, CONSUMER), 75),
    ],
)
def test_what_is_no_answer_that_fits_is_not_moved_into_the_call(answer: tuple[str, str, list], own: float) -> None:
    rows = columns(assembled(span("call", "", "shop", 5, 25, CLIENT), answer))
    assert rows["call"]["own"] == own


def test_a_call_that_nobody_answers_keeps_its_time() -> None:
    rows = columns(
        assembled(
            span("handle", "", "shop", 0, 100, SERVER),
            span("call", "handle", "shop", 10, 90, CLIENT, error=1, peer="cart"),
            span("answered", "handle", "shop", 10, 95, CLIENT, peer="tax"),
            span("serve", "answered", "tax", 11, 94, SERVER),
        )
    )
    assert rows["call"]["own"] == 80
    assert rows["call"]["call"] and not rows["call"]["answered"]
    assert rows["call"]["own_error"]


def test_the_lag_of_a_message_lies_behind_its_producer() -> None:
    rows = columns(
        assembled(
            span("handle", "", "shop", 0, 10, SERVER),
            span("send", "handle", "shop", 5, 7, PRODUCER),
            span("process", "send", "mail", 50, 60, CONSUMER),
        )
    )
    assert rows["handle"]["own"] == 8
    assert (rows["send"]["own"], rows["process"]["own"]) == (43, 10)


def test_without_kinds_a_span_whose_only_child_is_remote_is_a_call() -> None:
    rows = columns(
        assembled(
            span("handle", "", "shop", 0, 100),
            span("client", "handle", "shop", 10, 90),
            span("serve", "client", "cart", 40, 80),
            span("query", "serve", "cart", 50, 60),
        )
    )
    assert rows["client"]["answered"] and rows["client"]["own"] == 40
    assert not rows["serve"]["call"] and rows["serve"]["own"] == 30
    # The entry of a service is its own work, though all that it does may be one call.
    rows = columns(assembled(span("entry", "", "shop", 0, 100), span("s", "entry", "cart", 5, 50)))
    assert not rows["entry"]["call"] and rows["entry"]["own"] == 55


def test_the_gateways_handler_beside_the_call_is_not_blamed_for_it() -> None:
    rows = own(
        span("/*", "", "gateway", 0, 176),
        span("FilteringWebHandler.handle", "/*", "gateway", 1, 175),
        span("HTTP POST", "/*", "gateway", 2, 174),
        span("/login", "HTTP POST", "auth", 4, 171),
    )
    assert rows == {"/*": 2, "FilteringWebHandler.handle": 2, "HTTP POST": 5, "/login": 167}


def test_an_error_is_a_spans_own_unless_a_child_has_it() -> None:
    rows = columns(
        assembled(
            span("handle", "", "shop", 0, 100, SERVER, error=1),
            span("call", "handle", "shop", 10, 90, CLIENT, error=1),
            span("serve", "call", "cart", 20, 80, SERVER, error=1),
            span("other", "handle", "shop", 90, 95, INTERNAL),
        )
    )
    assert [name for name, row in rows.items() if row["own_error"]] == ["serve"]
    assert [name for name, row in rows.items() if row["error"]] == ["handle", "call", "serve"]


def test_repeats_count_siblings_of_one_operation_and_peer() -> None:
    trace = assembled(
        span("handle", "", "shop", 0, 100),
        *(span(i, "handle", "shop", 1, 2, CLIENT, 0, "cart", "GET") for i in ("a", "b", "c")),
        span("d", "handle", "shop", 50, 60, CLIENT, 0, "tax", "GET"),
        span("e", "d", "shop", 50, 60, CLIENT, 0, "cart", "GET"),
    )
    assert trace.spans["repeats"].tolist() == [1, 3, 3, 3, 1, 1]


def test_orphans_are_kept_as_roots_and_the_earliest_is_the_root() -> None:
    trace = assembled(
        span("late", "gone", "cart", 20, 30),
        span("early", "lost", "shop", 10, 40),
        span("below", "early", "shop", 12, 14),
    )
    rows = columns(trace)
    assert {name: row["parent"] for name, row in rows.items()} == {
        "early": None, "below": "early", "late": None,
    }  # fmt: skip
    assert trace.operations[trace.spans["operation"][trace.root]] == "shop\x1fearly"


def test_parents_come_before_children_whatever_the_clocks_say() -> None:
    trace = assembled(span("root", "", "shop", 10, 50), span("ahead", "root", "cart", 5, 20))
    assert trace.spans["parent"].tolist() == [-1, 0]
    assert trace.start_ns == (START_MS + 5) * NS_PER_MS


def test_cycles_are_cut_at_their_first_span() -> None:
    rows = columns(
        assembled(
            span("a", "c", "s", 1, 9),
            span("b", "a", "s", 2, 8),
            span("c", "b", "s", 3, 7),
            span("early", "c", "s", 0, 5),
            span("self", "self", "s", 0, 1),
        )
    )
    assert {name: (row["parent"], row["depth"]) for name, row in rows.items()} == {
        "self": (None, 0), "a": (None, 0), "b": ("a", 1), "c": ("b", 2), "early": ("c", 3),
    }  # fmt: skip


def test_a_span_that_comes_twice_counts_once_and_the_later_end_wins() -> None:
    partial, whole = span("x", "", "s", 0, 10), span("x", "", "s", 0, 30, error=1)
    for fragments in ([partial, whole, whole], [whole, partial]):
        trace = assembled(*fragments)
        assert trace.spans["duration_ns"].tolist() == [30 * NS_PER_MS]


def test_error_logs_count_for_their_span_or_their_services_first() -> None:
    rows = columns(
        assembled(
            span("root", "", "shop", 0, 100),
            span("serve", "root", "cart", 10, 90),
            span("query", "serve", "cart", 20, 30),
            fragments=(
                logs(("cart", "query", 17, 1), ("cart", "query", 17, 2), ("cart", "query", 9, 3)),
                logs(("cart", "", 21, 4), ("cart", "query", 17, 1), ("nobody", "", 17, 5)),
            ),
        )
    )
    assert {name: row["logs"] for name, row in rows.items()} == {"root": 0, "serve": 1, "query": 2}


def test_there_is_no_trace_of_logs_alone() -> None:
    assert a.assemble("t", [logs(("shop", "", 17, 1))]) is None


def test_the_minute_is_that_of_the_first_span() -> None:
    before = fragment(span("x", "y", "s", -1, 10), span("y", "", "s", 0, 5))
    assert a.assemble("t", [before])[0] == START_MS - 60_000


def test_more_than_is_known_of_does_not_break_it() -> None:
    service, pod, row = span("x", "", "s", 0, 10)
    longer = orjson.dumps(["spans", [[service, pod, "node", [[*row, 1.0, "more", 7]], "", "more"]], "more"])
    assert a.assemble("t", [longer]) == a.assemble("t", [fragment((service, pod, row))])


SPANS = [
    span("root", "", "shop", 0, 90, SERVER, pod="shop-1"),
    span("call", "root", "shop", 5, 60, CLIENT, error=1, peer="cart", pod="shop-1"),
    span("call", "root", "shop", 5, 70, CLIENT, error=1, peer="cart", pod="shop-1"),
    span("serve", "call", "cart", 6, 50, SERVER, error=1, pod="cart-1"),
    span("again", "root", "shop", 61, 80, CLIENT, peer="cart", pod="shop-1", operation="call"),
    span("orphan", "gone", "tax", 61, 62, pod="tax-1"),
    span("c1", "c2", "loop", 61, 62),
    span("c2", "c1", "loop", 61, 62),
]
FRAGMENTS = [fragment(s) for s in SPANS] + [logs(("shop", "call", 17, 1)), logs(("tax", "", 18, 1))]


@settings(derandomize=True, max_examples=60)
@given(
    st.permutations(range(len(FRAGMENTS))),
    st.lists(st.integers(0, len(FRAGMENTS) - 1), max_size=4),
)
def test_order_and_repetition_of_fragments_have_no_say(order: list[int], again: list[int]) -> None:
    expected = a.assemble("t", FRAGMENTS)
    assert a.assemble("t", [FRAGMENTS[i] for i in [*order, *again]]) == expected


@settings(derandomize=True, max_examples=100)
@given(
    st.lists(
        st.tuples(
            st.integers(-1, 8),  # parent
            st.integers(0, 2),  # service
            st.integers(0, 50),  # start
            st.integers(0, 50),  # duration
            st.integers(0, 5),  # kind
        ),
        min_size=1,
        max_size=9,
    )
)
def test_any_graph_of_spans_becomes_a_forest_with_sound_times(drawn: list[tuple]) -> None:
    spans = [
        span(f"s{i}", f"s{parent}", f"service{service}", start, start + length, kind)
        for i, (parent, service, start, length, kind) in enumerate(drawn)
    ]
    trace = assembled(*spans)
    rows = trace.spans
    assert len(rows) == len(drawn)
    assert (rows["parent"] < range(len(rows))).all()
    assert rows["parent"][trace.root] == -1
    answered = (rows["flags"] & a.IS_ANSWERED) > 0
    assert (rows["own_ns"] >= 0).all()
    assert (rows["own_ns"] <= rows["duration_ns"])[~answered].all()


@pytest.mark.parametrize("columns_of", ["operations", "pods"])
def test_the_vocabulary_names_services_with_operations_and_pods(columns_of: str) -> None:
    trace = assembled(*SPANS)
    names = getattr(trace, columns_of)
    assert len(set(names)) == len(names)
    expected = {"operations": "shop\x1fcall\x1fcart", "pods": "shop\x1fshop-1"}
    assert expected[columns_of] in names


def test_pods_have_hosts_whatever_the_order_of_fragments() -> None:
    def of(host: str, pod: str, *row: Any) -> bytes:
        service, _, packed = span(*row)
        return orjson.dumps(["spans", [[service, pod, host, [packed]]]])

    fragments = of("h1", "p", "x", "", "s", 0, 10), of("", "p", "y", "x", "s", 1, 2), of("", "q", "z", "x", "s", 3, 4)
    (one, other) = (a.assemble("t", order) for order in (fragments, fragments[::-1]))
    assert one == other
    trace = a.unpack(one[1])
    assert dict(zip(trace.pods, trace.hosts, strict=True)) == {"s\x1fp": "h1", "s\x1fq": ""}


def test_a_trace_that_was_packed_without_hosts_is_read() -> None:
    _, packed = a.assemble("t", [fragment(span("x", "", "s", 0, 10))])
    (length,) = struct.unpack_from("<i", packed)
    header = orjson.dumps(orjson.loads(packed[4 : 4 + length])[:5])
    trace = a.unpack(struct.pack("<i", len(header)) + header + packed[4 + length :])
    assert trace.hosts == [""]
    assert len(trace.spans) == 1

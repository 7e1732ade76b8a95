"""Names from outside: what no database takes is left out, what no key holds is cut, distinct ones stay distinct."""

from __future__ import annotations

import orjson
import pytest

from udfs.pure.names import NAME_MAX_BYTES, name
from udfs.pure.otlp import collect_spans
from udfs.pure.reject import reject


def test_usual_names_are_left_as_they_are() -> None:
    assert name("frontend") == "frontend"
    assert name("früh/stück-ü") == "früh/stück-ü"
    assert name("x" * NAME_MAX_BYTES) == "x" * NAME_MAX_BYTES


@pytest.mark.parametrize("letter", ["x", "ü", "💥"])
def test_long_names_are_cut_and_stay_different(letter: str) -> None:
    one, other = name(letter * 5_000 + "1"), name(letter * 5_000 + "2")
    assert one != other
    assert len(one.encode()) <= NAME_MAX_BYTES
    assert name(one) == one


def test_no_table_gets_a_nul() -> None:
    span = {
        "traceId": "0" * 31 + "1", "spanId": "0" * 15 + "1", "name": "GET\x00 /", "kind": 3,
        "startTimeUnixNano": "1700000000000000000", "endTimeUnixNano": "1700000000000000001",
        "attributes": [{"key": "peer.service", "value": {"stringValue": "pay\x00"}}],
    }  # fmt: skip
    resource = {"attributes": [{"key": "service.name", "value": {"stringValue": "ca\x00rt"}}]}
    request = {"resourceSpans": [{"resource": resource, "scopeSpans": [{"spans": [span]}]}]}
    fragments, _, rejects = collect_spans(orjson.dumps(request))
    assert rejects == []
    (fragment,) = fragments.values()
    assert b"\\u0000" not in fragment and b"cart" in fragment
    told = orjson.loads(reject("otlp_spans", "bad \x00", b"{ \x00 }"))
    assert "\x00" not in told["reason"] + told["payload"]

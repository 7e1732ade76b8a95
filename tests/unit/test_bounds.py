"""What is kept by name is bounded, whatever names come."""

from __future__ import annotations

import random

import pytest

from udfs import assemble
from udfs.pure import focus, otlp, rates
from udfs.pure.baseline import Vocabulary
from udfs.pure.cache import Bounded, cached

MINUTE_MS = 60_000


def test_a_long_text_is_computed_and_not_kept() -> None:
    calls = []
    shout = cached(2, 5)(lambda text: calls.append(text) or text.upper())
    assert [shout(text) for text in ("a", "a", "longer", "longer", "b", "c", "a")] == list("AA") + [
        "LONGER", "LONGER", "B", "C", "A",
    ]  # fmt: skip
    assert calls == ["a", "longer", "longer", "b", "c", "a"]


def test_operation_names_are_cached_by_bytes_too() -> None:
    """20,000 names of 10 kB would be 200 MB."""
    before = otlp.operation_name.cache_info().currsize
    for number in range(100):
        otlp.operation_name(f"SELECT {number} " + "x" * 10_000)
    assert otlp.operation_name.cache_info().currsize == before
    assert otlp.operation_name("GET /orders/4711") == "GET /orders/{}"


@pytest.mark.parametrize("cache, key, short", [
    (rates.unit_kind, "{} vCPU-Hours", "Hours"),
    (rates._usage_per_unit, ("{} GiB-Hours", "memory"), ("Hours", "cpu")),
    (rates.windows_per_unit, "{} Hours", "Hours"),
    (focus._parse_time, "2025-03-03T12:00:00.{}Z", "2025-03-03T12:00:00Z"),
    (focus._columns, ("ResourceId", "x_{}"), ("ResourceId", "x_Team")),
])  # fmt: skip
def test_what_a_bill_says_is_cached_by_characters_too(cache, key: str | tuple, short: str | tuple) -> None:
    """Each cell and each column's name may be as long as a record."""
    cache(short)
    before = cache.cache_info()
    assert before.currsize
    for number in range(20):
        text = f"{number}" + "1" * 20_000
        cache(key.format(text) if isinstance(key, str) else tuple(name.format(text) for name in key))
    cache(short)
    assert cache.cache_info().currsize == before.currsize
    assert cache.cache_info().hits > before.hits


@pytest.mark.parametrize("length", [1, 50, 5_000, 100_000])
def test_assembled_traces_are_held_up_to_so_many_bytes(length: int) -> None:
    held: Bounded[str] = Bounded(1_000_000)
    for number in range(3_000):
        held.put(b"%d" % number, "x" * length, length + 100)
        assert held.size_bytes <= 1_000_000
    assert held.take(b"2999") == "x" * length
    assert held.take(b"2999") is None
    held.put(b"a", "x", 2_000_000)
    assert held.take(b"a") is None


def test_a_trace_is_assembled_once_for_its_coming_and_its_going(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(assemble.pure, "assemble", lambda *of: calls.append(of) or (0, b"packed"))
    assert assemble._assemble("t", [b"1"]) == assemble._assemble("t", [b"1"]) == (0, "cGFja2Vk")
    assert len(calls) == 1


def test_a_released_name_leaves_its_number_to_the_next_one() -> None:
    names = Vocabulary()
    names.see(["a", "b", "c"], 0)
    assert names.see(["b"], 10 * MINUTE_MS) == []
    assert names.release(5 * MINUTE_MS).tolist() == [0, 2]
    assert (names.get("a"), names.get("b"), len(names)) == (-1, 1, 3)
    assert names.see(["d", "e", "f"], 11 * MINUTE_MS) == [0, 2]
    assert names.names == ["d", "b", "e", "f"]
    assert names.last_seen.tolist() == [11 * MINUTE_MS, 10 * MINUTE_MS, 11 * MINUTE_MS, 11 * MINUTE_MS]


def test_names_that_come_and_go_take_as_many_numbers_as_live_at_once() -> None:
    names = Vocabulary()
    for number in range(2_000):
        names.see([f"job-{number}", "api"], number * MINUTE_MS)
        names.release((number - 60) * MINUTE_MS, most=50)
    assert len(names) <= 51 and names.get("api") == 0


def test_which_names_are_released_is_no_matter_of_their_order() -> None:
    found = []
    for seed in range(5):
        names = Vocabulary()
        order = [f"s{number}" for number in range(40)]
        random.Random(seed).shuffle(order)
        for name in order:
            names.see([name], 0)
        gone = [names.names[i] for i in range(40)]
        released = names.release(0, most=10)
        found.append(sorted(gone[i] for i in released))
    assert all(of == found[0] for of in found) and len(found[0]) == 30


def test_numbers_of_nobody_outlive_a_renumbering() -> None:
    names = Vocabulary()
    names.see(["a", "b", "c"], 0)
    names.see(["c"], 9)
    names.release(5)
    names.keep(names.last_seen.argsort()[-2:])
    assert names.see(["d"], 10) == [0]
    assert names.get("c") == 1

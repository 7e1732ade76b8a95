"""The call tree of one trace: who called whom, and whose time and error it was.

Grain: one trace; spans as (start_ns, span_id, end_ns, parent_span_id, service, pod, operation,
kind, error, peer), each span_id once, in ascending order. All times are ns.

Time that a span spends waiting for its children is not its own. Four rules go beyond that:

1. A span that only stands for a remote call (OTel kinds CLIENT and PRODUCER; where the emitter
   gives no kinds, a span inside a service whose only child is another service's) is *answered*
   when the callee has a span. What that doesn't cover of it (of a message: the time between the
   two) is not the caller's: it is the network's, the broker's, the callee's accept queue.
2. A childless span beside an answered call, in the same service, waits for it where the two
   overlap (an asynchronous gateway's handler does).
3. An error is a span's own unless a child has one, too.
4. A CLIENT span waits for its answer. An answer that fits into it and seems to lie outside, in whole or in part, was
   timed by another clock: it is moved into the call, as Jaeger does (its clock skew adjuster), so that the gap is the
   difference of two durations and no clock has a say in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

UNSPECIFIED, CLIENT, PRODUCER, CONSUMER = 0, 3, 4, 5

# (start_ns, span_id, end_ns, parent_span_id, service, pod, operation, kind, error, peer)
Span = tuple[int, str, int, str, str, str, str, int, int, str]
START: Final = 0
SPAN_ID: Final = 1
END: Final = 2
PARENT: Final = 3
SERVICE: Final = 4
OPERATION: Final = 6
PEER: Final = 9


class CallTree(NamedTuple):
    """Per span, in the order of the input: lists of the same length."""

    preorder: list[int]  # parents before children, siblings by (start, span_id)
    parents: list[int]  # -1 for a root
    own_ns: list[int]  # of an answered call: the gap to its callee
    is_call: list[bool]  # stands for a remote call: rule 1, whether the callee has a span or not
    is_answered: list[bool]  # a call of which the callee has a span
    own_error: list[bool]
    repeats: list[int]  # sibling spans of the same service, operation and peer, itself included


def call_tree(spans: Sequence[Span]) -> CallTree:
    """The tree of ``spans``, which are sorted and have unique span_ids.

    A span whose parent is not among them is a further root. A cycle of parents is cut at its
    first span in order.
    """
    count = len(spans)
    position = {span[SPAN_ID]: i for i, span in enumerate(spans)}
    parents = [position.get(span[PARENT], -1) for span in spans]
    children: list[list[int]] = [[] for _ in spans]
    roots = []
    for i, parent in enumerate(parents):
        if parent < 0 or parent == i:
            parents[i] = -1
            roots.append(i)
        else:
            children[parent].append(i)
    preorder = _preorder(roots, children)
    if len(preorder) < count:
        seen = set(preorder)
        for i in range(count):
            if i not in seen:
                first = _first_of_cycle(i, parents)
                children[parents[first]].remove(first)
                parents[first] = -1
                reached = _preorder([first], children)
                preorder += reached
                seen.update(reached)

    own_ns = [0] * count
    is_call, is_answered = [False] * count, [False] * count
    own_error, repeats = [False] * count, [1] * count
    for i, (start, _, end, _, service, _, _, kind, error, _) in enumerate(spans):
        below = children[i]
        if not below:
            own_ns[i] = end - start
            own_error[i] = error > 0
            is_call[i] = kind == CLIENT or kind == PRODUCER
            continue
        uncovered = end - start
        reach = start
        remote = erring = is_moved = False
        for child in below:
            a, _, b, _, child_service, _, _, child_kind, child_error, _ = spans[child]
            if child_service != service:
                remote = True
                if kind == CLIENT and child_kind != CONSUMER and (a < start or b > end) and b - a <= end - start:
                    a, b = (start, start + b - a) if a < start else (end - b + a, end)
                    is_moved = True
            if child_error:
                erring = True
            if a < reach:
                a = reach
            if b > end:
                b = end
            if b > a:
                uncovered -= b - a
                reach = b
        own_error[i] = error > 0 and not erring
        if kind == CLIENT or kind == PRODUCER:
            is_call[i], is_answered[i] = True, remote
        elif kind == UNSPECIFIED and remote and len(below) == 1:
            parent = parents[i]
            is_call[i] = is_answered[i] = parent >= 0 and spans[parent][SERVICE] == service
        if is_answered[i]:
            # A message is taken up after it was sent: the time in the broker lies behind the span.
            lag = 0 if is_moved else next(spans[c][START] for c in below if spans[c][SERVICE] != service) - end
            own_ns[i] = lag if lag > 0 else uncovered
        else:
            own_ns[i] = uncovered
        if len(below) > 1:
            _count_repeats(below, spans, repeats)
    for siblings in [roots, *children]:
        if len(siblings) > 1:
            _yield_to_calls(siblings, spans, children, is_call, is_answered, own_ns)
    return CallTree(preorder, parents, own_ns, is_call, is_answered, own_error, repeats)


def _preorder(roots: list[int], children: list[list[int]]) -> list[int]:
    order = []
    stack = roots[::-1]
    while stack:
        i = stack.pop()
        order.append(i)
        if children[i]:
            stack += children[i][::-1]
    return order


def _first_of_cycle(i: int, parents: list[int]) -> int:
    """The least position on the cycle that the ancestors of ``i`` run into."""
    on_way: set[int] = set()
    while i not in on_way:
        on_way.add(i)
        i = parents[i]
    first, at = i, parents[i]
    while at != i:
        first, at = min(first, at), parents[at]
    return first


def _count_repeats(siblings: list[int], spans: Sequence[Span], repeats: list[int]) -> None:
    groups: dict[tuple[str, str, str], list[int]] = {}
    for i in siblings:
        span = spans[i]
        groups.setdefault((span[SERVICE], span[OPERATION], span[PEER]), []).append(i)
    if len(groups) < len(siblings):
        for group in groups.values():
            for i in group:
                repeats[i] = len(group)


def _yield_to_calls(
    siblings: list[int],
    spans: Sequence[Span],
    children: list[list[int]],
    is_call: list[bool],
    is_answered: list[bool],
    own_ns: list[int],
) -> None:
    """Rule 2: take the time of answered calls off the childless spans beside them.

    A call that nobody answers keeps its time: it doesn't wait for another call.
    """
    calls = [i for i in siblings if is_answered[i]]
    if not calls:
        return
    for i in siblings:
        if children[i] or is_call[i] or not own_ns[i]:
            continue
        span = spans[i]
        start, end, reach = span[START], span[END], span[START]
        for call in calls:
            other = spans[call]
            if other[SERVICE] == span[SERVICE]:
                a, b = max(other[START], reach), min(other[END], end)
                if b > a:
                    own_ns[i] -= b - a
                    reach = b
        assert 0 <= own_ns[i] <= end - start, (own_ns[i], end - start)

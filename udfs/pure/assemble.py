"""assemble: the fragments of one trace -> one packed trace, and back.

Grain: one trace. A packed trace is a header (JSON: the trace's id, the start of its first span,
its vocabulary, the hosts of its pods, and, where they tell anything, its weight, the versions
that its pods run and its traits) and an array of SPAN rows, parents before children. The root (its row is not
always the first) is the earliest span without a parent in the trace.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import orjson

from udfs.pure.calltree import Span, call_tree
from udfs.pure.windows import minute_start

NS_PER_MS = 1_000_000

# SeverityNumber of ERROR, in the logs data model.
ERROR_SEVERITY = 17

# Between the parts of a vocabulary entry; no name in the field holds it.
SEPARATOR = "\x1f"

# Flags of a span.
ERROR, OWN_ERROR, IS_CALL, IS_ANSWERED = 1, 2, 4, 8

# A row: times in ns, start since the trace's first span; indices into the vocabulary.
SPAN = np.dtype([
    ("start_ns", "<i8"),
    ("duration_ns", "<i8"),
    ("own_ns", "<i8"),  # of an answered call: the gap to its callee
    ("parent", "<i4"),  # row in this trace, -1 for a root
    ("operation", "<i4"),
    ("pod", "<i4"),
    ("repeats", "<i4"),
    ("error_logs", "<i4"),
    ("depth", "<i4"),
    ("flags", "<i4"),
])  # fmt: skip
_pack_span = struct.Struct("<3q7i").pack
_HEADER_LENGTH = struct.Struct("<i")


class Trace(NamedTuple):
    """A packed trace, read. Vocabulary entries are joined by SEPARATOR."""

    trace_id: str
    start_ns: int  # of the first span
    root: int  # row of the root
    operations: list[str]  # service, operation, and the peer where the span names one
    pods: list[str]  # service, pod
    hosts: list[str]  # (pods,) the machine that each runs on, "" = unknown
    spans: np.ndarray  # (spans,) of SPAN
    versions: list[str]  # (pods,) what each runs, "" = unknown
    weight: float = 1.0  # how many traces it stands for, at least 1: those that a sampler left out are like it
    traits: Mapping[str, str] = {}  # attributes by which unit costs are told


def assemble(trace_id: str, fragments: Iterable[bytes]) -> tuple[int, bytes] | None:
    """(minute of the first span in ms, packed trace); None where there are only logs.

    A function of the set of fragments. A span that comes twice counts once; of two that share an
    id and differ, the one that ends last is kept (an exporter's later word), then the greater row.
    """
    rows: dict[str, Span] = {}
    logs: set[tuple] = set()
    hosts: dict[str, str] = {}
    versions: dict[str, str] = {}
    counts: dict[str, float] = {}  # what samplers say, by span
    told: dict[str, dict[str, str]] = {}  # traits, by span
    for fragment in fragments:
        what, groups = orjson.loads(fragment)[:2]
        if what == "logs":
            logs.update(tuple(record[:5]) for record in groups if record[2] >= ERROR_SEVERITY)
            continue
        for group in groups:
            service, pod, host = group[:3]
            name = service + SEPARATOR + pod
            hosts[name] = max(host, hosts.get(name, ""))
            if len(group) > 4 and group[4]:
                versions[name] = max(group[4], versions.get(name, ""))
            for span in group[3]:
                span_id, parent, operation, kind, error, start, end, peer = span[:8]
                if len(span) > 8 and span[8]:
                    counts[span_id] = max(span[8], counts.get(span_id, 0.0))
                if len(span) > 9 and type(span[9]) is dict:
                    told[span_id] = _greater(told.get(span_id, {}), span[9])
                row = (start, span_id, end, parent, service, pod, operation, kind, error, peer)
                known = rows.get(span_id)
                if known is None or (row[2], row) > (known[2], known):
                    rows[span_id] = row
    if not rows:
        return None
    spans = sorted(rows.values())
    start_ns = spans[0][0]
    return minute_start(start_ns // NS_PER_MS), _pack(trace_id, start_ns, spans, logs, hosts, versions, counts, told)


def _pack(
    trace_id: str,
    start_ns: int,
    spans: list[Span],
    logs: set[tuple],
    hosts: Mapping[str, str],
    versions: Mapping[str, str],
    counts: Mapping[str, float],
    told: Mapping[str, Mapping[str, str]],
) -> bytes:
    tree = call_tree(spans)
    parents, own_ns = tree.parents, tree.own_ns
    error_logs = _error_logs(spans, logs) if logs else {}
    operations: dict[str, int] = {}
    pods: dict[str, int] = {}
    row_of = [0] * len(spans)
    depths = [0] * len(spans)
    body = []
    root = -1
    for row, i in enumerate(tree.preorder):
        start, _, end, _, service, pod, operation, _, error, peer = spans[i]
        row_of[i] = row
        parent = parents[i]
        if parent >= 0:
            depths[i] = depths[parent] + 1
            parent = row_of[parent]
        elif root < 0 or i < root:
            root = i
        operation = service + SEPARATOR + operation
        if peer:
            operation += SEPARATOR + peer
        pod = service + SEPARATOR + pod
        flags = ERROR if error else 0
        if tree.own_error[i]:
            flags |= OWN_ERROR
        if tree.is_call[i]:
            flags |= IS_CALL
            if tree.is_answered[i]:
                flags |= IS_ANSWERED
        body.append(_pack_span(
            start - start_ns,
            end - start,
            own_ns[i],
            parent,
            operations.setdefault(operation, len(operations)),
            pods.setdefault(pod, len(pods)),
            tree.repeats[i],
            error_logs.get(i, 0),
            depths[i],
            flags,
        ))  # fmt: skip
    parts = [trace_id, start_ns, row_of[root], list(operations), list(pods), [hosts[name] for name in pods]]
    # A sampler decides on a trace at its root; some say so there alone, others on spans that came without their root.
    weight = counts.get(spans[root][1]) or max(counts.values(), default=1.0)
    if weight > 1 or versions or told:
        parts.append(weight)
    if versions or told:
        parts.append([versions.get(name, "") for name in pods])
    if told:
        # What the root says counts; of the others, whom a propagator may have told, the greatest.
        traits: dict[str, str] = {}
        for of_span in told.values():
            traits = _greater(traits, of_span)
        parts.append(dict(sorted((traits | dict(told.get(spans[root][1], {}))).items())))
    header = orjson.dumps(parts)
    return b"".join([_HEADER_LENGTH.pack(len(header)), header, *body])


def _greater(one: Mapping[str, str], other: Mapping[str, str]) -> dict[str, str]:
    """Of each name the greater value, so that no order of spans matters."""
    return {name: max(one.get(name, ""), other.get(name, "")) for name in {**one, **other}}


def _error_logs(spans: list[Span], logs: set[tuple]) -> dict[int, int]:
    """Error log records by span; one without a known span counts for its service's first span."""
    position = {span[1]: i for i, span in enumerate(spans)}
    first_of_service: dict[str, int] = {}
    for i, span in enumerate(spans):
        first_of_service.setdefault(span[4], i)
    counts: dict[int, int] = {}
    for service, span_id, *_ in logs:
        found = position.get(span_id, first_of_service.get(service))
        if found is not None:
            counts[found] = counts.get(found, 0) + 1
    return counts


def unpack(packed: bytes) -> Trace:
    """What ``assemble`` packed; the array is a view of ``packed`` and read-only. Traces that were packed before they
    told hosts have none, and those that tell no weight have 1."""
    (length,) = _HEADER_LENGTH.unpack_from(packed)
    start = _HEADER_LENGTH.size
    trace_id, start_ns, root, operations, pods, *more = orjson.loads(packed[start : start + length])
    unknown = [""] * len(pods)
    hosts = more[0] if more else unknown
    weight = more[1] if len(more) > 1 else 1.0
    versions = more[2] if len(more) > 2 else unknown
    traits = more[3] if len(more) > 3 else {}
    spans = np.frombuffer(packed, SPAN, offset=start + length)
    return Trace(trace_id, start_ns, root, operations, pods, hosts, spans, versions, weight, traits)


def opened(trace: bytes | Trace) -> Trace:
    """A trace, packed or read already."""
    return trace if isinstance(trace, Trace) else unpack(trace)

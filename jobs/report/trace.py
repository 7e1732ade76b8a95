"""Traces as call trees: their spans, who called whom, and which span is the culprit's."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from jobs import telemetry
from udfs.pure.otlp import collect_spans

_TRACE_ID = re.compile(rb'"traceId"\s*:\s*"([0-9A-Fa-f]{32})"')


@dataclass(eq=False)
class Span:
    """A span in its call tree; ``children`` by start, ``depth`` 0 for a root, times in ns.

    ``own_ns`` is the span's duration less the time that any of its children was at work.
    """

    span_id: str
    parent_span_id: str
    otel_service_name: str
    pod: str
    operation: str
    error: bool
    start_ns: int
    end_ns: int
    peer: str
    children: list[Span] = field(default_factory=list)
    depth: int = 0
    own_ns: int = 0

    @property
    def duration_ns(self) -> int:
        return self.end_ns - self.start_ns


def read_traces(input_dir: Path, span_counts: Mapping[str, int | None]) -> dict[str, list[Span]]:
    """The spans of traces out of the files of ``traces``, each once, in no tree yet; a trace without any is not there.

    span_counts: trace id in lower case -> how many spans it has, None where nobody knows.

    Lines are told by their bytes, so that a scan costs little more than the decompression; it ends with the files, or
    before that once all spans are found. Spans that the job rejected are not among them.
    """
    found: dict[str, dict[str, Span]] = {trace_id: {} for trace_id in span_counts}
    missing = {trace_id.encode() for trace_id in span_counts}
    for line in telemetry.requests(input_dir, "traces"):
        if not missing:
            break
        if missing.isdisjoint(text.lower() for text in set(_TRACE_ID.findall(line))):
            continue
        for trace_id, fragment in collect_spans(line)[0].items():
            if trace_id not in found:
                continue
            for span in _spans(fragment):
                found[trace_id].setdefault(span.span_id, span)
            span_count = span_counts[trace_id]
            if span_count is not None and len(found[trace_id]) >= span_count:
                missing.discard(trace_id.encode())
    return {trace_id: list(spans.values()) for trace_id, spans in found.items() if spans}


def _spans(fragment: bytes | str) -> Iterator[Span]:
    """Of a trace's fragment, as otlp.collect_spans has it."""
    # More may follow: the version of a service, how many a sampled span stands for.
    for service, pod, _, fields, *_ in orjson.loads(fragment)[1]:
        for span_id, parent, operation, _, error, start_ns, end_ns, peer, *_ in fields:
            yield Span(span_id, parent, service, pod, operation, bool(error), start_ns, end_ns, peer)


def _busy_ns(span: Span) -> int:
    """Time within ``span`` in which at least one of its children was at work."""
    busy, reached = 0, span.start_ns
    for child in span.children:
        start, end = max(child.start_ns, reached), min(child.end_ns, span.end_ns)
        if end > start:
            busy += end - start
            reached = end
    return busy


def call_tree(spans: Sequence[Span]) -> list[Span]:
    """``spans`` linked and in reading order: a parent before its children, these by their start.

    A span whose parent is not in the trace is a root; of a ring of parents, the earliest span is.
    """
    by_id = {span.span_id: span for span in spans}
    in_time = sorted(spans, key=lambda span: (span.start_ns, -span.end_ns, span.span_id))
    for span in in_time:
        parent = by_id.get(span.parent_span_id)
        if parent is not None and parent is not span:
            parent.children.append(span)
    ordered: dict[str, Span] = {}
    roots = [span for span in in_time if span.parent_span_id not in by_id]
    for root in [*roots, *in_time]:
        stack = [(root, 0)]
        while stack:
            span, depth = stack.pop()
            if span.span_id in ordered:
                continue
            ordered[span.span_id] = span
            span.depth, span.own_ns = depth, span.duration_ns - _busy_ns(span)
            stack += [(child, depth + 1) for child in reversed(span.children)]
    return list(ordered.values())


def culprit_span(tree: Sequence[Span], service: str | None, operation: str | None) -> Span | None:
    """The span that the verdict's culprit points at, None where the trace has none of it.

    Of the culprit's spans, the named operation before others, an error before none, then the most
    own time. Where the culprit itself left no span, the call that names it as its peer.
    """
    candidates = [span for span in tree if span.otel_service_name == service] or [
        span for span in tree if span.peer and span.peer == service
    ]
    return max(candidates, key=lambda s: (s.operation == operation, s.error, s.own_ns), default=None)


def abridge(tree: Sequence[Span], keep: Span | None, most: int) -> list[Span]:
    """About ``most`` spans of ``tree``, in its order: ``keep`` and its calls, then the longest.

    Each comes with its callers, so that what is left is a tree again.
    """
    if len(tree) <= most:
        return list(tree)
    by_id = {span.span_id: span for span in tree}
    chosen: set[str] = set()
    longest = sorted(tree, key=lambda span: -span.duration_ns)
    for span in [keep, *keep.children, *longest] if keep else longest:
        if len(chosen) >= most:
            break
        at: Span | None = span
        while at is not None and at.span_id not in chosen:
            chosen.add(at.span_id)
            at = by_id.get(at.parent_span_id)
    return [span for span in tree if span.span_id in chosen]

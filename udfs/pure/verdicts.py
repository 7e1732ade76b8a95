"""Verdicts and incidents: who is blamed for a trace, and what is said of a minute."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from udfs.pure.assemble import NS_PER_MS, SEPARATOR
from udfs.pure.channels import OVERUSE, THRESHOLD, TIMES
from udfs.pure.evidence import Level
from udfs.pure.frame import Frame
from udfs.pure.workload import Work

Row = dict[str, Any]

WARMING, READY = "warming", "ready"

EXEMPLARS = 5


@dataclass
class MinuteResult:
    """Verdicts of a minute's traces (columns of trace_verdicts, times in ms), by trace_id; its
    incidents, one for each culprit; and how many of its traces touch each service.

    is_final: the minute is not told anew, unless something of it comes late."""

    minute_ms: int
    verdicts: list[Row] = field(default_factory=list)
    incidents: list[Row] = field(default_factory=list)
    service_traces: dict[str, int] = field(default_factory=dict)
    is_final: bool = True


@dataclass
class JudgedMinute:
    """What is kept of a judged minute, until it is told anew. Services, pods and operations are places in its own lists
    of names: their numbers may belong to others by then."""

    minute_ms: int
    rows: list[Row]  # verdicts, to be filled in
    is_warming: np.ndarray  # (traces,)
    service_names: list[str]
    services: Level
    pods: Level
    pod_cell: np.ndarray  # (pod cells,) the service cell of each
    loop_operation: np.ndarray  # (loops,)
    loop_cell: np.ndarray  # (loops,) service cell
    loop_weight: np.ndarray  # (loops,)
    used_cell: np.ndarray  # (n,) service cells of (trace, pod) pairs
    used_pod: np.ndarray  # (n,)
    pod_names: list[str]
    first_span: np.ndarray  # (service cells,) first span, -1 = only blamed
    parent: np.ndarray  # (spans,)
    depth: np.ndarray  # (spans,)
    operation: np.ndarray  # (spans,)
    operations: list[str]
    pod: np.ndarray  # (spans,)
    # What the guards asked beyond THRESHOLD in this minute: (services, channels), (loops,), and of over-use (pods,).
    asked: np.ndarray
    asked_of_loops: np.ndarray
    asked_of_use: np.ndarray
    alpha: np.ndarray  # (service cells,) greatest || s_hat - s || of its spans, 0 = only blamed
    threshold: np.ndarray | None  # (service cells,) of alpha, under the policy ema
    roots: list[str]  # (traces,) root operation
    work: Work  # pieces of work by place of the service
    unexplained: np.ndarray  # (services, dimensions, 2) see UsageWatch
    _by_parent: tuple[np.ndarray, np.ndarray] | None = None  # spans by their parent, and these parents; not kept

    def operation_of(self, span: int, service: str) -> str:
        """The culprit's operation: the span's own, or the callee's of a call."""
        name = self.operations[self.operation[span]].split(SEPARATOR)
        if name[0] != service:
            for child in self._children(span):
                below = self.operations[self.operation[child]].split(SEPARATOR)
                if below[0] == service:
                    return below[1]
        return name[1]

    def _children(self, span: int) -> np.ndarray:
        """Rows of a span's children, ascending; all spans are sorted once, however many ask."""
        if self._by_parent is None:
            order = np.argsort(self.parent, kind="stable")
            self._by_parent = order, self.parent[order]
        order, parents = self._by_parent
        return order[slice(*np.searchsorted(parents, [span, span + 1]))]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_by_parent": None}

    def on_way(self, span: int) -> list[str]:
        """Services from a span up to its root, itself included, each once."""
        names = []
        while span >= 0:
            names.append(self.operations[self.operation[span]].split(SEPARATOR)[0])
            span = self.parent[span]
        return list(dict.fromkeys(names))

    def service_traces(self) -> dict[str, int]:
        """How many of its traces touch each service, or blame it."""
        return {self.service_names[i]: int(n) for i, n in enumerate(np.bincount(self.services.subject).tolist()) if n}

    def count_blamed(self, service_traces: dict[str, int], trace: int, service: str) -> None:
        """Count a trace that blames a service among those of the service, if it doesn't touch it."""
        here = slice(*np.searchsorted(self.services.trace, [trace, trace + 1]))
        if service not in {self.service_names[i] for i in self.services.subject[here].tolist()}:
            service_traces[service] = service_traces.get(service, 0) + 1


def rows_of(frame: Frame, version: str, is_warming: np.ndarray) -> list[Row]:
    """Verdicts without a judgement."""
    rows = []
    for number, trace in enumerate(frame.traces):
        root = frame.operations[frame.operation[frame.root[number]]].split(SEPARATOR)
        rows.append(
            {
                "trace_id": trace.trace_id,
                "start_time": trace.start_ns // NS_PER_MS,
                "root_service_name": root[0],
                "root_operation": root[1],
                "span_count": len(trace.spans),
                "anomaly_score": 0.0,
                "threshold": THRESHOLD,
                "is_anomalous": False,
                "culprit_service_name": None,
                "culprit_operation": None,
                "anomaly_kind": None,
                "model_version": version,
                "verdict_state": WARMING if is_warming[number] else READY,
            }
        )
    return rows


def blame(
    odds: np.ndarray, strongest: np.ndarray, trace: np.ndarray, depth: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(best log odds, service cell to blame, channel) of each trace.

    The most likely one, but of times the deepest that is likely: who waits for a slow callee is slow as well. Over-use
    is in no trace in particular: what the spans of a trace show goes first.

    odds, strongest: (cells, channels and over-use). trace: (cells,) ascending. depth: (spans,).
    """
    first = np.flatnonzero(np.r_[True, trace[1:] != trace[:-1]])
    of_all = odds.max(axis=1)
    best = np.maximum.reduceat(of_all, first)
    of_spans = odds[:, :OVERUSE].max(axis=1)
    shown = np.maximum.reduceat(of_spans, first) > 0
    number = np.repeat(np.arange(len(first)), np.diff(np.r_[first, len(trace)]))
    top = np.where(shown[number], of_spans, of_all)
    cell = np.lexsort((np.arange(len(trace)), -top, trace))[first]
    kind = np.where(shown, odds[cell, :OVERUSE].argmax(axis=1), odds[cell].argmax(axis=1))
    for at in np.flatnonzero(shown & (kind < TIMES)).tolist():
        last = first[at + 1] if at + 1 < len(first) else len(trace)
        own = odds[first[at] : last, :TIMES]
        found = np.argwhere(own > 0)
        rows = strongest[first[at] + found[:, 0], found[:, 1]]
        values = own[found[:, 0], found[:, 1]]
        deepest = found[np.lexsort((-values, -depth[rows]))[0]]
        cell[at], kind[at] = first[at] + deepest[0], deepest[1]
    # Who is blamed anyway, and over-uses: that is what it does.
    overuses = odds[cell, OVERUSE] > odds[cell, kind]
    return best, cell, np.where(overuses, OVERUSE, kind)


def most(counts: Mapping[str, int]) -> list[str]:
    """Names by count, the most first; of equal counts by name."""
    return sorted(counts, key=lambda name: (-counts[name], name))


def incidents(verdicts: list[Row], affected: list[list[str]]) -> list[Row]:
    """Anomalous verdicts by culprit. affected: the services on the way of each of them."""
    by_culprit: dict[str, list[tuple[Row, list[str]]]] = defaultdict(list)
    anomalous = [verdict for verdict in verdicts if verdict["is_anomalous"]]
    for verdict, names in zip(anomalous, affected, strict=True):
        by_culprit[verdict["culprit_service_name"]].append((verdict, names))
    return [
        {
            "otel_service_name": culprit,
            "anomalous_traces": len(found),
            "scores": [verdict["anomaly_score"] for verdict, _ in found],
            # On average: each trace has the one of whom it blames, and of how.
            "threshold": sum(verdict["threshold"] for verdict, _ in found) / len(found),
            "kinds": dict(Counter(verdict["anomaly_kind"] for verdict, _ in found)),
            "affected": dict(Counter(name for _, names in found for name in names)),
            "exemplars": sorted(
                ([v["anomaly_score"], v["trace_id"]] for v, _ in found),
                key=lambda pair: (-pair[0], pair[1]),
            )[:EXEMPLARS],
            "operations": dict(Counter(verdict["culprit_operation"] for verdict, _ in found)),
            "model_versions": dict(Counter(verdict["model_version"] for verdict, _ in found)),
        }
        for culprit, found in sorted(by_culprit.items())
    ]

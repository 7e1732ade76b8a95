"""Verdicts and incidents: who is blamed for a trace, and what is said of a minute."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from udfs.pure.channels import OVERUSE, TIMES

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


def incidents(verdicts: list[Row], affected: list[list[str]], slower: list[float | None]) -> list[Row]:
    """Anomalous verdicts by culprit. affected: the services on the way of each of them. slower: log of how many times
    as long as expected the span at fault took, None where it isn't to blame for its time."""
    by_culprit: dict[str, list[tuple[Row, list[str], float | None]]] = defaultdict(list)
    anomalous = [verdict for verdict in verdicts if verdict["is_anomalous"]]
    for verdict, names, factor in zip(anomalous, affected, slower, strict=True):
        by_culprit[verdict["culprit_service_name"]].append((verdict, names, factor))
    return [
        {
            "otel_service_name": culprit,
            "anomalous_traces": len(found),
            "scores": [verdict["anomaly_score"] for verdict, *_ in found],
            # On average: each trace has the one of whom it blames, and of how.
            "threshold": sum(verdict["threshold"] for verdict, *_ in found) / len(found),
            "kinds": dict(Counter(verdict["anomaly_kind"] for verdict, *_ in found)),
            "affected": dict(Counter(name for _, names, _ in found for name in names)),
            "exemplars": first_exemplars([v["anomaly_score"], v["trace_id"]] for v, *_ in found),
            "operations": dict(Counter(verdict["culprit_operation"] for verdict, *_ in found)),
            "model_versions": dict(Counter(verdict["model_version"] for verdict, *_ in found)),
            "slower": [round(factor, 3) for *_, factor in found if factor is not None],
        }
        for culprit, found in sorted(by_culprit.items())
    ]


def first_exemplars(pairs: Iterable[list[Any]]) -> list[list[Any]]:
    """Of [score, trace] the first EXEMPLARS, the highest score first."""
    return sorted(pairs, key=lambda pair: (-pair[0], pair[1]))[:EXEMPLARS]


def merged(parts: Sequence[list[Row]]) -> list[Row]:
    """The incidents of a minute from those of its parts, in their order."""
    if len(parts) == 1:
        return parts[0]
    by_culprit: dict[str, list[Row]] = defaultdict(list)
    for incident in (incident for part in parts for incident in part):
        by_culprit[incident["otel_service_name"]].append(incident)
    return [_merged(of) for _, of in sorted(by_culprit.items())]


def _merged(parts: list[Row]) -> Row:
    """Of one culprit."""
    traces = sum(part["anomalous_traces"] for part in parts)
    excess: dict[str, dict[str, float]] = {}
    for part in parts:
        for service, usage in part["excess_usage"].items():
            of_service = excess.setdefault(service, {})
            for dimension, used in usage.items():
                of_service[dimension] = of_service.get(dimension, 0.0) + used
    return parts[0] | {
        "anomalous_traces": traces,
        "scores": [score for part in parts for score in part["scores"]],
        "threshold": sum(part["threshold"] * part["anomalous_traces"] for part in parts) / traces,
        **{name: added(part[name] for part in parts) for name in ("kinds", "affected", "operations", "model_versions")},
        "exemplars": first_exemplars(pair for part in parts for pair in part["exemplars"]),
        "slower": [factor for part in parts for factor in part.get("slower", ())],
        "excess_usage": dict(sorted(excess.items())),
        "recurrence": max(part["recurrence"] for part in parts),
    }


def exemplars_of(incidents: Iterable[Mapping[str, Any]]) -> list[list[Any]]:
    """[score, trace] of those of several minutes that are told first, each trace once, by its highest score."""
    best: dict[str, float] = {}
    for incident in incidents:
        for score, trace_id in incident["exemplars"]:
            best[trace_id] = max(score, best.get(trace_id, score))
    return first_exemplars([score, trace_id] for trace_id, score in best.items())


def added(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """What several count, together."""
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return dict(total)

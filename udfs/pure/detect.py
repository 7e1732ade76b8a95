"""detect: minutes of packed traces and usage -> verdicts, by a streaming robust rule.

Grain: one minute of event time in, one verdict per trace out. Each minute is compared with what
earlier minutes gave and then learnt from; the result depends on the set of traces alone.

Per trace and service that may be to blame there are the channels of ``evidence`` and, of the pods
that it ran on, ``usage_watch``. ``context`` gives the prior of each channel, from earlier minutes
and this one. A trace's score is the best of its log odds plus THRESHOLD, the log odds against an
anomaly in quiet times, and never below 0; it is anomalous above THRESHOLD, at even odds.
"""

from __future__ import annotations

import pickle
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from udfs.pure.assemble import NS_PER_MS, SEPARATOR, Trace, unpack
from udfs.pure.context import THRESHOLD, Context
from udfs.pure.evidence import CHANNELS, REPEAT, TIME_CHANNELS, Baselines, Evidence, Reading
from udfs.pure.frame import Frame
from udfs.pure.recurrence import Recurrence
from udfs.pure.usage_watch import DIMENSIONS, FEATURES, OPERATIONS, UsageWatch
from udfs.pure.windows import HOUR_MS
from udfs.pure.workload import Work, Workload, usage_of, work

Row = dict[str, Any]

# The kind of anomaly of each channel of evidence; over-use comes after them.
KINDS = (
    "latency_spike",  # own
    "latency_spike",  # leaf
    "latency_spike",  # gap
    "dependency_failure",
    "retry_loop",
    "structure_change",
    "resource_overuse",
)

WARMING, READY = "warming", "ready"

# Spans of one trace and service count as independent witnesses up to this number.
SPANS_TOGETHER = 3.0

# Traces before a root operation counts as known; spans and minutes before a service does.
ROOT_TRACES_MIN = 20.0
SERVICE_SPANS_MIN, SERVICE_MINUTES_MIN = 60.0, 10.0

# What a span teaches in the midst of trouble, of what a normal one does: a shift that stays is the
# usual after a day, a storm of hours is not.
ANOMALOUS_WEIGHT = 0.1

# Operations, pods and structures not seen for this long are forgotten, every so many minutes.
FORGET_MS = 72 * HOUR_MS
TIDY_MINUTES = 360

EXEMPLARS = 5

# Pieces of work of a service: its entry operations by slot, and last the calls that it makes.
PIECES = FEATURES - 2


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


class _Cells(NamedTuple):
    """Every (trace, service) that touch each other, or where one is blamed for the other."""

    trace: np.ndarray  # (cells,) ascending
    service: np.ndarray  # (cells,)
    odds: np.ndarray  # (cells, channels and over-use) log odds of an anomaly
    strongest: np.ndarray  # (cells, channels and over-use) the row that says most, or -1
    touched: np.ndarray  # (spans,) the cell of each span
    first_of_trace: np.ndarray  # (traces,)


class RuleDetector:
    """The streaming rule; all of its state, picklable."""

    MODEL_VERSION = "rule-1"
    # Raise it where the state's attributes or their meaning change: with an older state the detector starts anew.
    STATE_VERSION = 2

    predictor: Any = None  # none is asked
    pending: dict[int, Any] = {}  # no minute is told anew

    def __init__(self) -> None:
        self._baselines = Baselines()
        self._usage = UsageWatch()
        self._slot_of: dict[str, int] = {}  # entry operation -> its place among its service's
        self._slots_taken: Counter[str] = Counter()
        self._context = Context(CHANNELS)  # of services
        self._workload = Workload()
        self._recurrence = Recurrence()
        self._minutes = 0

    def step(
        self,
        minute_ms: int,
        traces: Sequence[bytes | Trace],
        usage: Mapping[tuple[str, str], Mapping[str, float]],
    ) -> list[MinuteResult]:
        """Judge the traces that start in a minute, then learn from them.

        minute_ms: ascending from call to call. traces: as assemble packed them, or unpacked already; in any order.
        usage: (service, pod) -> dimension -> amount in this minute; empty where there is none.
        returns: of each minute that there is something new to say of; here, of this one.
        """
        opened = [trace if isinstance(trace, Trace) else unpack(trace) for trace in traces]
        opened.sort(key=lambda trace: trace.trace_id)
        frame = reading = None
        if opened:
            frame = Frame(opened)
            reading = self._baselines.read(minute_ms, frame)
        overuse = self._watch(minute_ms, usage, frame, reading)
        results = []
        if opened:
            results.append(self._judge(minute_ms, frame, reading, overuse))
        self._minutes += 1
        if self._minutes % TIDY_MINUTES == 0:
            self._forget(minute_ms - FORGET_MS)
        return results

    def again(
        self,
        minute_ms: int,
        traces: Sequence[bytes | Trace],
        usage: Mapping[tuple[str, str], Mapping[str, float]],
    ) -> MinuteResult | None:
        """Judge a minute by what is known now, without learning from it: one that is not over yet, or one that a
        late span changed. None if it has no traces."""
        if not traces:
            return None
        copy = self.ahead()
        result = copy.step(minute_ms, traces, usage)[0]
        self._take_over(minute_ms, copy)
        return result

    def ahead(self) -> RuleDetector:
        """A copy that may step minutes which aren't over: what it has to tell anew is of those alone."""
        return pickle.loads(pickle.dumps(self))

    def anew(self) -> list[MinuteResult]:
        """What a copy that is ``ahead`` says by now of the minutes that it has stepped, and would tell anew."""
        return []

    def due(self, minute_ms: int) -> list[int]:
        """The minutes that the step of ``minute_ms`` will tell anew: they have to be in ``pending``."""
        return []

    def _take_over(self, minute_ms: int, copy: RuleDetector) -> None:
        """Take from a copy that judged a minute again what of it is still to be told anew."""

    def last_words(self, pending: Mapping[int, Any]) -> list[MinuteResult]:
        """What would be told anew of past minutes if nothing came any more; nothing changes by it.

        pending: those minutes, as the detector left them to be kept.
        """
        return []

    def _forget(self, before_ms: int) -> None:
        self._baselines.forget(before_ms)
        self._usage.forget(before_ms)
        self._workload.forget(before_ms)
        known = self._baselines.operations
        self._slot_of = {k: slot for k, slot in self._slot_of.items() if known.get(k) >= 0}

    def _watch(
        self,
        minute_ms: int,
        usage: Mapping[tuple[str, str], Mapping[str, float]],
        frame: Frame | None,
        reading: Reading | None,
    ) -> dict[str, float]:
        """Log odds of over-use by consumer."""
        services = self._baselines.services
        services.see([service for service, _ in usage], minute_ms)
        self._usage.resize(len(services))
        consumers = {SEPARATOR.join(key): amounts for key, amounts in usage.items()}
        calls: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(FEATURES - 2))
        if frame:
            entries = np.flatnonzero(reading.is_entry)
            pairs, counts = np.unique(
                frame.pod[entries] * len(frame.operations) + frame.operation[entries],
                return_counts=True,
            )
            for pair, count in zip(pairs.tolist(), counts.tolist()):
                pod, operation = divmod(pair, len(frame.operations))
                calls[frame.pods[pod]][self._slot(frame.operations[operation])] += count
            made = np.bincount(frame.pod[frame.is_call], minlength=len(frame.pods))
            for pod in np.flatnonzero(made).tolist():
                calls[frame.pods[pod]][-1] = made[pod]
        return self._usage.step(
            minute_ms,
            consumers,
            {name: services.get(name.split(SEPARATOR)[0]) for name in consumers},
            calls,
        )

    def _slot(self, operation: str) -> int:
        """The place of an entry operation among the first OPERATIONS of its service, or beyond."""
        if operation not in self._slot_of:
            service = operation.split(SEPARATOR)[0]
            self._slot_of[operation] = min(self._slots_taken[service], OPERATIONS)
            self._slots_taken[service] += 1
        return self._slot_of[operation]

    def _work(self, frame: Frame, reading: Reading) -> Work:
        """Pieces of work of the minute's traces: entries by operation slot, and calls made, of each service."""
        entries, calls = np.flatnonzero(reading.is_entry), np.flatnonzero(frame.is_call)
        slots = np.zeros(len(frame.operations), np.int64)
        for operation in np.unique(frame.operation[entries]).tolist():
            slots[operation] = self._slot(frame.operations[operation])
        return work(
            frame.trace[np.r_[entries, calls]],
            np.r_[
                reading.service[entries] * PIECES + slots[frame.operation[entries]],
                reading.service[calls] * PIECES + PIECES - 1,
            ],
            len(self._baselines.services) * PIECES,
        )

    def _add_excess(
        self, incidents: list[Row], verdicts: list[Row], roots: Sequence[str], done: Work, unexplained: np.ndarray
    ) -> None:
        """Tell each incident what its traces used beyond the usual.

        excess_usage: {service: {dimension: usage of the work that such traces don't do, or do else}}.
        unexplained_usage: {dimension: [use of the culprit beyond what all its work explains, its variance]}.
        """
        if not incidents:
            return
        names, costs = self._baselines.services.names, self._usage.work_costs()
        culprits = np.array([v["culprit_service_name"] if v["is_anomalous"] else "" for v in verdicts], object)
        for incident in incidents:
            culprit = incident["otel_service_name"]
            pieces = self._workload.excess(roots, done, np.flatnonzero(culprits == culprit))
            usage = usage_of(pieces, costs)
            incident["excess_usage"] = {
                names[service]: dict(zip(DIMENSIONS, usage[service].tolist()))
                for service in sorted({piece // PIECES for piece in pieces})
            }
            own = self._baselines.services.get(culprit)
            told = unexplained[own] if own < len(unexplained) else np.zeros((len(DIMENSIONS), 2))
            incident["unexplained_usage"] = {d: of.tolist() for d, of in zip(DIMENSIONS, told) if of.any()}

    def _add_recurrence(self, minute_ms: int, incidents: list[Row], is_final: bool) -> None:
        """Tell each incident how often its like came: [minutes of the last 30 days, this one with them, of so many].

        is_final: the verdicts are not told anew, so this minute counts from now on.
        """
        for incident in incidents:
            culprit, kind = incident["otel_service_name"], most(incident["kinds"])[0]
            if is_final:
                self._recurrence.count(minute_ms, culprit, kind)
            minutes, observed = self._recurrence.share(culprit, kind)
            incident["recurrence"] = [minutes + (not is_final), observed]

    # ---- judging ----------------------------------------------------------------------------

    def _judge(self, minute_ms: int, frame: Frame, reading: Reading, overuse: Mapping[str, float]) -> MinuteResult:
        is_warming = self._is_warming(frame, reading)
        cells = self._cells(frame, reading, overuse, is_warming)
        self._learn(minute_ms, frame, reading, cells, is_warming)

        names = self._baselines.services.names
        best = np.maximum.reduceat(cells.odds.max(axis=1), cells.first_of_trace)
        is_anomalous = (best > 0) & ~is_warming
        last_of_trace = np.r_[cells.first_of_trace[1:], len(cells.trace)]
        result = MinuteResult(minute_ms)
        affected: list[list[str]] = []
        for t, trace in enumerate(frame.traces):
            root = frame.operations[frame.operation[frame.root[t]]].split(SEPARATOR)
            culprit = operation = kind = None
            if is_anomalous[t]:
                own = slice(cells.first_of_trace[t], last_of_trace[t])
                cell, channel = _culprit(cells.odds[own], cells.strongest[own], frame.depth)
                row = cells.strongest[own][cell, channel]
                culprit = names[cells.service[own][cell]]
                operation = self._operation_of(frame, reading, row, culprit)
                kind = KINDS[channel]
                affected.append(_on_way(frame, row))
            result.verdicts.append(
                {
                    "trace_id": trace.trace_id,
                    "start_time": trace.start_ns // NS_PER_MS,
                    "root_service_name": root[0],
                    "root_operation": root[1],
                    "span_count": len(trace.spans),
                    "anomaly_score": max(float(best[t]) + THRESHOLD, 0.0),
                    "threshold": THRESHOLD,
                    "is_anomalous": bool(is_anomalous[t]),
                    "culprit_service_name": culprit,
                    "culprit_operation": operation,
                    "anomaly_kind": kind,
                    "model_version": self.MODEL_VERSION,
                    "verdict_state": WARMING if is_warming[t] else READY,
                }
            )
        result.incidents = incidents(result.verdicts, affected)
        roots = [frame.operations[frame.operation[root]] for root in frame.root]
        done = self._work(frame, reading)
        self._add_excess(result.incidents, result.verdicts, roots, done, self._usage.unexplained)
        self._recurrence.observe(minute_ms)
        self._add_recurrence(minute_ms, result.incidents, is_final=True)
        self._workload.learn(minute_ms, roots, done, 1 / (1 + np.exp(np.clip(best, -50, 50))))
        counts = np.bincount(cells.service)
        result.service_traces = {names[i]: int(counts[i]) for i in np.flatnonzero(counts)}
        return result

    def _cells(
        self,
        frame: Frame,
        reading: Reading,
        overuse: Mapping[str, float],
        is_warming: np.ndarray,
    ) -> _Cells:
        """Every (trace, service) with its log odds, the context brought up to this minute."""
        services = len(self._baselines.services)
        evidence = reading.evidence
        touched = frame.trace * services + reading.service
        blamed = frame.trace[evidence.row] * services + evidence.service
        keys, first, index = np.unique(np.concatenate([touched, blamed]), return_index=True, return_inverse=True)
        trace, service = np.divmod(keys, services)
        touched, blamed = index[: frame.count], index[frame.count :]
        weights, strongest = _by_cell(evidence, blamed, len(keys))

        self._context.resize(services)
        settled = ~is_warming[trace]
        told = weights[settled]
        told[:, REPEAT] = -np.inf  # loops have a context of their own, by operation
        self._context.step(service[settled], told)

        used = np.full(len(keys), -np.inf)
        by_pod = np.array([overuse.get(name, -np.inf) for name in frame.pods])
        np.maximum.at(used, touched, by_pod[frame.pod])
        odds = np.column_stack([weights + self._context.log_odds()[service], used])
        # Over-use is in no span in particular: it stands at the first one of its service.
        strongest = np.column_stack([strongest, np.where(first < frame.count, first, -1)])
        first_of_trace = np.searchsorted(trace, np.arange(len(frame.traces)))
        return _Cells(trace, service, odds, strongest, touched, first_of_trace)

    def _learn(
        self,
        minute_ms: int,
        frame: Frame,
        reading: Reading,
        cells: _Cells,
        is_warming: np.ndarray,
    ) -> None:
        """Let the baselines learn from the minute, less from what seems affected.

        A lone outlier's time teaches like all: the baselines bound its influence, and have to know
        how often it happens. In the midst of trouble the affected traces don't, and where it is
        wholesale those that seem unaffected don't either, being only the lucky end.
        """
        odds = cells.odds[:, :CHANNELS].max(axis=1)[cells.touched]  # (spans,)
        states = self._context.states[reading.service]  # (spans, channels, states)
        is_ill = states[:, :, 0].min(axis=1) < 0.5
        is_wholesale = states[:, :, -1].max(axis=1) > 0.5
        is_silent = is_ill & (odds > 0) | is_wholesale
        times = np.where(is_silent, ANOMALOUS_WEIGHT, 1.0)
        events = np.maximum(1 / (1 + np.exp(odds)), ANOMALOUS_WEIGHT)
        warming = is_warming[frame.trace]
        times[warming] = events[warming] = 1.0
        self._baselines.learn(minute_ms, frame, reading, times, events)

    def _is_warming(self, frame: Frame, reading: Reading) -> np.ndarray:
        """Whether a trace's root operation or a service of it is not known well.  # (traces,)"""
        baselines = self._baselines
        known = (baselines.samples >= SERVICE_SPANS_MIN) & (baselines.minutes >= SERVICE_MINUTES_MIN)
        young = ~known[reading.service]
        warming = np.bincount(frame.trace, young, minlength=len(frame.traces)) > 0
        return warming | (baselines.roots[reading.operation[frame.root]] < ROOT_TRACES_MIN)

    def _operation_of(self, frame: Frame, reading: Reading, row: int, culprit: str) -> str:
        """The culprit's operation: the span's own, or the callee's of a call."""
        if self._baselines.services.names[reading.service[row]] != culprit:
            for child in np.flatnonzero(frame.parent == row):
                name = frame.operations[frame.operation[child]].split(SEPARATOR)
                if name[0] == culprit:
                    return name[1]
        return frame.operations[frame.operation[row]].split(SEPARATOR)[1]


def _by_cell(evidence: Evidence, cell: np.ndarray, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """Evidence per (cell, channel), -inf where there is none; and the row that says most, or -1.

    Of several spans either all are affected or one of them, at even odds: their weights add up,
    or their likelihood ratios are averaged. What runs in one trace is slow together for many
    reasons: however many spans agree, they count as SPANS_TOGETHER.
    """
    slot = cell * CHANNELS + evidence.channel
    size = cells * CHANNELS
    order = np.lexsort((evidence.row, -evidence.weight, slot))
    slots, first = np.unique(slot[order], return_index=True)
    strongest = np.full(size, -1)
    strongest[slots] = evidence.row[order][first]
    counts = np.maximum(np.bincount(slot, minlength=size), 1)
    every = np.bincount(slot[order], evidence.weight[order], minlength=size)
    every = every * (np.minimum(counts, SPANS_TOGETHER) / counts)
    ratio = np.bincount(slot[order], np.exp(evidence.weight[order]), minlength=size)
    weights = np.full(size, -np.inf)
    weights[slots] = np.logaddexp(every[slots], np.log(ratio[slots] / counts[slots])) - np.log(2)
    return weights.reshape(cells, CHANNELS), strongest.reshape(cells, CHANNELS)


def _culprit(odds: np.ndarray, strongest: np.ndarray, depth: np.ndarray) -> tuple[int, int]:
    """(cell, channel) to blame for a trace: the most likely one, but of times the deepest.

    Who waits for a slow callee is slow as well: the deepest span whose own time is out of the
    ordinary explains those above it.
    """
    cell, channel = np.unravel_index(np.argmax(odds), odds.shape)
    if channel < TIME_CHANNELS:
        found = np.argwhere(odds[:, :TIME_CHANNELS] > 0)
        depths = depth[strongest[found[:, 0], found[:, 1]]]
        values = odds[found[:, 0], found[:, 1]]
        cell, channel = found[np.lexsort((-values, -depths))[0]]
    return int(cell), int(channel)


def _on_way(frame: Frame, row: int) -> list[str]:
    """Services from a span up to its root, itself included, each once."""
    names = []
    while row >= 0:
        names.append(frame.operations[frame.operation[row]].split(SEPARATOR)[0])
        row = frame.parent[row]
    return list(dict.fromkeys(names))


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
            "threshold": THRESHOLD,
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

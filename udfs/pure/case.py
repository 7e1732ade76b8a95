"""A minute's case: its traces, and all that the verdicts on them depend on.

The detector, which learns, makes cases; the verdicts are a pure function of a case and a predictor (``judge``), so that
each minute may be judged by another worker.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np

from udfs.pure.assemble import SEPARATOR
from udfs.pure.evidence import Clues, Level, level, weighed
from udfs.pure.pods import Change
from udfs.pure.predict import Prediction, Predictor, Usual
from udfs.pure.recurrence import Recurring
from udfs.pure.tokens import Tokens, rows_of_traces
from udfs.pure.workload import Work


class Believed(NamedTuple):
    """What is believed of a minute by now, by all that came since, without asking a predictor."""

    services: np.ndarray  # (services, channels, states) chances, see Episodes
    pods: np.ndarray  # (pods, channels, states)
    loops: np.ndarray  # (loops, 1, states) of the operation that each loop of Clues calls
    overuse: np.ndarray  # (pods,) log odds
    neighbour: list[str]  # (pods,) the service that crowds each pod out, "" = none; empty: nobody crowds anybody
    shapes: Mapping[str, Mapping[tuple[str, int], float]]  # root operation -> (service, slot) -> times in a usual trace
    costs: Mapping[str, np.ndarray]  # service -> (dimensions, slots) what one piece of work takes

    def is_alike(self, other: Believed) -> bool:
        """Whether both, of the same traces, give nearly the same verdicts."""
        chances = [(self.services, other.services), (self.pods, other.pods), (self.loops, other.loops)]
        chances.append((1 / (1 + np.exp(-self.overuse)), 1 / (1 + np.exp(-other.overuse))))
        return self.neighbour == other.neighbour and all(
            one.shape == another.shape
            and (np.abs(np.log(np.maximum(one, _LEAST) / np.maximum(another, _LEAST))) < np.log(_ALIKE)).all()
            for one, another in chances
        )


# Chances that differ by less than this factor, or are both less than the least, give nearly the same verdicts: no score
# moves by more than its logarithm.
_ALIKE, _LEAST = 1.1, 1e-6

# Of a case; not kept.
_DERIVED = ("trace", "parent", "roots", "_by_parent")


def _none() -> np.ndarray:
    return np.zeros(0)


@dataclass
class Case:
    """Services, pods and operations are places in the case's own lists of names: a detector numbers its own anew."""

    minute_ms: int
    trace_ids: list[str]
    start_ms: np.ndarray  # (traces,) of the first span
    is_warming: np.ndarray  # (traces,) a service or the root operation is not known well
    reaches_on: np.ndarray  # (traces,) a span of it starts in a later minute
    root: np.ndarray  # (traces,) row of the root span
    model: str  # version of the predictor that the tokens are for
    services: list[str]
    operations: list[str]
    pods: list[str]
    pod_service: np.ndarray  # (pods,)
    tokens: Tokens
    clues: Clues
    operation: np.ndarray  # (spans,)
    pod: np.ndarray  # (spans,)
    depth: np.ndarray  # (spans,)
    work: Work  # pieces of work by place of the service
    unexplained: np.ndarray  # (services, dimensions, 2) see UsageWatch
    weight: np.ndarray = field(default_factory=_none)  # (traces,) how many each stands for
    traits: Sequence[Mapping[str, str]] = ()  # (traces,) by which unit costs are told, or () where none has any
    loop_operation: np.ndarray = field(default_factory=_none)  # (loops,) the operation that makes the repeated call
    # What the guards asked beyond THRESHOLD in this minute.
    asked: np.ndarray = field(default_factory=_none)  # (services, channels)
    asked_of_loops: np.ndarray = field(default_factory=_none)  # (loops,)
    asked_of_use: np.ndarray = field(default_factory=_none)  # (pods,)
    gain: np.ndarray | None = None  # (services, values) see Skill; None where no model is asked
    thresholds: np.ndarray | None = None  # (services,) of alpha, under the policy ema
    recurring: Recurring = Recurring({}, 0)
    counted: frozenset[tuple[str, str]] = frozenset()  # what of this minute is in ``recurring``
    changes: Mapping[str, list[Change]] = field(default_factory=dict)  # at each service, in the hour before
    believed: Believed | None = None  # None until it is told
    part: int = 0  # see ``parts``
    is_final: bool = False  # it is not told anew, unless something of it comes late

    @classmethod
    def without_traces(cls, minute_ms: int) -> Case:
        """Of a minute that has no trace, or has none any more."""
        nothing, nowhere = _none(), np.zeros(0, np.int64)
        tokens, clues = Tokens(*[nothing] * len(Tokens._fields)), Clues(*[nothing] * len(Clues._fields))
        return cls(
            minute_ms, [], nowhere, nothing, nothing, nowhere, Usual.version, [], [], [], nowhere, tokens, clues,
            nowhere, nowhere, nowhere, Work(nowhere, nowhere, nothing), nothing, is_final=True,
        )  # fmt: skip

    def __getstate__(self) -> dict[str, Any]:
        """Without what follows from the rest."""
        return {name: value for name, value in self.__dict__.items() if name not in _DERIVED}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Of an earlier release, whose traces stood for themselves alone, too."""
        self.__dict__.update({"weight": np.ones(len(state["trace_ids"])), "changes": {}, "traits": ()} | state)

    def is_believed_as(self, other: Case) -> bool:
        """Whether what is believed of this minute by now is nearly what was."""
        if self.believed is None or other.believed is None:
            return self.believed is other.believed
        return self.believed.is_alike(other.believed)

    @cached_property
    def trace(self) -> np.ndarray:
        """The trace of each span.  # (spans,)"""
        return np.repeat(np.arange(len(self.trace_ids)), self.tokens.lengths)

    @cached_property
    def parent(self) -> np.ndarray:
        """Row of each span's parent, -1 = none.  # (spans,)"""
        first = np.cumsum(self.tokens.lengths) - self.tokens.lengths
        return np.where(self.tokens.parent >= 0, self.tokens.parent + first[self.trace], -1)

    @cached_property
    def roots(self) -> list[str]:
        """Root operation of each trace."""
        return [self.operations[operation] for operation in self.operation[self.root].tolist()]

    def parts(self, spans_most: int) -> list[Case]:
        """The case in parts of about so many spans at most: half, a quarter and so on of its traces, by their ids, so
        that a trace's part changes only where their number does."""
        spans, count = int(self.tokens.lengths.sum()), 1
        while spans > count * spans_most:
            count *= 2
        if count == 1:
            return [self]
        part = np.array([crc32(trace_id.encode()) % count for trace_id in self.trace_ids])
        return [self._of_traces(part == number, number) for number in range(count)]

    def _of_traces(self, chosen: np.ndarray, part: int) -> Case:
        """chosen: (traces,) bool"""
        rows = rows_of_traces(self.tokens.lengths, chosen)
        loops = np.flatnonzero(chosen[self.trace[self.clues.loop]])
        of_work = chosen[self.work.trace]
        traces = np.cumsum(chosen) - 1  # the new place of each
        return replace(
            self,
            part=part,
            trace_ids=[trace_id for trace_id, is_here in zip(self.trace_ids, chosen.tolist()) if is_here],
            start_ms=self.start_ms[chosen],
            is_warming=self.is_warming[chosen],
            reaches_on=self.reaches_on[chosen],
            weight=self.weight[chosen],
            traits=[traits for traits, is_here in zip(self.traits, chosen.tolist()) if is_here],
            root=np.searchsorted(rows, self.root[chosen]),
            tokens=self.tokens.of_traces(chosen),
            clues=self.clues.of_rows(rows, loops),
            operation=self.operation[rows],
            pod=self.pod[rows],
            depth=self.depth[rows],
            work=Work(traces[self.work.trace[of_work]], self.work.piece[of_work], self.work.times[of_work]),
            loop_operation=self.loop_operation[loops],
            asked_of_loops=self.asked_of_loops[loops],
            believed=self.believed._replace(loops=self.believed.loops[loops]) if self.believed else None,
        )

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
        order, parents = self._by_parent
        return order[slice(*np.searchsorted(parents, [span, span + 1]))]

    @cached_property
    def _by_parent(self) -> tuple[np.ndarray, np.ndarray]:
        """Spans by their parent, and these parents."""
        order = np.argsort(self.parent, kind="stable")
        return order, self.parent[order]

    def on_way(self, span: int) -> list[str]:
        """Services from a span up to its root, itself included, each once."""
        names = []
        while span >= 0:
            names.append(self.operations[self.operation[span]].split(SEPARATOR)[0])
            span = self.parent[span]
        return list(dict.fromkeys(names))


class Cells(NamedTuple):
    """The evidence of a case by (trace, service): a service cell, and what belongs to it."""

    services: Level
    pods: Level
    pod_cell: np.ndarray  # (pod cells,) the service cell of each
    loop_cell: np.ndarray  # (loops,)
    used_cell: np.ndarray  # (n,) of (trace, pod) pairs
    used_pod: np.ndarray  # (n,)
    of_span: np.ndarray  # (spans,)
    first_span: np.ndarray  # (service cells,) -1 = only blamed


def cells_of(case: Case, found: Prediction) -> Cells:
    """The evidence of a case beside what was predicted of its spans."""
    trace, service, count = case.trace, case.tokens.service, len(case.services)
    kind = trace * len(case.operations) + case.operation
    row, channel, blamed, place, weights = weighed(case.clues, case.tokens, found, kind)
    services = level(trace, service, row, channel, blamed, weights, count)
    known = place >= 0
    pods = level(trace, case.pod, row[known], channel[known], case.pod[place[known]], weights[known], len(case.pods))
    key = services.trace * count + services.subject
    of_span = np.searchsorted(key, trace * count + service)
    first_span = np.full(len(key), len(trace))
    np.minimum.at(first_span, of_span, np.arange(len(trace)))
    used_cell, used_pod = np.divmod(np.unique(of_span * len(case.pods) + case.pod), len(case.pods))
    return Cells(
        services=services,
        pods=pods,
        pod_cell=np.searchsorted(key, pods.trace * count + case.pod_service[pods.subject]),
        loop_cell=np.searchsorted(key, trace[case.clues.loop] * count + case.clues.loop_blamed),
        used_cell=used_cell,
        used_pod=used_pod,
        of_span=of_span,
        first_span=np.where(first_span < len(trace), first_span, -1),
    )


def as_it_is(case: Case, predictor: Predictor) -> Case:
    """What a detector tells where others judge."""
    return case

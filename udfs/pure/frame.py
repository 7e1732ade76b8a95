"""A minute of packed traces as columns, one row a span: what the detector computes on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from udfs.pure.assemble import (
    ERROR,
    IS_ANSWERED,
    IS_CALL,
    NS_PER_MS,
    OWN_ERROR,
    SPAN,
    Trace,
)


class Frame:
    """Traces one after the other, spans of each in their order (parents before children).

    ``operation`` and ``pod`` are indices into ``operations`` and ``pods``, the sorted vocabulary
    of the minute.
    """

    def __init__(self, traces: Sequence[Trace]) -> None:
        lengths = np.array([len(trace.spans) for trace in traces])
        first = np.cumsum(lengths) - lengths  # row of each trace's first span
        spans = np.frombuffer(b"".join([trace.spans.tobytes() for trace in traces]), SPAN)
        self.traces = traces
        self.weight = np.array([trace.weight for trace in traces])  # (traces,) how many each stands for
        self.spans_of_trace = lengths
        self.count = len(spans)
        self.trace = np.repeat(np.arange(len(traces)), lengths)
        self.root = first + np.array([trace.root for trace in traces])  # (traces,)
        self.has_parent = spans["parent"] >= 0
        self.parent = np.where(self.has_parent, spans["parent"] + first[self.trace], -1)
        self.operations, self.operation = _joined(
            [trace.operations for trace in traces], spans["operation"], self.trace
        )
        self.pods, self.pod = _joined([trace.pods for trace in traces], spans["pod"], self.trace)
        self.hosts = self._greatest([trace.hosts for trace in traces])  # (pods,) "" = unknown
        self.versions = self._greatest([trace.versions for trace in traces])  # (pods,) "" = unknown
        self.start_ms = spans["start_ns"] / NS_PER_MS  # since the trace's first span
        self.duration_ms = spans["duration_ns"] / NS_PER_MS
        self.own_ms = spans["own_ns"] / NS_PER_MS
        self.depth = spans["depth"]
        self.repeats = spans["repeats"]
        self.error_logs = spans["error_logs"]
        flags = spans["flags"]
        self.is_error = (flags & ERROR) > 0
        self.is_call = (flags & IS_CALL) > 0
        self.is_answered = (flags & IS_ANSWERED) > 0
        self.has_erring_child = self.is_parent_of(self.is_error)
        self.failed = ((flags & OWN_ERROR) > 0) | ((spans["error_logs"] > 0) & ~self.has_erring_child)

    def _greatest(self, told: list[list[str]]) -> list[str]:
        """Of each pod, the greatest of what its traces tell.  # (pods,)  told: of each trace and pod of it"""
        pairs: set[tuple[str, str]] = set()  # few, however many traces tell them
        for trace, of_pods in zip(self.traces, told, strict=True):
            pairs.update(zip(trace.pods, of_pods, strict=True))
        found = dict(sorted(pairs))  # the greatest comes last
        return [found.get(pod, "") for pod in self.pods]

    def is_parent_of(self, rows: np.ndarray) -> np.ndarray:
        """Whether each span has a child among ``rows`` (bool).  # (spans,)"""
        found = np.zeros(self.count, bool)
        found[self.parent[rows & self.has_parent]] = True
        return found

    def sibling_groups(self) -> tuple[np.ndarray, np.ndarray]:
        """(first row of each group of siblings with the same operation, group of each child row).

        The second is as long as there are rows with a parent, in their order.
        """
        key = self.parent[self.has_parent] * len(self.operations) + self.operation[self.has_parent]
        _, first, group = np.unique(key, return_index=True, return_inverse=True)
        return np.flatnonzero(self.has_parent)[first], group


def _joined(vocabularies: list[list[str]], local: np.ndarray, trace: np.ndarray) -> tuple[list[str], np.ndarray]:
    """(sorted names of all traces, index into them of each row's local index)"""
    names = sorted({name for names in vocabularies for name in names})
    index = {name: i for i, name in enumerate(names)}
    joined = np.array([index[name] for names in vocabularies for name in names])
    lengths = np.array([len(names) for names in vocabularies])
    return names, joined[local + (np.cumsum(lengths) - lengths)[trace]]

"""What an incident costs, and how often it comes: usage beyond the usual, and minutes of the last 30 days."""

from __future__ import annotations

import numpy as np

from udfs.pure.baseline import Vocabulary
from udfs.pure.pieces import PIECES
from udfs.pure.recurrence import Recurrence
from udfs.pure.usage_watch import DIMENSIONS, UsageWatch
from udfs.pure.verdicts import JudgedMinute, MinuteResult, most
from udfs.pure.workload import Work, Workload, usage_of


class Impact:
    """State: what usual traces ask of each service, and how often each incident came."""

    def __init__(self) -> None:
        self._workload = Workload()
        self._recurrence = Recurrence()

    def observe(self, minute_ms: int) -> None:
        """A minute has traces."""
        self._recurrence.observe(minute_ms)

    def learn(self, minute_ms: int, roots: list[str], work: Work, sound: np.ndarray) -> None:
        """Take in what the traces of a minute ask.

        work: by number of the service. sound: (traces,) the chance that nothing ails each of them.
        """
        self._workload.learn(minute_ms, roots, work, sound)

    def add_to(self, result: MinuteResult, minute: JudgedMinute, services: Vocabulary, usage: UsageWatch) -> None:
        """Tell each incident of a minute what its traces used beyond the usual, and how often its like came."""
        if result.incidents:
            self.add_excess(result, minute, services, usage.work_costs())
        self._add_recurrence(result)

    def add_excess(self, result: MinuteResult, minute: JudgedMinute, services: Vocabulary, costs: np.ndarray) -> None:
        """Tell each incident what its traces used beyond the usual.

        excess_usage: {service: {dimension: usage of the work that such traces don't do, or do else}}.
        unexplained_usage: {dimension: [use of the culprit beyond what all its work explains, its variance]}.

        costs: as of UsageWatch.work_costs.
        """
        now = np.array([services.get(name) for name in minute.service_names])
        place, slot = np.divmod(minute.work.piece, PIECES)
        is_known = now[place] >= 0
        trace, piece, count = minute.work
        done = Work(trace[is_known], (now[place] * PIECES + slot)[is_known], count[is_known])
        culprits = np.array([v["culprit_service_name"] if v["is_anomalous"] else "" for v in result.verdicts], object)
        for incident in result.incidents:
            culprit = incident["otel_service_name"]
            pieces = self._workload.excess(minute.roots, done, np.flatnonzero(culprits == culprit))
            usage = usage_of(pieces, costs)
            incident["excess_usage"] = {
                services.names[service]: dict(zip(DIMENSIONS, usage[service].tolist()))
                for service in sorted({piece // PIECES for piece in pieces})
            }
            unexplained = np.zeros((len(DIMENSIONS), 2))
            if culprit in minute.service_names:
                unexplained = minute.unexplained[minute.service_names.index(culprit)]
            incident["unexplained_usage"] = {d: of.tolist() for d, of in zip(DIMENSIONS, unexplained) if of.any()}

    def _add_recurrence(self, result: MinuteResult) -> None:
        """Tell each incident how often its like came: [minutes of the last 30 days, this one with them, of so many].

        Where the verdicts are not told anew, this minute counts from now on.
        """
        for incident in result.incidents:
            culprit, kind = incident["otel_service_name"], most(incident["kinds"])[0]
            if result.is_final:
                self._recurrence.count(result.minute_ms, culprit, kind)
            minutes, observed = self._recurrence.share(culprit, kind)
            incident["recurrence"] = [minutes + (not result.is_final), observed]

    def forget(self, before_ms: int, gone: np.ndarray) -> None:
        """Forget what was last seen before a time, and the work of the services at ``gone``."""
        self._workload.forget(before_ms)
        self._workload.drop({int(service) * PIECES + place for service in gone for place in range(PIECES)})

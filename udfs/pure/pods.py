"""Pods that traces name: since when each is seen, which services have a new release, and what changed at them.

A pod is heard of by its traces and by its usage: where little is asked, or nothing for a while, usage alone tells who
lives and who is gone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from udfs.pure.assemble import SEPARATOR
from udfs.pure.baseline import Vocabulary, grown, rows_of, seen_lately
from udfs.pure.windows import CHANGES_MINUTES, MINUTE_MS

# The most pods that are kept: those that were seen last.
PODS_MOST = 4_000

# A service is being renewed while most of its spans come from pods younger than this, if it itself is older.
POD_YOUTH_MINUTES = 30
SERVICE_AGE_MINUTES = 60
RENEWED_SHARE = 0.3
# A pod is gone that was not heard of for so long.
SILENT_MINUTES = 3

# Of a service so many changes are remembered, for so long as they may have to do with an incident.
CHANGES_MOST = 8
VERSION, PODS = "version", "pods"

# What changed, when (ms), from what, to what: a version, or how many pods are heard of.
Change = tuple[str, int, Any, Any]


class Pods:
    """State: names as in Frame.pods, and of each its service, the minute (ms) that it was seen first, its host and its
    version; what changed at each service of late."""

    def __init__(self) -> None:
        self.names = Vocabulary()
        self.service = np.zeros(0, np.int64)
        self._since = np.zeros(0, np.int64)
        self.host: list[str] = []  # where each was seen last, "" = unknown
        self._version: list[str] = []  # service.version, "" = unknown
        self._changes: dict[str, list[Change]] = {}  # service -> its changes, the oldest first

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Of an earlier release, which knew no versions, too."""
        self.__dict__.update({"_version": [""] * len(state["host"]), "_changes": {}} | state)

    def __len__(self) -> int:
        return len(self.names)

    def enter(
        self,
        minute_ms: int,
        names: list[str],
        hosts: list[str],
        services: Vocabulary,
        versions: Sequence[str] | None = None,
    ) -> np.ndarray:
        """Enter the pods of a minute; their numbers, in the order of ``names``. hosts, versions: of each, "" =
        unknown."""
        before = len(self.names)
        self._note_changes(minute_ms, names, versions or [""] * len(names))
        self.names.see(names, minute_ms)
        self.service = grown(self.service, len(self.names))
        self._since = grown(self._since, len(self.names), minute_ms)
        for i in range(before, len(self.names)):
            self.service[i] = services.get(self.names.names[i].split(SEPARATOR)[0])
        numbers = [self.names.get(name) for name in names]
        self.host += [""] * (len(self.names) - before)
        self._version += [""] * (len(self.names) - before)
        for number, host, version in zip(numbers, hosts, versions or [""] * len(names), strict=True):
            self.host[number] = host or self.host[number]
            self._version[number] = version or self._version[number]
        return np.array(numbers)

    def hear(self, minute_ms: int, names: Iterable[str]) -> None:
        """Note who used something in a minute, of the pods that traces have named."""
        self.names.see([name for name in names if self.names.get(name) >= 0], minute_ms)

    def changes(self, minute_ms: int) -> dict[str, list[Change]]:
        """What changed at each service in the hour until a minute, the oldest first."""
        since_ms = minute_ms - CHANGES_MINUTES * MINUTE_MS
        of_late = {
            service: [change for change in changes if since_ms <= change[1] <= minute_ms]
            for service, changes in self._changes.items()
        }
        return {service: changes for service, changes in of_late.items() if changes}

    def _note_changes(self, minute_ms: int, names: list[str], versions: Sequence[str]) -> None:
        """Note pods that are new beside others of their service, and those that run another version than these.

        names, versions: of the minute's pods; they aren't entered yet.
        """
        new: dict[str, list[str]] = {}  # service -> versions of what is new there
        for name, version in zip(names, versions, strict=True):
            number = self.names.get(name)
            if number < 0 or (version and self._version[number] not in ("", version)):
                new.setdefault(name.split(SEPARATOR)[0], []).append(version)
        for service in sorted(new):
            heard_ms = minute_ms - CHANGES_MINUTES * MINUTE_MS
            others = [
                number
                for number, name in enumerate(self.names.names)
                if name.split(SEPARATOR)[0] == service and self.names.last_seen[number] >= heard_ms
            ]
            if not others:
                continue
            ran = Counter(self._version[number] for number in others if self._version[number])
            usual = min(ran, key=lambda version: (-ran[version], version), default="")
            other = sorted({version for version in new[service] if version and version != usual})
            if usual and other:
                self._note(service, (VERSION, minute_ms, usual, other[-1]))
            fresh = sum(self.names.get(name) < 0 for name in names if name.split(SEPARATOR)[0] == service)
            if fresh:
                alive_ms = minute_ms - SILENT_MINUTES * MINUTE_MS
                alive = sum(self.names.last_seen[number] >= alive_ms for number in others)
                self._note(service, (PODS, minute_ms, int(alive), int(alive) + fresh))

    def _note(self, service: str, change: Change) -> None:
        """Take down a change; one that goes on, pod by pod, is one."""
        what, at_ms, _, after = change
        since_ms = at_ms - CHANGES_MINUTES * MINUTE_MS
        changes = [of for of in self._changes.get(service, []) if of[1] >= since_ms]
        last = next((number for number, of in enumerate(changes) if of[0] == what), None)
        if what == PODS and last is not None:
            changes[last] = (what, changes[last][1], changes[last][2], after)
        elif last is None or changes[last][3] != after:
            changes.append(change)
        self._changes[service] = changes[-CHANGES_MOST:]

    def renewed(self, minute_ms: int, pod: np.ndarray, service: np.ndarray, service_since: np.ndarray) -> np.ndarray:
        """Whether each service has a new release: many of its spans come from young pods, and these run a version that
        no other did, or the service is old and pods that are not young fell silent. Where none did, pods were only
        added.  # (services,)

        pod, service: (spans,) numbers. service_since: (services,) the minute (ms) that each was seen first.
        """
        youth = POD_YOUTH_MINUTES * MINUTE_MS
        young = minute_ms - self._since[pod] < youth
        services = len(service_since)
        counts = np.bincount(service, minlength=services)
        fresh = np.bincount(service, young, minlength=services)
        old = minute_ms - service_since >= SERVICE_AGE_MINUTES * MINUTE_MS
        last_seen = self.names.last_seen
        silent = (last_seen <= minute_ms - SILENT_MINUTES * MINUTE_MS) & (last_seen > minute_ms - youth)
        silent &= last_seen - self._since >= youth
        gone = np.bincount(self.service[silent], minlength=services)
        many = (counts > 0) & (fresh > RENEWED_SHARE * counts)
        renewed = many & old & (gone > 0)
        for of in np.flatnonzero(many & ~renewed).tolist():
            renewed[of] = self._has_another_version(minute_ms, of)
        return renewed

    def _has_another_version(self, minute_ms: int, service: int) -> bool:
        """Whether young pods of a service that are heard of run a version that none of the others ran."""
        youth = POD_YOUTH_MINUTES * MINUTE_MS
        pods = np.flatnonzero((self.service == service) & (self.names.last_seen > minute_ms - youth))
        is_young = minute_ms - self._since[pods] < youth
        young, others = ({self._version[pod] for pod in pods[of].tolist()} - {""} for of in (is_young, ~is_young))
        return bool(others and young - others)

    def is_crowded(self) -> bool:
        """Whether more is kept than is to be."""
        return len(self.names) > PODS_MOST

    def forget(self, before_ms: int, gone: np.ndarray) -> np.ndarray:
        """Forget the pods last seen before a time, those of the services at ``gone``, and of too many the oldest.

        returns: the numbers of those that are kept, which are numbered anew in that order.
        """
        kept = seen_lately(self.names.last_seen, before_ms, PODS_MOST)
        kept = kept[~np.isin(self.service[kept], gone)]
        if len(kept) < len(self.names):
            self.names.keep(kept)
            self.host = [self.host[pod] for pod in kept.tolist()]
            self._version = [self._version[pod] for pod in kept.tolist()]
            heard = {name.split(SEPARATOR)[0] for name in self.names.names}
            self._changes = {service: changes for service, changes in self._changes.items() if service in heard}
            self.service, self._since = rows_of(self.service, kept), rows_of(self._since, kept)
        return kept

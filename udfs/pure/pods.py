"""Pods that traces name: since when each is seen, and which services have a new release."""

from __future__ import annotations

import numpy as np

from udfs.pure.assemble import SEPARATOR
from udfs.pure.baseline import Vocabulary, grown, rows_of, seen_lately
from udfs.pure.windows import MINUTE_MS

# The most pods that are kept: those that were seen last.
PODS_MOST = 4_000

# A service is being renewed while most of its spans come from pods younger than this, if it itself is older.
POD_YOUTH_MINUTES = 30
SERVICE_AGE_MINUTES = 60
RENEWED_SHARE = 0.3
# A pod is gone that has said nothing for so long.
SILENT_MINUTES = 3


class Pods:
    """State: names as in Frame.pods, and of each its service and the minute (ms) that it was seen first."""

    def __init__(self) -> None:
        self.names = Vocabulary()
        self.service = np.zeros(0, np.int64)
        self._since = np.zeros(0, np.int64)
        self.host: list[str] = []  # where each was seen last, "" = unknown

    def __len__(self) -> int:
        return len(self.names)

    def enter(self, minute_ms: int, names: list[str], hosts: list[str], services: Vocabulary) -> np.ndarray:
        """Enter the pods of a minute; their numbers, in the order of ``names``. hosts: of each, "" = unknown."""
        before = len(self.names)
        self.names.see(names, minute_ms)
        self.service = grown(self.service, len(self.names))
        self._since = grown(self._since, len(self.names), minute_ms)
        for i in range(before, len(self.names)):
            self.service[i] = services.get(self.names.names[i].split(SEPARATOR)[0])
        numbers = [self.names.get(name) for name in names]
        self.host += [""] * (len(self.names) - before)
        for number, host in zip(numbers, hosts, strict=True):
            self.host[number] = host or self.host[number]
        return np.array(numbers)

    def renewed(self, minute_ms: int, pod: np.ndarray, service: np.ndarray, service_since: np.ndarray) -> np.ndarray:
        """Whether each service has a new release: it is old, many of its spans come from young pods, and pods that are
        not young fell silent. Where none did, pods were only added.  # (services,)

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
        return old & (counts > 0) & (fresh > RENEWED_SHARE * counts) & (gone > 0)

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
            self.service, self._since = rows_of(self.service, kept), rows_of(self._since, kept)
        return kept

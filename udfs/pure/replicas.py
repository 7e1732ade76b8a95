"""What sits on a replica: some pods are faster than others, some pairs of them are near and some are far.

Grain: a pod and kind of time; of the gap between a call and its callee's span, the two pods. Each has an offset from
what the service's operations usually take, shrunken by how much replicas differ at all (empirical Bayes: the variance
between the replicas of a service is learnt beside the one within). Where there is but one, there is no offset.

When replicas go, those that are left differ less, or not at all: what they had in common, as those of a release that
took the place of others, would be taken for news of their service. It stays, as the base of the service.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from udfs.pure.assemble import SEPARATOR
from udfs.pure.baseline import Profiles, Vocabulary, grown, rows_of, seen_lately
from udfs.pure.channels import TIMES
from udfs.pure.frame import Frame
from udfs.pure.windows import MINUTE_MS

SCALE_START, SCALE_FLOOR = 0.5, 0.1
# Replicas that were seen within this time are compared with each other; after it their offsets are forgotten.
RECENT_MS = 120 * MINUTE_MS
# Samples before a replica tells how much they differ.
SAMPLES_MIN = 5.0


class Replicas:
    """State: per (slot, pod or pair of pods) the location of what its operations' usual doesn't tell."""

    def __init__(self) -> None:
        self._names = Vocabulary()
        self._slot = np.zeros(0, np.int64)
        self._offsets = Profiles(SCALE_START, SCALE_FLOOR)
        self._between = np.zeros(0)  # (slots,) variance between the replicas of a slot, 0 = no two
        self._base = np.zeros(0)  # (slots,) what replicas that are left have in common
        self._known = np.zeros(0, bool)  # (replicas,) known well, and seen lately
        self._count: np.ndarray = np.zeros(0)  # (slots,) replicas seen lately

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Of an earlier release, which kept nothing of those that go, too."""
        self.__dict__.update({"_base": np.zeros(0), "_known": np.zeros(0, bool)} | state)

    def __len__(self) -> int:
        return len(self._names)

    def enter(
        self, minute_ms: int, frame: Frame, services: Sequence[str], slot: np.ndarray, is_gap: np.ndarray
    ) -> np.ndarray:
        """Enter the replicas of a minute; the row of each span.  # (spans,)

        services: names by number. slot: (spans,) the number of a service times TIMES, and the kind of time. is_gap:
        (spans,) the time is between two pods.
        """
        pods = len(frame.pods) + 1
        answer = np.full(frame.count, -1)
        answers = np.flatnonzero(frame.has_parent)
        answer[frame.parent[answers]] = answers
        other = np.where(is_gap & (answer >= 0), frame.pod[answer], pods - 1)
        keys, index = np.unique((slot * pods + frame.pod) * pods + other, return_inverse=True)
        pairs, seconds = np.divmod(keys, pods)
        slots, firsts = np.divmod(pairs, pods)
        named = [*frame.pods, ""]
        names = [
            SEPARATOR.join((services[slot // TIMES], str(slot % TIMES), named[first], named[second]))
            for slot, first, second in zip(slots.tolist(), firsts.tolist(), seconds.tolist())
        ]
        before = len(self._names)
        self._names.see(names, minute_ms)
        rows = np.array([self._names.get(name) for name in names])
        if len(self._names) > before:
            self._slot = grown(self._slot, len(self._names))
            self._slot[rows] = slots
            self._offsets.resize(len(self._names))
        self._measure(minute_ms, int(slot.max()) + 1)
        return rows[index]

    def _measure(self, minute_ms: int, slots: int) -> None:
        """How much the replicas of each slot differ."""
        known = (self._offsets.samples >= SAMPLES_MIN) & (self._names.last_seen > minute_ms - RECENT_MS)
        rows = np.flatnonzero(known)
        size = max(slots, len(self._between), int(self._slot.max()) + 1)
        self._base = grown(self._base, size)
        self._keep_base(rows, self._slot[grown(self._known, len(known)) & ~known], size)
        self._known = known
        self._count = np.bincount(self._slot[rows], minlength=size)
        noise = self._offsets.scale[rows] ** 2 / self._offsets.samples[rows]
        location = self._offsets.location[rows]
        count = np.maximum(self._count, 1)
        mean = np.bincount(self._slot[rows], location, size) / count
        square = np.bincount(self._slot[rows], (location - mean[self._slot[rows]]) ** 2 - noise, size)
        self._between = np.where(self._count > 1, np.maximum(square, 0.0) / np.maximum(count - 1, 1), 0.0)

    def _keep_base(self, left: np.ndarray, slots: np.ndarray, size: int) -> None:
        """Let the replicas at ``left`` be as they were, now that others of ``slots`` have gone."""
        left = left[np.isin(self._slot[left], slots)]
        if len(left):
            of = self._slot[left]
            count = np.bincount(of, minlength=size)
            total = np.bincount(of, self.offset(left)[0], size)
            self._base = np.where(count > 0, total / np.maximum(count, 1), self._base)

    def offset(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(offset of each row, the variance that is left of not knowing it)  # 2 x (len(rows),)"""
        between, base = self._between[self._slot[rows]], self._base[self._slot[rows]]
        noise = self._offsets.scale[rows] ** 2
        known = self._offsets.samples[rows] * between
        share = known / (known + noise)
        return base + share * (self._offsets.location[rows] - base), (1 - share) * between

    def learn(self, rows: np.ndarray, surplus: np.ndarray, weights: np.ndarray) -> None:
        """Take in a minute. surplus: (spans,) log time above the operation's usual, the replica's own left in it."""
        self._offsets.learn(rows, surplus, weights)

    def forget(self, before_ms: int, most: int, gone: np.ndarray) -> None:
        """Forget what was last seen before a time, of more than ``most`` the oldest, and the slots at ``gone``."""
        kept = seen_lately(self._names.last_seen, before_ms, most)
        kept = kept[~np.isin(self._slot[kept], gone)]
        if len(kept) < len(self._names):
            self._names.keep(kept)
            self._slot, self._known = self._slot[kept], rows_of(self._known, kept)
            self._offsets.keep(kept)
        self._base[gone[gone < len(self._base)]] = 0.0

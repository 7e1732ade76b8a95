"""What is usual: bounded, picklable tables of running statistics, one row an operation.

Everything is lagged: a reader compares with a table first and lets it learn afterwards. All
updates of a minute are made at once and are sums over sorted input, so that the order of traces
has no say.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

# An estimate forgets with this time constant, or with this many samples where they come rarely:
# fast enough for the daily rhythm and a deploy, slow enough for a storm.
MEMORY_MINUTES = 120.0
MEMORY_SAMPLES = 150.0

# Huber's bounds: what lies further out moves the location no more, and widens the scale no more.
LOCATION_CLIP = 1.5
SCALE_CLIP = 2.5
# E[min(Z^2, SCALE_CLIP^2)] of a standard normal Z: with it the scale is that of a normal's core.
SCALE_NORM = 0.9775


# All that was seen within one minute may be off together. An estimate from few minutes can't afford
# to leave anything out: samples weigh at least this, over the number of minutes.
YOUTH_MINUTES = 3.0


class Vocabulary:
    """Names to small integers, and when each was last seen.

    A name is forgotten by ``keep``, which numbers the others anew, or by ``release``, which leaves its number to the
    next new name: whoever keeps rows by number resets that row.
    """

    # In place of a name that was released; no name in the field holds it.
    NOBODY = "\x1f"

    def __init__(self) -> None:
        self.names: list[str] = []
        self.last_seen = np.zeros(0, np.int64)  # (names,) minute in ms
        self._ids: dict[str, int] = {}
        self._free: list[int] = []  # numbers of nobody, descending

    def __len__(self) -> int:
        """Numbers that are taken or were; the rows that a table needs."""
        return len(self.names)

    @property
    def taken(self) -> int:
        """How many names are known."""
        return len(self._ids)

    def get(self, name: str) -> int:
        """The id of ``name``, -1 where it isn't known."""
        return self._ids.get(name, -1)

    def see(self, names: Iterable[str], minute_ms: int) -> list[int]:
        """Enter what is new of ``names``, in order of name, and note that they were all seen.

        returns: the numbers that a released name had and a new one has now.
        """
        names = sorted(set(names))
        reused = []
        for name in names:
            if name in self._ids:
                continue
            if self._free:
                self._ids[name] = self._free.pop()
                self.names[self._ids[name]] = name
                reused.append(self._ids[name])
            else:
                self._ids[name] = len(self.names)
                self.names.append(name)
        self.last_seen = grown(self.last_seen, len(self.names))
        self.last_seen[[self._ids[name] for name in names]] = minute_ms
        return reused

    def release(self, before_ms: int, most: int | None = None) -> np.ndarray:
        """Forget the names last seen before a time, and of more than ``most`` the ones that were seen the longest ago;
        their numbers, ascending."""
        taken = np.array(sorted(self._ids.values()), int)
        gone = set(taken[self.last_seen[taken] < before_ms].tolist())
        if most is not None and len(taken) - len(gone) > most:
            # By time, then by name: the numbers depend on the order in which names came.
            oldest = sorted(set(taken.tolist()) - gone, key=lambda i: (self.last_seen[i], self.names[i]))
            gone.update(oldest[: len(oldest) - most])
        for i in gone:
            del self._ids[self.names[i]]
            self.names[i] = self.NOBODY
        self._free = sorted({*self._free, *gone}, reverse=True)
        return np.array(sorted(gone), int)

    def keep(self, kept: np.ndarray) -> None:
        """Forget all names but those at ``kept`` (ascending ids), and number them anew."""
        self.names = [self.names[i] for i in kept]
        self.last_seen = self.last_seen[kept]
        self._ids = {name: i for i, name in enumerate(self.names) if name != self.NOBODY}
        self._free = [i for i, name in reversed(list(enumerate(self.names))) if name == self.NOBODY]


def seen_lately(last_seen: np.ndarray, before_ms: int, most: int) -> np.ndarray:
    """The numbers, ascending, of what was seen since a time; where there are more than ``most``, of seven eighths as
    many: those that were seen last. (So it isn't to be done again at once.)"""
    kept = np.flatnonzero(last_seen >= before_ms)
    if len(kept) > most:
        kept = np.sort(kept[np.argsort(-last_seen[kept], kind="stable")[: fewer(most)]])
    return kept


def fewer(most: int) -> int:
    """How many of at most so many are kept, where there are more."""
    return most - most // 8


def grown(column: np.ndarray, rows: int, fill: float = 0) -> np.ndarray:
    """``column`` with at least ``rows`` rows, new ones filled with ``fill``."""
    if len(column) >= rows:
        return column
    larger = np.full((rows, *column.shape[1:]), fill, column.dtype)
    larger[: len(column)] = column
    return larger


def rows_of(column: np.ndarray, kept: np.ndarray, fill: float = 0) -> np.ndarray:
    """The rows at ``kept``, of a column that may not reach as far."""
    if not len(kept):
        return column[:0]
    return grown(column, int(kept.max()) + 1, fill)[kept]


class Profiles:
    """Running location and scale of a quantity per row: Huber's estimates, with forgetting.

    The recursive counterpart of a median and a MAD over the recent past: bounded influence of any
    sample, in constant space.
    """

    def __init__(self, scale_start: float, scale_floor: float) -> None:
        """scale_start: what a new row's scale is thought to be. scale_floor: its least value."""
        self._scale_start, self._scale_floor = scale_start, scale_floor
        self.location = np.zeros(0)
        self.scale = np.zeros(0)
        self.samples = np.zeros(0)  # effective number of samples that the estimate rests on
        self.minutes = np.zeros(0)  # number of minutes that they came from

    def resize(self, rows: int) -> None:
        """Have at least ``rows`` rows."""
        self.location = grown(self.location, rows)
        self.scale = grown(self.scale, rows, self._scale_start)
        self.samples = grown(self.samples, rows)
        self.minutes = grown(self.minutes, rows)

    def keep(self, kept: np.ndarray) -> None:
        """Keep the rows at ``kept``."""
        for name in ("location", "scale", "samples", "minutes"):
            setattr(self, name, getattr(self, name)[kept])

    def is_settled(self, rows: np.ndarray, samples: float, minutes: float) -> np.ndarray:
        """Whether rows rest on so many samples, from so many minutes.  # (len(rows),)"""
        return (self.samples[rows] >= samples) & (self.minutes[rows] >= minutes)

    def learn(self, rows: np.ndarray, values: np.ndarray, weights: np.ndarray) -> None:
        """Take in a minute's samples. rows, values, weights: (samples,); weight 0 = leave out."""
        used = weights > 0
        rows, values, weights = rows[used], values[used], weights[used]
        if not len(rows):
            return
        weights = np.maximum(weights, YOUTH_MINUTES / np.maximum(self.minutes[rows], YOUTH_MINUTES))
        order = np.lexsort((weights, values, rows))
        rows, values, weights = rows[order], values[order], weights[order]
        first = np.flatnonzero(np.r_[True, rows[1:] != rows[:-1]])
        at = rows[first]
        counts = np.diff(np.r_[first, len(rows)])

        is_new = self.samples[at] == 0
        # The middle sample of its first minute is where a row begins.
        self.location[at[is_new]] = values[(first + (counts - 1) // 2)[is_new]]

        z = (values - self.location[rows]) / self.scale[rows]
        total = np.add.reduceat(weights, first)
        pull = np.add.reduceat(weights * np.clip(z, -LOCATION_CLIP, LOCATION_CLIP), first) / total
        spread = np.add.reduceat(weights * np.minimum(z * z, SCALE_CLIP**2), first) / total
        forget = np.minimum(1 / MEMORY_MINUTES, total / MEMORY_SAMPLES)
        self.samples[at] = self.samples[at] * (1 - forget) + total
        self.minutes[at] += 1
        gain = total / self.samples[at]
        self.location[at] += gain * pull * self.scale[at]
        # A single sample says nothing of the spread around itself.
        gain = np.where(is_new, np.minimum(gain, 1 - 1 / counts), gain)
        self.scale[at] = np.maximum(self.scale[at] * np.exp(0.5 * gain * (spread - SCALE_NORM)), self._scale_floor)

"""detect, on an input without end: the traces of each minute, as their changes come one by one."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b

from pyflink.common import RowKind, Time, Types
from pyflink.datastream import RuntimeContext
from pyflink.datastream.state import MapStateDescriptor, StateTtlConfig

from udfs.pure.assemble import Trace, unpack

# How long a minute that is over is kept, in the engine's time, for traces of it that come later.
KEPT = Time.days(7)


@dataclass
class Change:
    """A version of a trace, and how often it came more than it was taken back."""

    count: int
    packed: bytes

    @cached_property
    def trace(self) -> Trace:
        """Unpacked once, however often its minute is judged."""
        return unpack(self.packed)


class Traces:
    """Keyed state: packed traces by minute.

    A minute that is open has an entry for each version of a trace that stands, and for each that was taken back before
    it came. A worker writes them without reading, and reads a copy that it keeps in memory; a new one takes that from
    the state. So all that is open lies in memory, some 5 kB a trace. A minute that is over is one entry, and what comes
    of it later changes that.
    """

    def __init__(self, context: RuntimeContext) -> None:
        # Digest of minute and trace -> minute, count, trace.
        self._changes = context.get_map_state(
            MapStateDescriptor("trace_changes", Types.LONG(), Types.PICKLED_BYTE_ARRAY())
        )
        over = MapStateDescriptor("traces_over", Types.LONG(), Types.PICKLED_BYTE_ARRAY())
        over.enable_time_to_live(StateTtlConfig.new_builder(KEPT).build())
        self._over = context.get_map_state(over)
        self._copy: dict[int, dict[int, Change]] | None = None

    def apply(self, kind: RowKind, minute_ms: int, packed: bytes) -> None:
        """Take in that a minute has a trace, or has it no more."""
        changes = self._by_minute()[minute_ms]
        entry = _entry(minute_ms, packed)
        change = changes.setdefault(entry, Change(0, packed))
        change.count += -1 if kind in (RowKind.UPDATE_BEFORE, RowKind.DELETE) else 1
        if change.count:
            self._changes.put(entry, (minute_ms, change.count, packed))
        else:
            del changes[entry]
            self._changes.remove(entry)

    def holds(self, minute_ms: int, packed: bytes) -> bool:
        """Whether this version of a trace of an open minute is held."""
        return _entry(minute_ms, packed) in self._by_minute().get(minute_ms, {})

    def count_after(self, minute_ms: int) -> int:
        """Traces held of open minutes after this one."""
        return sum(len(changes) for of_ms, changes in self._by_minute().items() if of_ms > minute_ms)

    def minutes(self) -> list[int]:
        """Those that are open, or of which something came late, ascending."""
        return sorted(minute_ms for minute_ms, changes in self._by_minute().items() if changes)

    def of(self, minute_ms: int) -> list[Trace]:
        """The traces of an open minute, in no order."""
        return [change.trace for change in self._by_minute()[minute_ms].values() if change.count > 0]

    def close(self, minute_ms: int) -> list[bytes]:
        """The traces of a minute that is over from now on, or was and something came late, in no order."""
        counts = Counter(self._over.get(minute_ms) or ())
        for entry, change in self._by_minute().pop(minute_ms, {}).items():
            counts[change.packed] += change.count
            self._changes.remove(entry)
        traces = [packed for packed, count in counts.items() if count > 0]
        if traces:
            self._over.put(minute_ms, traces)
        else:
            self._over.remove(minute_ms)
        return traces

    def _by_minute(self) -> dict[int, dict[int, Change]]:
        if self._copy is None:
            self._copy = defaultdict(dict)
            for entry, (minute_ms, count, packed) in self._changes.items():
                self._copy[minute_ms][entry] = Change(count, packed)
        return self._copy


def _entry(minute_ms: int, packed: bytes) -> int:
    digest = blake2b(packed, digest_size=8, key=b"%d" % minute_ms).digest()
    return int.from_bytes(digest, "big", signed=True)

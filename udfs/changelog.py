"""Rows between the stages: one shape for all keyed functions, a changelog by (kind, time_ms, key)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from hashlib import blake2b
from typing import Generic, TypeVar

from pyflink.common import Row, RowKind, Time, Types
from pyflink.common.typeinfo import TypeInformation
from pyflink.datastream import KeyedProcessFunction, RuntimeContext
from pyflink.datastream.state import MapStateDescriptor, StateTtlConfig

from udfs.pure.windows import MINUTE_MS

Key = TypeVar("Key", str, int)
Payload = TypeVar("Payload", str, bytes)

FIELDS = ("kind", "time_ms", "event_key", "payload")

ROW_TYPE = Types.ROW_NAMED(
    list(FIELDS), [Types.STRING(), Types.LONG(), Types.STRING(), Types.PRIMITIVE_ARRAY(Types.BYTE())]
)

# Event time at which everything that was read has been read: the end of a bounded input fires it.
END_OF_INPUT = 1 << 61


# Rows of this kind say nothing: where nothing else comes they make the engine hand on what timers bring about.
PULSE = "pulse"

# A row of this kind calls its key, now and then. The engine's checkpoints lack the timers that a worker has set since
# it handed on rows last; so after a start each key tells all that it has anew when it is called first.
CALL = "call"


# The payload of a row that takes back the one of its first three fields.
TAKEN_BACK = b"null"


class Latest(Generic[Key, Payload]):
    """Keyed state: the payload that stands for each event_key, in whatever order its changes come.

    A join that works in mini-batches sends the new version of a row before it takes back the old
    one as often as after it. So versions are counted: an insertion adds one, a retraction takes
    one away, and the version whose count is positive stands. At most the changes in transit are held.
    """

    def __init__(
        self,
        context: RuntimeContext,
        name: str,
        key_type: TypeInformation,
        keep_ms: int | None = None,
        part: Callable[[Payload], Payload] | None = None,
    ) -> None:
        """keep_ms: an entry that nothing has changed for so long is let go, in the engine's time. part: what is kept
        of a payload, and of such a part all of it: an earlier release may have kept the whole."""
        descriptor = MapStateDescriptor(name, key_type, Types.PICKLED_BYTE_ARRAY())
        if keep_ms is not None:
            descriptor.enable_time_to_live(StateTtlConfig.new_builder(Time.milliseconds(keep_ms)).build())
        self._versions = context.get_map_state(descriptor)
        self._part: Callable[[Payload], Payload] | None = part

    def apply(self, kind: RowKind, key: Key, payload: Payload) -> None:
        """Take in one change."""
        versions = self._versions.get(key) or {}
        if self._part is not None:
            payload, whole, versions = self._part(payload), versions, {}
            for version, n in whole.items():
                versions[self._part(version)] = versions.get(self._part(version), 0) + n
        count = versions.get(payload, 0) + (-1 if kind in (RowKind.UPDATE_BEFORE, RowKind.DELETE) else 1)
        versions = {version: n for version, n in versions.items() if version != payload}
        if count:
            versions[payload] = count
        if versions:
            self._versions.put(key, versions)
        else:
            self._versions.remove(key)

    def get(self, key: Key) -> Payload | None:
        """What stands for ``key``."""
        return _standing(self._versions.get(key) or {})

    def values(self) -> Iterator[Payload]:
        """What stands, of all keys, in no order."""
        for versions in self._versions.values():
            payload = _standing(versions)
            if payload is not None:
                yield payload

    def items(self) -> Iterator[tuple[Key, Payload]]:
        """Keys of which something stands, with it, in no order."""
        for key, versions in self._versions.items():
            payload = _standing(versions)
            if payload is not None:
                yield key, payload

    def keys(self) -> Iterator[Key]:
        """Keys of which something stands, in no order."""
        for key, versions in self._versions.items():
            if _standing(versions) is not None:
                yield key

    def remove(self, key: Key) -> None:
        """Forget ``key``."""
        self._versions.remove(key)


def _standing(versions: dict[Payload, int]) -> Payload | None:
    return max((version for version, count in versions.items() if count > 0), default=None)


# So long, in the engine's time, a key is remembered that isn't called any more; the others are called once a minute.
CALLED_KEPT_MS = 10 * MINUTE_MS


class Sent:
    """What was sent last, told by a digest that holds for this start of the engine alone.

    What was sent after the last checkpoint is forgotten by a start that goes on from it, and stands in the tables. So
    nothing that an earlier start sent counts as sent.
    """

    def __init__(self) -> None:
        self._start = os.urandom(8)
        # Keys that were called in this period, and in the one before it.
        self._called: set[object] = set()
        self._called_before: set[object] = set()
        self._since_ms = 0

    def __len__(self) -> int:
        """How many keys are remembered: those that are called, for the engine forgets what nothing comes of."""
        return len(self._called | self._called_before)

    def digest(self, payload: bytes) -> bytes:
        """To be kept beside what is sent, and compared with."""
        return blake2b(payload, digest_size=8, key=self._start).digest()

    def is_first_call(self, key: object, now_ms: int) -> bool:
        """Whether ``key`` is called for the first time since the start, or since it was forgotten: to tell all that it
        has once more does no harm. now_ms: the engine's time."""
        if now_ms - self._since_ms >= CALLED_KEPT_MS:
            self._called, self._called_before, self._since_ms = set(), self._called, now_ms
        is_first = key not in self._called and key not in self._called_before
        self._called.add(key)
        return is_first


def tick(context: KeyedProcessFunction.Context, every_ms: int) -> int:
    """One timer of the engine's time for all that changes until it fires, and when that is: timers of one time are
    one."""
    timers = context.timer_service()
    now_ms = timers.current_processing_time()
    at_ms = now_ms - now_ms % every_ms + every_ms
    timers.register_processing_time_timer(at_ms)
    return at_ms


def payload_row(kind: str, time_ms: int, event_key: str, payload: bytes) -> Row:
    """A row of ROW_TYPE: it stands in the place of the one before of its first three."""
    return Row(kind, time_ms, event_key, payload)

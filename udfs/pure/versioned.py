"""State that outlives the program that wrote it: every pickled object says which version of its class wrote it."""

from __future__ import annotations

import pickle
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, ClassVar

_KEY = "state_version"


class StateError(Exception):
    """State that this program can't read; one line that says why and what to do."""


def check(what: str, version: int, known: int) -> None:
    """Raises:
    StateError: ``what`` is of a version that only a newer program knows."""
    if version > known:
        raise StateError(
            f"the state of {what} is of version {version}, this program knows up to {known}: run the release that wrote"
            " it, or a newer one, or start without the savepoint"
        )


class Versioned:
    """A dataclass that is kept as pickle. Raise STATE_VERSION, and extend ``migrated``, where its fields change their
    meaning; a field that is merely new gets its default."""

    STATE_VERSION: ClassVar[int] = 1

    @classmethod
    def migrated(cls, version: int, state: dict[str, Any]) -> dict[str, Any]:
        """The fields of an older version as those of this one."""
        return state

    def __getstate__(self) -> dict[str, Any]:
        return {_KEY: self.STATE_VERSION, **self.__dict__}

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        version = state.pop(_KEY, 1)
        check(type(self).__name__, version, self.STATE_VERSION)
        if version < self.STATE_VERSION:
            state = self.migrated(version, state)
        self.__dict__.update(_defaults(type(self)) | state)


def _defaults(cls: type) -> dict[str, Any]:
    """The defaults of a dataclass's fields, where they have one."""
    found: dict[str, Any] = {}
    for each in fields(cls) if is_dataclass(cls) else ():
        if each.default_factory is not MISSING:
            found[each.name] = each.default_factory()
        elif each.default is not MISSING:
            found[each.name] = each.default
    return found


class Kept:
    """A value in keyed state whose classes may be gone when it is read: pickled when the state is written, and read
    only where its version is this program's."""

    def __init__(self, value: object, version: int) -> None:
        self._value, self._version = value, version
        self._packed: bytes | None = None

    def value(self, what: str, version: int) -> Any | None:
        """The value; None where an older version wrote it.

        Raises:
            StateError: a newer version wrote it.
        """
        check(what, self._version, version)
        if self._version < version:
            return None
        if self._packed is not None:
            self._value, self._packed = pickle.loads(self._packed), None
        return self._value

    def __getstate__(self) -> tuple[int, bytes]:
        packed = self._packed
        return self._version, pickle.dumps(self._value, pickle.HIGHEST_PROTOCOL) if packed is None else packed

    def __setstate__(self, state: tuple[int, bytes]) -> None:
        self._value = None
        self._version, self._packed = state

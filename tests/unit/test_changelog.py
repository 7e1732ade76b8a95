"""What stands for a key, in whatever order the changes of its row come."""

from __future__ import annotations

from itertools import permutations

from pyflink.common import RowKind, Types

from udfs.changelog import Latest


class _MapState(dict):
    """The part of the engine's map state that ``Latest`` uses."""

    put = dict.__setitem__

    def remove(self, key: object) -> None:
        self.pop(key, None)


class _Context:
    def __init__(self) -> None:
        self.state = _MapState()

    def get_map_state(self, descriptor: object) -> _MapState:
        return self.state


# A row that is inserted, updated twice, and whose first version comes back in between.
CHANGES = (
    (RowKind.INSERT, "a"),
    (RowKind.UPDATE_BEFORE, "a"),
    (RowKind.UPDATE_AFTER, "b"),
    (RowKind.UPDATE_BEFORE, "b"),
    (RowKind.UPDATE_AFTER, "a"),
    (RowKind.UPDATE_BEFORE, "a"),
    (RowKind.UPDATE_AFTER, "c"),
)


def _after(changes: tuple) -> tuple[_Context, Latest]:
    context = _Context()
    latest = Latest(context, "rows", Types.STRING())
    for kind, payload in changes:
        latest.apply(kind, "key", payload)
    return context, latest


def test_the_last_version_stands_in_any_order_of_changes() -> None:
    for order in permutations(CHANGES):
        context, latest = _after(order)
        assert latest.get("key") == "c"
        assert list(latest.values()) == ["c"]
        assert context.state == {"key": {"c": 1}}


def test_a_deleted_row_leaves_nothing_behind() -> None:
    for order in permutations((*CHANGES, (RowKind.DELETE, "c"))):
        context, latest = _after(order)
        assert latest.get("key") is None
        assert list(latest.values()) == []
        assert not context.state

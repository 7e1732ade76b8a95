"""collect, money: one FOCUS row as Kafka brings it, a JSON object -> a charge or a reject.

Source: FOCUS 1.0 to 1.4, keys = column names; what the cells may hold is in ``udfs.pure.focus``.
"""

from __future__ import annotations

import json

from udfs.pure.focus import COST_COLUMNS, RAGGED, STREAM, collect_charge, reject_row
from udfs.pure.rates import Exchange
from udfs.pure.reject import RejectedRecord, reject

# A row of FOCUS holds about 2 kB, its Tags some more.
MAX_ROW_BYTES = 1 << 20
# Bytes of a longer one that its reject shows.
_SHOWN_BYTES = 2048

# Key-value columns as a list of pairs take four levels.
MAX_DEPTH = 32
_TOO_DEEP = f"nested deeper than {MAX_DEPTH}: a FOCUS row is an object of plain cells and Tags"


def collect_charge_record(
    line: bytes,
    delivery: str,
    cost_column: str = "EffectiveCost",
    exchange: Exchange | None = None,
) -> tuple[str, dict | str]:
    """One row: ("charge", charge of focus.collect_charge) or ("reject", reject text). No bytes raise.

    delivery: sortable text of when the record was sent, as the ISO time of the Kafka record: of two records with
    another cost for the same row the later one counts, unless the rows say when they were exported.

    A file says by its name and its order which delivery a row belongs to, and which of several identical rows it
    is. A topic says neither, and may deliver a record twice. So a record has to say it itself: a time of
    focus.VERSION_COLUMNS, the same in all rows of a snapshot, and, of the second identical row on,
    focus.COPY_COLUMN. With them a bill gives the same charges as from a file, however often its records come.
    Without them an identical record is the same row once more, and counts once, and a later one of the same
    identity takes the earlier one's place.

    Numbers keep their digits (no float in between), NaN and Infinity are rejected where a figure is needed, and what
    isn't UTF-8 is read with replacement characters.

    Raises ValueError for a ``cost_column`` that FOCUS doesn't know.
    """
    if cost_column not in COST_COLUMNS:
        raise ValueError(f"cost column {cost_column!r}: use one of {', '.join(COST_COLUMNS)}")
    try:
        row = _decode(line)
    except RejectedRecord as error:
        return "reject", reject(STREAM, error.reason, line[:_SHOWN_BYTES] if len(line) > MAX_ROW_BYTES else line)
    try:
        return "charge", collect_charge(row, cost_column, delivery=delivery, exchange=exchange)
    except RejectedRecord as error:
        return "reject", reject_row(row, error)


def _decode(line: bytes) -> dict[str, object]:
    """The row's cells; fractions as text, with all their digits. Raises RejectedRecord."""
    if len(line) > MAX_ROW_BYTES:
        raise RejectedRecord(f"a row of {len(line)} bytes is longer than {MAX_ROW_BYTES}: send one row a record")
    try:
        row = json.loads(line.decode("utf-8-sig", "replace"), parse_float=str, parse_constant=str)
    except ValueError as error:
        what = "empty" if not line.strip() else f"not JSON ({' '.join(str(error).split())})"
        raise RejectedRecord(f"{what}: send a FOCUS row as one JSON object a record") from None
    except RecursionError:
        raise RejectedRecord(_TOO_DEEP) from None
    if not _is_shallow(row, MAX_DEPTH):
        raise RejectedRecord(_TOO_DEEP)
    if not isinstance(row, dict):
        raise RejectedRecord("not an object: send a FOCUS row as one JSON object a record, keys = FOCUS columns")
    if rb"\u" in line:  # half of a UTF-16 pair is no text that could be stored
        row = json.loads(json.dumps(row, ensure_ascii=False).encode("utf-8", "replace"))
    row.pop(RAGGED, None)  # a mark of ours, for CSV
    return row


def _is_shallow(node: object, depth: int) -> bool:
    if not isinstance(node, (dict, list)):
        return True
    inner = node.values() if isinstance(node, dict) else node
    return depth > 0 and all(_is_shallow(child, depth - 1) for child in inner)

"""collect, money: one FOCUS row as Kafka brings it, a JSON object -> a charge or a reject.

Source: FOCUS 1.0 to 1.4, keys = column names; what the cells may hold is in ``udfs.pure.focus``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import orjson

from udfs.pure.focus import COST_COLUMNS, RAGGED, STREAM, collect_charge, reject_row
from udfs.pure.rates import Exchange
from udfs.pure.reject import Code, RejectedRecord, reject

# A row of FOCUS holds about 2 kB, its Tags some more.
MAX_ROW_BYTES = 1 << 20
# Bytes of a longer one that its reject shows.
_SHOWN_BYTES = 2048

# Key-value columns as a list of pairs take four levels.
MAX_DEPTH = 32
# Columns of a record that holds a charge which was read before, and the digest that tells so.
_CHARGE, _DIGEST = "x_Charge", "x_ChargeDigest"
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
        if len(line) > MAX_ROW_BYTES:
            return "reject", reject(STREAM, error.reason, line[:_SHOWN_BYTES], code=Code.TOO_LONG)
        return "reject", reject(STREAM, error.reason, line, code=Code.UNREADABLE)
    try:
        if _CHARGE in row:
            return "charge", _charge_again(row)
        return "charge", collect_charge(row, cost_column, delivery=delivery, exchange=exchange)
    except RejectedRecord as error:
        return "reject", reject_row(row, error)


def record_of(charge: Mapping[str, Any]) -> dict[str, Any]:
    """A record that gives just this charge again, as the payload of a reject: it has the key, identity and version that
    the row gave it, which other columns than those kept here are part of."""
    return {_CHARGE: dict(charge), _DIGEST: _digest(charge)}


def _charge_again(row: Mapping[str, Any]) -> dict:
    """The charge of a record of ``record_of``. Raises RejectedRecord for what was not made by it."""
    charge = row[_CHARGE]
    if not isinstance(charge, dict) or row.get(_DIGEST) != _digest(charge):
        raise RejectedRecord(f"{_CHARGE} was changed: send the FOCUS row that it was made of, or the record as it was")
    return charge


def _digest(charge: Mapping[str, Any]) -> str:
    try:
        written = orjson.dumps(charge, option=orjson.OPT_SORT_KEYS)
    except TypeError:  # integers beyond 64 bits, which no charge of ours has
        return ""
    return hashlib.blake2b(written, digest_size=16).hexdigest()


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

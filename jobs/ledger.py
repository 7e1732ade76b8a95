"""What of a bill was sent to a topic, kept in a file: a later delivery sends what changed, and a restart goes on."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from decimal import Decimal
from pathlib import Path

from jobs.errors import JobError, UsageError
from udfs.pure.deliveries import Delivery
from udfs.pure.focus import DELIVERY_COLUMNS
from udfs.pure.price import CORRECTION, utc

# Records that are sent before the broker is asked whether it has them all.
BATCH = 10_000

# Times of snapshots are compared as text, so they have whole seconds.
_SECOND_MS = 1000
# Of the way in which ``focus`` tells charges apart.
_IDENTITIES = "2"
# A correction that comes back after it was taken back is another copy of itself, beyond all that a bill has.
_COPIES = 1_000_000

_TABLES = """
create table if not exists meta (name text primary key, value text not null) without rowid;
create table if not exists taken (scope text primary key, signature text not null) without rowid;
create table if not exists billed (
    scope text, key text, identity text not null, version text not null, copy integer not null, cells blob not null,
    cost text not null, primary key (scope, key)
) without rowid;
create index if not exists billed_identity on billed (identity);
create table if not exists sent (identity text, key text, record blob not null, primary key (identity, key))
    without rowid;
create table if not exists gone (key text primary key, times integer not null) without rowid;
create table if not exists refused (digest blob primary key) without rowid;
create table if not exists outbox (number integer primary key, identity text not null, record blob not null);
create temporary table touched (identity text primary key) without rowid;
"""


class Ledger:
    """The state of one bill and topic.

    A charge's rows, all that have one identity, change together: where any is new, changed or left out, all that were
    sent are taken back, each by the same record with ``x_Withdrawn``, and those that stand are sent with a snapshot
    of their own. A correction is a charge by itself.

    What is to be sent is written down before it is sent, together with what it makes of the state. So whatever ends
    the program, the next start sends the rest first, and that a record is sent twice does no harm.

    Disk: about 1.5 kB a row of the bill.
    """

    def __init__(self, path: Path | None, about: Sequence[str]) -> None:
        """path: None = in memory, so that each start sends all. about: what the state is for.

        Raises:
            UsageError: it is for something else. JobError: it can't be read, or another program has it open.
        """
        self._path = path
        try:
            self._db = sqlite3.connect(path or ":memory:", timeout=1, isolation_level=None)
            self._db.execute("pragma locking_mode = exclusive")
            self._db.execute("pragma journal_mode = wal")
            self._db.execute("begin immediate")
            self._db.execute("commit")
            self._db.executescript(_TABLES)
            told = json.dumps(list(about))
            known = self._meta("about")
            if known is None:
                self._set("about", told)
                self._set("identities", _IDENTITIES)
            elif known != told:
                raise UsageError(f"--state {path}: is of {' '.join(json.loads(known))}, not of {' '.join(about)}")
            elif self._meta("identities") != _IDENTITIES:
                raise UsageError(f"--state {path}: is of an earlier release, which told charges apart otherwise; begin"
                                 " with a new file, and the job with a new state")  # fmt: skip
        except sqlite3.Error as error:
            raise JobError(f"{path}: can't be used as state: {error}") from None

    def close(self) -> None:
        """What was written stays."""
        self._db.close()

    def is_taken(self, delivery: Delivery) -> bool:
        """Whether exactly this delivery of its scope was the last one that was taken in."""
        known = self._db.execute("select signature from taken where scope = ?", (delivery.scope,)).fetchone()
        return known is not None and known[0] == delivery.signature

    def take(self, delivery: Delivery, rows: Iterable[tuple[Mapping[str, object], int, Mapping | str]]) -> int:
        """Take in a delivery: it takes the place of the one before of its scope. All of it, or nothing where it fails.

        rows: of ``bills.Place.collect``. returns: how many records are to be sent.
        """
        db = self._db
        db.execute("begin immediate")
        try:
            db.execute("delete from touched")
            db.execute("insert into touched select distinct identity from billed where scope = ?", (delivery.scope,))
            db.execute("delete from billed where scope = ?", (delivery.scope,))
            for cells, copy, value in rows:
                if isinstance(value, str):
                    self._refuse(cells, value)
                    continue
                identity = f"={value['key']}" if value["charge_class"] == CORRECTION else str(value["identity"])
                db.execute(
                    "insert or replace into billed (scope, key, identity, version, copy, cells, cost)"
                    " values (?, ?, ?, ?, ?, ?, ?)",
                    (delivery.scope, value["key"], identity, value["version"], copy, _packed(_record(cells)),
                     str(value["cost"])),
                )  # fmt: skip
                db.execute("insert or ignore into touched values (?)", (identity,))
            # Each delivery is a snapshot later than any before it, so that no record is one that was taken back.
            snapshot_ms = max(delivery.time_ms - delivery.time_ms % _SECOND_MS, self._last_ms() + _SECOND_MS)
            for (identity,) in db.execute("select identity from touched order by identity").fetchall():
                self._compare(identity, utc(snapshot_ms))
            self._set("last_ms", str(snapshot_ms))
            db.execute("insert or replace into taken values (?, ?)", (delivery.scope, delivery.signature))
            (count,) = db.execute("select count(*) from outbox").fetchone()
            db.execute("commit")
        except BaseException:
            db.execute("rollback")
            raise
        return count

    def send(self, deliver: Callable[[list[tuple[bytes, bytes]]], None]) -> int:
        """Send what is to be sent, in order. deliver: sends (key, record)s, and returns once the broker has them all.

        returns: how many were sent.
        """
        count = 0
        while batch := self._db.execute(
            "select number, identity, record from outbox order by number limit ?", (BATCH,)
        ).fetchall():
            deliver([(identity.encode(), zlib.decompress(record)) for _, identity, record in batch])
            self._db.execute("delete from outbox where number <= ?", (batch[-1][0],))
            count += len(batch)
        return count

    def _compare(self, identity: str, snapshot: str) -> None:
        """Put into the outbox what makes of the rows that were sent those that stand: of the greatest version."""
        db = self._db
        standing = {
            key: (copy, cells)
            for key, copy, cells in db.execute(
                "select key, copy, cells from billed where identity = :i and version = (select max(version) from billed"
                " where identity = :i)",
                {"i": identity},
            )
        }
        is_restated = self._is_restated(identity)
        sent = dict(db.execute("select key, record from sent where identity = ?", (identity,)).fetchall())
        # What was sent of a charge says the same in each row.
        if standing.keys() == sent.keys() and is_restated == any(map(_says_restated, [*sent.values()][:1])):
            return
        restated = {"x_Restated": "true"} if is_restated else {}
        for key, (copy, cells) in sorted(standing.items()):
            if identity[0] == "=":
                times = db.execute("select times from gone where key = ?", (key,)).fetchone()
                copy += _COPIES * (times[0] if times else 0)
            number = {"x_CopyNumber": copy} if copy > 1 else {}
            record = _packed(json.loads(zlib.decompress(cells)) | {"x_SnapshotTime": snapshot} | number | restated)
            db.execute("insert into outbox (identity, record) values (?, ?)", (identity, record))
            db.execute("insert or replace into sent values (?, ?, ?)", (identity, key, record))
        for key, record in sorted(sent.items()):
            withdrawn = _packed(json.loads(zlib.decompress(record)) | {"x_Withdrawn": snapshot})
            db.execute("insert into outbox (identity, record) values (?, ?)", (identity, withdrawn))
            if key not in standing:
                db.execute("delete from sent where identity = ? and key = ?", (identity, key))
            if identity[0] == "=":
                db.execute("insert into gone values (?, 1) on conflict do update set times = times + 1", (key,))

    def _is_restated(self, identity: str) -> bool:
        """Whether deliveries that stand side by side differ in what a charge costs: the latest alone is sent."""
        if identity[0] == "=":
            return False
        costs: dict[str, Decimal] = defaultdict(Decimal)
        for version, cost in self._db.execute("select version, cost from billed where identity = ?", (identity,)):
            costs[version] += Decimal(cost)
        return len(set(costs.values())) > 1

    def _refuse(self, cells: Mapping[str, object], reject: str) -> None:
        """Rows that can't be used are sent once, for the job to reject them."""
        digest = hashlib.blake2b(reject.encode("utf-8", "replace"), digest_size=16).digest()
        if self._db.execute("insert or ignore into refused values (?)", (digest,)).rowcount:
            record = _packed(_record(cells))
            self._db.execute("insert into outbox (identity, record) values (?, ?)", ("", record))

    def _last_ms(self) -> int:
        return int(self._meta("last_ms") or 0)

    def _meta(self, name: str) -> str | None:
        row = self._db.execute("select value from meta where name = ?", (name,)).fetchone()
        return row and row[0]

    def _set(self, name: str, value: str) -> None:
        self._db.execute("insert or replace into meta values (?, ?)", (name, value))


def _record(cells: Mapping[str, object]) -> dict[str, object]:
    """A row's cells that hold something, less what is ours to say: by which delivery it came."""
    return {
        name: value
        for name, value in cells.items()
        if value is not None and value != "" and str(name).strip().casefold() not in DELIVERY_COLUMNS
    }


def _says_restated(record: bytes) -> bool:
    return "x_Restated" in json.loads(zlib.decompress(record))


def _packed(record: Mapping[str, object]) -> bytes:
    return zlib.compress(json.dumps(record, default=_plain, separators=(",", ":")).encode(), 1)


def _plain(value: object) -> object:
    """What JSON has no form for, as FOCUS writes it."""
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, Decimal):
        return str(value)
    return str(value)

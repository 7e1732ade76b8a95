"""The bill of a bounded run: what is current of it, where it lies."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NamedTuple

from jobs.errors import JobError
from udfs.pure import bills
from udfs.pure.deliveries import told
from udfs.pure.focus import STREAM, UnreadableBill
from udfs.pure.reject import Code, reject

# Of an input directory, where ``billing.from`` names no other place.
FOLDER = "billing"


class Bill(NamedTuple):
    """What there is of a bill.

    Attributes:
        deliveries: those that are current, each as ``bills.delivery_text``.
        rejects: of files that are none of a bill's, as JSON of reject.reject.
    """

    deliveries: list[str]
    rejects: list[str]


def find(where: Path | str, cost_column: str, name: str = "anomaly_cost") -> Bill:
    """The bill at a place. Says on stderr what isn't read.

    where: a folder, which need not be there, or a URL. name: of the command, before each line.

    Raises:
        JobError: the place, or a file, can't be read; or a provider is writing the only delivery of a scope, which
            would be read in part as it was and in part as it will be.
    """
    if isinstance(where, Path) and not where.is_dir():
        return Bill([], [])
    try:
        place = bills.place(str(where))
        deliveries, skipped = place.deliveries(is_live=place.is_store)
        for line in told(skipped):
            print(f"{name}: {place.name(line)}", file=sys.stderr, flush=True)
        for each in skipped:
            if each.is_all:
                raise JobError(f"{place.name(each.path)}: {each.reason}; run again once it is written")
        for delivery in deliveries:
            place.check(delivery, cost_column)
    except (bills.NoSuchPlace, UnreadableBill) as error:
        raise JobError(str(error)) from error
    return Bill(
        [bills.delivery_text(place, delivery) for delivery in deliveries],
        [
            reject(STREAM, each.reason, _within(where, place, each.path), code=Code.FILE_SKIPPED)
            for each in skipped
            if each.is_none
        ],
    )


def _within(where: Path | str, place: bills.Place, path: str) -> bytes:
    """What a reject calls a file: its path within the input, else its address."""
    return os.fsencode(f"{where.name}/{path}" if isinstance(where, Path) else place.name(path))

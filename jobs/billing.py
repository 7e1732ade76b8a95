"""The bill of a bounded run: what is current of it, where it lies."""

from __future__ import annotations

import sys
from pathlib import Path

from jobs.errors import JobError
from udfs.pure import bills
from udfs.pure.deliveries import told
from udfs.pure.focus import UnreadableBill

# Of an input directory, where ``billing.from`` names no other place.
FOLDER = "billing"


def find(where: Path | str, cost_column: str) -> list[str]:
    """The deliveries that are current, each as ``bills.delivery_text``. Says on stderr what isn't read.

    where: a folder, which need not be there, or a URL.

    Raises:
        JobError: the place, or a file, can't be read.
    """
    if isinstance(where, Path) and not where.is_dir():
        return []
    try:
        place = bills.place(str(where))
        deliveries, skipped = place.deliveries()
        for line in told(skipped):
            print(f"anomaly_cost: {place.name(line)}", file=sys.stderr, flush=True)
        for delivery in deliveries:
            place.check(delivery, cost_column)
    except (bills.NoSuchPlace, UnreadableBill) as error:
        raise JobError(str(error)) from error
    return [bills.delivery_text(place, delivery) for delivery in deliveries]

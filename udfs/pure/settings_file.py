"""Files that a setting names: CSV with a header."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterator
from pathlib import Path


def lines(path: Path, columns: Collection[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """("FILE line N", cells without blanks around them) of a CSV file that has these columns.

    Raises:
        ValueError: it has not, or can't be read; one line of text.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = csv.DictReader(stream)
            missing = [name for name in columns if name not in (rows.fieldnames or ())]
            if missing:
                raise ValueError(f"{path}: has no column {', '.join(missing)}")
            for row in rows:
                cells = {name: (cell or "").strip() for name, cell in row.items() if name}
                yield f"{path} line {rows.line_num}", cells
    except (OSError, UnicodeError, csv.Error) as error:
        raise ValueError(f"{path}: can't be read ({error})") from None

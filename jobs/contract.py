"""Copies of what stands once: the SQL client's tables, the tables of docs/interface.md, kinds of shared cost in SQL.

    python -m jobs.contract

writes them anew from udfs/pure/contract.py, udfs/pure/dimensions.py and udfs/pure/resources.py, after one has changed.
Tests compare them.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from jobs.resources import ROOT
from udfs.pure.contract import TABLES, Table
from udfs.pure.dimensions import CUMULATIVE, DIMENSIONS
from udfs.pure.resources import UNMEASURED

CLIENT = ROOT / "sql/client/init.sql"
UNALLOCATED = ROOT / "sql/queries/unallocated_cost.sql"
INTERFACE = ROOT / "docs/interface.md"

_KINDS = {True: "counter", False: "gauge"}


def client_columns(table: Table) -> str:
    """Columns and key of a table in the SQL client, as between the brackets of its ``create table``."""
    lines = [
        f"    `{column.name}` {column.type.engine}{' not null' if column.name in table.key else ''}"
        for column in table.columns
    ]
    key = ", ".join(f"`{name}`" for name in table.key)
    return ",\n".join([*lines, f"    primary key ({key}) not enforced"])


def client(script: str) -> str:
    """``script`` with the columns of its tables as the contract has them."""
    for name, table in TABLES.items():
        pattern = re.compile(rf"(create table {name} \(\n).*?(\n\) with)", re.DOTALL)
        columns = client_columns(table)
        script, found = pattern.subn(rf"\g<1>{columns}\g<2>", script)
        if found != 1:
            raise ValueError(f"{CLIENT.name}: {found} tables {name}, must be 1")
    return kinds(script)


def kinds(script: str) -> str:
    """``script`` with the kinds of cost that no metric measures, by the form of the id."""
    cases = "".join(
        "            when usage is null and ("
        + "\n                or ".join(f"resource_id like '{pattern}'" for pattern in patterns)
        + f") then '{kind}'\n"
        for kind, patterns in UNMEASURED.items()
    )
    pattern = re.compile(r"(then 'no resource'\n).*?( +when usage is null then 'unmetered'\n)", re.DOTALL)
    script, found = pattern.subn(rf"\g<1>{cases}\g<2>", script)
    if found != 1:
        raise ValueError(f"{found} lists of what no metric measures, must be 1")
    return script


def interface(page: str) -> str:
    """``page`` with its generated parts anew."""
    for part, lines in (("dimensions", _dimensions), ("tables", _tables)):
        begin, end = f"<!-- {part}: written by python -m jobs.contract -->\n", f"<!-- end of {part} -->"
        head, has_begin, rest = page.partition(begin)
        _, has_end, tail = rest.partition(end)
        if not (has_begin and has_end):
            raise ValueError(f"{INTERFACE.name}: no part {begin.strip()} ... {end}")
        page = "".join((head, begin, "\n".join(lines()), "\n", end, tail))
    return page


def _dimensions() -> Iterator[str]:
    yield "| dimension | usage | metric, in order of preference | kind | units |"
    yield "|---|---|---|---|---|"
    for dimension in DIMENSIONS.values():
        for metric in dimension.metrics:
            units = ", ".join(f"`{unit}`" if unit else "none" for unit in metric.units)
            kind = _KINDS[metric.kind == CUMULATIVE]
            yield f"| {dimension.name} | {dimension.usage} | `{metric.name}` | {kind} | {units} |"


def _tables() -> Iterator[str]:
    for name, table in TABLES.items():
        yield f"### `{name}`\n"
        yield f"{table.comment} A row is {table.grain}.\n"
        yield "| column | type | meaning |"
        yield "|---|---|---|"
        for column in table.columns:
            shown = f"**{column.name}**" if column.name in table.key else column.name
            yield f"| {shown} | `{column.type.engine}` | {_markdown(column.comment)} |"
        yield ""


def _markdown(text: str) -> str:
    """``text`` in a cell of a table: reserved names as code, since two underlines would make them bold."""
    return re.sub(r"__\w+__", r"`\g<0>`", text).replace("|", "\\|")


RENDERED: dict[Path, Callable[[str], str]] = {CLIENT: client, UNALLOCATED: kinds, INTERFACE: interface}


def main() -> int:
    """Exit status: 0."""
    for path, render in RENDERED.items():
        before = path.read_text(encoding="utf-8")
        after = render(before)
        if after != before:
            path.write_text(after, encoding="utf-8")
            print(f"written: {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What people write for the programs beside the job, in TOML."""

from __future__ import annotations

import tomllib
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from jobs.errors import UsageError
from udfs.pure.cost_center import CostCenters


def read(path: Path, option: str) -> dict[str, Any]:
    """A file's content.

    Raises:
        UsageError: it can't be read; the option that names it and the file are told.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{option} {path}: {(error.strerror or str(error)).lower()}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{option} {path}: {error}") from None


def globs(value: object, where: str) -> tuple[str, ...]:
    """Patterns of names.

    Raises:
        UsageError: it is no list of texts, or empty; ``where`` it stands is told.
    """
    if not isinstance(value, list) or not value or not all(isinstance(glob, str) for glob in value):
        raise UsageError(f"{where}: must be a list of names, with * for any text")
    return tuple(value)


def cost_centers(path: Path, option: str) -> CostCenters:
    """The table [cost_centers] of a file: cost centre = globs of services. What else it holds is for others.

    Raises:
        UsageError: it can't be read, or has no such table.
    """
    table = read(path, option).get("cost_centers")
    if not isinstance(table, dict) or not table:
        raise UsageError(f'{option} {path}: must hold [cost_centers], with lines as 4711 = ["shop/*"]')
    where = f"{option} {path}: cost_centers"
    return CostCenters(tuple((center, globs(value, f"{where}.{center}")) for center, value in table.items()))


def amount(value: object, where: str, at_least: int | None = None) -> Decimal:
    """An amount of money, as text or a whole number: a float is not exactly what was written.

    Raises:
        UsageError: it is none; ``where`` it stands is told.
    """
    try:
        if not isinstance(value, (str, int)) or isinstance(value, bool):
            raise InvalidOperation
        found = Decimal(value)
        if not found.is_finite() or (at_least is not None and found < at_least):
            raise InvalidOperation
    except InvalidOperation:
        raise UsageError(f'{where}: {value!r} is no amount, as "12.50"') from None
    return found

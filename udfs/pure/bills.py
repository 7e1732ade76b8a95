"""Bills where they lie: a folder, or a prefix of an object store, and the rows of what is current there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, TYPE_CHECKING

import orjson

from udfs.pure.deliveries import Delivery, Object, Skipped, current, is_manifest
from udfs.pure.focus import collect_rows, read_charges
from udfs.pure.focus_metadata import Completeness
from udfs.pure.rates import Exchange

if TYPE_CHECKING:
    import pyarrow.fs

# As pyarrow knows them. Who may read says the environment, as for the providers' own tools.
SCHEMES = ("s3", "gs", "gcs", "abfs", "abfss", "file")

_SCHEME = re.compile(r"([a-z0-9]+)://")

_NANOSECONDS = 1_000_000


class NoSuchPlace(ValueError):
    """A place that can't be listed; the message is one line that names it."""


@dataclass(frozen=True)
class Place:
    """A folder or prefix.

    Attributes:
        address: as it was given; a folder as an absolute path.
        url: the same without what a query says, for messages.
        filesystem, root: of pyarrow.
    """

    address: str
    url: str
    filesystem: pyarrow.fs.FileSystem
    root: str

    @property
    def is_store(self) -> bool:
        """Whether times of a listing are those of the provider's writing: a folder holds copies."""
        return self.address != self.root

    def name(self, path: str) -> str:
        """What a file is called in messages."""
        return f"{self.url}/{path}"

    def listing(self) -> list[Object]:
        """All files below.

        Raises:
            NoSuchPlace: there is no such place, or it may not be read.
        """
        import pyarrow.fs

        try:
            found = self.filesystem.get_file_info(pyarrow.fs.FileSelector(self.root, recursive=True))
        except OSError as error:
            raise NoSuchPlace(f"{self.url}: can't be listed: {_line(error)}") from None
        start = len(self.root.rstrip("/")) + 1
        return [
            Object(entry.path[start:], entry.size, (entry.mtime_ns or 0) // _NANOSECONDS)
            for entry in found
            if entry.type == pyarrow.fs.FileType.File
        ]

    def open(self, path: str) -> IO[bytes]:
        """A file, to be read."""
        return self.filesystem.open_input_file(f"{self.root.rstrip('/')}/{path}")

    def deliveries(self, is_live: bool = False) -> tuple[list[Delivery], list[Skipped]]:
        """What is current, see ``deliveries.current``.

        Raises:
            NoSuchPlace: it can't be listed, or a manifest can't be read.
        """
        listing = self.listing()
        manifests = {}
        for path, *_ in listing:
            if is_manifest(path):
                try:
                    with self.open(path) as file:
                        manifests[path] = file.read()
                except FileNotFoundError:
                    continue  # written anew just now
                except OSError as error:
                    raise NoSuchPlace(f"{self.name(path)}: can't be read: {_line(error)}") from None
        return current(listing, manifests, is_live)

    def rows(self, delivery: Delivery, cost_column: str) -> Iterator[dict[str, object]]:
        """The rows of its files as they are written, see ``focus.read_charges``."""
        for path in delivery.files:
            yield from read_charges(self.name(path), cost_column, lambda path=path: self.open(path))  # type: ignore[misc]

    def collect(
        self, delivery: Delivery, cost_column: str, exchange: Exchange | None = None
    ) -> Iterator[tuple[dict[str, object], int, dict | str]]:
        """The charges and rejects of a delivery, see ``focus.collect_rows``."""
        rows = self.rows(delivery, cost_column)
        return collect_rows(
            delivery.completeness.marked(rows) if delivery.completeness else rows,
            delivery.files[0] if delivery.files else "",
            delivery.time_ms if delivery.is_snapshot else None,
            cost_column,
            exchange,
        )

    def check(self, delivery: Delivery, cost_column: str) -> None:
        """Read the first row of each file.

        Raises:
            UnreadableBill: one can't be read.
        """
        for path in delivery.files:
            next(read_charges(self.name(path), cost_column, lambda path=path: self.open(path)), None)  # type: ignore[misc]


@lru_cache
def place(url: str) -> Place:
    """The place that a URL or path names. A query says more, as ``?endpoint_override=...&scheme=http&region=...``.

    Raises:
        NoSuchPlace: the URL is of no kind that is known.
    """
    import pyarrow.fs

    scheme = _SCHEME.match(url)
    if not scheme or scheme[1] == "file":
        folder = str(Path(url.removeprefix("file://")).resolve())
        return Place(folder, folder, pyarrow.fs.LocalFileSystem(), folder)
    if scheme[1] not in SCHEMES:
        raise NoSuchPlace(f"{url}: {scheme[1]}:// is not known, give a folder or {', '.join(SCHEMES)}://")
    try:
        filesystem, root = pyarrow.fs.FileSystem.from_uri(url)
    except (OSError, ValueError, NotImplementedError) as error:
        raise NoSuchPlace(f"{url.partition('?')[0]}: {_line(error)}") from None
    return Place(url, url.partition("?")[0].rstrip("/"), filesystem, root)


def delivery_text(where: Place, delivery: Delivery) -> str:
    """A delivery and where it lies, for a worker to read it."""
    return orjson.dumps([where.address, delivery]).decode()


def collect(
    text: str, cost_column: str, exchange: Exchange | None = None
) -> Iterator[tuple[dict[str, object], int, dict | str]]:
    """What ``Place.collect`` gives of a ``delivery_text``."""
    address, delivery = orjson.loads(text)
    said = Completeness.read(delivery["completeness"])
    delivery = Delivery(**delivery | {"files": tuple(delivery["files"]), "completeness": said})
    return place(address).collect(delivery, cost_column, exchange)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())

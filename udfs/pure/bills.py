"""Bills where they lie: a folder, or a prefix of an object store, and the rows of what is current there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol
from urllib.parse import unquote

import orjson

from udfs.pure.blobs import Blobs
from udfs.pure.deliveries import Delivery, Object, Skipped, current, is_manifest
from udfs.pure.focus import collect_rows, read_charges
from udfs.pure.focus_metadata import Completeness
from udfs.pure.rates import Exchange

if TYPE_CHECKING:
    import pyarrow.fs

# Who may read says the environment, as for the providers' own tools.
_GOOGLE, _AZURE = ("gs", "gcs"), ("abfs", "abfss")
SCHEMES = ("s3", *_GOOGLE, *_AZURE, "file")

_SCHEME = re.compile(r"([a-z0-9]+)://")

# Google's client tries for a quarter of an hour, if it isn't told.
_GOOGLE_RETRY = "retry_limit_seconds"
_GOOGLE_RETRY_S = 20
# What it says of an error, beside the error.
_GOOGLE_SAYS = re.compile(
    r"google::cloud::Status\((?P<code>\w+): (?:.* last message of )?(?P<text>.*?)(?: error_info=.*|\)$)"
)

_NANOSECONDS = 1_000_000


class NoSuchPlace(ValueError):
    """A place that can't be listed; the message is one line that names it."""


class Store(Protocol):
    """Files below a folder or prefix. Errors are of the kind OSError."""

    def files(self) -> list[Object]:
        """All of them, at any depth; paths from there."""

    def open(self, path: str) -> IO[bytes]:
        """One of them, to be read."""


class _Arrow:
    """What pyarrow reads: folders, S3 and Google Cloud Storage."""

    def __init__(self, filesystem: pyarrow.fs.FileSystem, root: str) -> None:
        self._filesystem, self._root = filesystem, root.rstrip("/")

    def files(self) -> list[Object]:
        import pyarrow.fs

        return [
            Object(entry.path[len(self._root) + 1 :], entry.size, (entry.mtime_ns or 0) // _NANOSECONDS)
            for entry in self._filesystem.get_file_info(pyarrow.fs.FileSelector(self._root, recursive=True))
            if entry.type == pyarrow.fs.FileType.File
        ]

    def open(self, path: str) -> IO[bytes]:
        return self._filesystem.open_input_file(f"{self._root}/{path}")


@dataclass(frozen=True)
class Place:
    """A folder or prefix.

    Attributes:
        address: as it was given; a folder as an absolute path.
        url: the same without what a query says, for messages.
        store: what reads it.
        is_store: whether times of a listing are those of the provider's writing: a folder holds copies.
    """

    address: str
    url: str
    store: Store
    is_store: bool

    def name(self, path: str) -> str:
        """What a file is called in messages."""
        return f"{self.url}/{path}"

    def listing(self) -> list[Object]:
        """All files below.

        Raises:
            NoSuchPlace: there is no such place, or it may not be read.
        """
        try:
            return self.store.files()
        # pyarrow says of a login that it can't use that it is a wrong value.
        except (OSError, ValueError) as error:
            raise NoSuchPlace(f"{self.url}: can't be listed: {_line(error)}") from None

    def open(self, path: str) -> IO[bytes]:
        """A file, to be read."""
        return self.store.open(path)

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
                except (OSError, ValueError) as error:
                    raise NoSuchPlace(f"{self.name(path)}: can't be read: {_line(error)}") from None
        return current(listing, manifests, is_live)

    def rows(self, delivery: Delivery, cost_column: str) -> Iterator[dict[str, object]]:
        """The rows of its files as they are written, see ``focus.read_charges``."""
        for path in delivery.files:
            yield from self._read(path, cost_column)

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
            next(self._read(path, cost_column), None)

    def _read(self, path: str, cost_column: str) -> Iterator[dict[str, object]]:
        return read_charges(self.name(path), cost_column, partial(self.open, path))


@lru_cache
def place(url: str) -> Place:
    """The place that a URL or path names.

    A query says more: ``?endpoint_override=HOST:PORT&scheme=http`` is another server, of S3, of Google Cloud Storage
    (``gs://anonymous@BUCKET`` without a login) or of Azure; ``region`` is of S3.

    Raises:
        NoSuchPlace: the URL is of no kind that is known.
    """
    import pyarrow.fs

    scheme = _SCHEME.match(url)
    if not scheme or scheme[1] == "file":
        folder = str(Path(unquote(url.removeprefix("file://")) if scheme else url).resolve())
        return Place(folder, folder, _Arrow(pyarrow.fs.LocalFileSystem(), folder), False)
    if scheme[1] not in SCHEMES:
        raise NoSuchPlace(f"{url}: {scheme[1]}:// is not known, give a folder or {', '.join(SCHEMES)}://")
    named = url.partition("?")[0].rstrip("/")
    try:
        store = Blobs(url) if scheme[1] in _AZURE else _Arrow(*pyarrow.fs.FileSystem.from_uri(_patient(url, scheme[1])))
    except (OSError, ValueError, NotImplementedError) as error:
        raise NoSuchPlace(f"{named}: {_line(error)}") from None
    return Place(url, named, store, True)


def _patient(url: str, scheme: str) -> str:
    """As a client takes it: blanks as a URL has them, and with how long Google's tries."""
    url = url.replace(" ", "%20")
    if scheme not in _GOOGLE or _GOOGLE_RETRY in url:
        return url
    return f"{url}{'&' if '?' in url else '?'}{_GOOGLE_RETRY}={_GOOGLE_RETRY_S}"


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
    text = " ".join(str(error).split())
    google = _GOOGLE_SAYS.search(text)
    return f"{google['text']} ({google['code']})" if google else text

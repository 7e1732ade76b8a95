"""The telemetry files of a directory: which the engine reads, and what the user is told of the others.

The engine takes every file of the folder that it is given, and fails of the first that it can't read. So it is given
a folder of the run's own: links to the files that can be read, and what could be read of those that can't. A file is
told by its first bytes, not by its name: a name may lie about compression.

Every .gz is read once before the engine starts: 375 MB/s a core, of what a core works off at 35 MB/s later.
"""

from __future__ import annotations

import gzip
import os
import sys
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import BinaryIO

import orjson

from jobs.kafka import FEEDBACK, TOPICS
from udfs.pure.otlp import MAX_REQUEST_BYTES
from udfs.pure.reject import Code, reject

# Folder of each stream -> its topic, by whose name rejects are told.
FOLDERS = dict(zip(("traces", "metrics", "logs", "feedback"), (*TOPICS[:3], FEEDBACK), strict=True))
ENDINGS = (".json", ".jsonl", ".json.gz", ".jsonl.gz")

# Names of what is being written still, or of a folder's own.
_HIDDEN = (".", "_")
_GZIP = b"\x1f\x8b"
# What looks like text to nobody: name of the format by its first bytes.
_FORMATS = {
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"PK\x03\x04": "zip",
    b"PAR1": "Parquet",
}
# First line of a document as everybody prints one.
_OPENINGS = (b"{", b"[")
_BOM = b"\xef\xbb\xbf"
# A file that is one JSON document is read whole, and no longer one than this.
_DOCUMENT_MAX_BYTES = 4 * MAX_REQUEST_BYTES
_PIECE_BYTES = 1 << 16
# So many files are named on stderr; rejected_records has all.
_NAMED = 20


class _Unreadable(Exception):
    """Why a file can't be read."""


class _Broken(Exception):
    """Why no more than the beginning of a .gz can be read."""


@dataclass
class Files:
    """What there is to read.

    Attributes:
        links: stream -> number of files that the engine gets.
        rejects: of files that were skipped or are broken, as JSON of reject.reject.
    """

    links: dict[str, int] = field(default_factory=lambda: dict.fromkeys(FOLDERS, 0))
    rejects: list[str] = field(default_factory=list)

    @property
    def usable(self) -> int:
        """Files that count as input, those that are broken among them."""
        return sum(self.links.values()) + sum(orjson.loads(text)["code"] == Code.FILE_BROKEN for text in self.rejects)


def found(root: Path, stream: str) -> list[Path]:
    """The files of ``root/stream``, at any depth, ordered by path, and the folders there that can't be listed; hidden
    ones are left out."""
    paths: list[Path] = []
    seen = set()

    def unlisted(error: OSError) -> None:
        if os.path.lexists(error.filename):
            paths.append(Path(error.filename))

    for folder, folders, names in os.walk(root / stream, onerror=unlisted, followlinks=True):
        # A link may lead back to where it stands.
        if os.path.realpath(folder) in seen:
            folders.clear()
            continue
        seen.add(os.path.realpath(folder))
        folders[:] = [name for name in folders if not name.startswith(_HIDDEN)]
        paths += [Path(folder, name) for name in names if not name.startswith(_HIDDEN)]
    return sorted(paths)


def link(root: Path, folder: Path) -> Files:
    """Fill ``folder/<stream>`` with what the engine is to read of ``root``; tells on stderr what it is not."""
    files = Files()
    told: list[str] = []
    for stream, topic in FOLDERS.items():
        (folder / stream).mkdir(parents=True, exist_ok=True)
        paths = found(root, stream)
        targets = (folder / stream / f"{number:06d}.jsonl" for number in count(1))
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
            looks = threads.map(_link, paths, targets)
            for path, (is_read, code, reason) in zip(paths, looks, strict=True):
                files.links[stream] += is_read
                if code:
                    name = os.fsencode(path.relative_to(root))
                    files.rejects.append(reject(topic, reason, name, code=code))
                    told.append(f"{path}: {reason}")
    for line in told[:_NAMED]:
        print(f"anomaly_cost: {line}", file=sys.stderr)
    if told:
        print(f"anomaly_cost: {len(told)} files were skipped or are broken, see rejected_records", file=sys.stderr)
    return files


def lines(path: Path) -> Iterator[bytes]:
    """The requests of a file, as far as it can be read; one of another ending has none."""
    if not path.name.endswith(ENDINGS):
        return
    with suppress(_Unreadable, OSError, EOFError, zlib.error):
        document = _document(path)
        if document is not None:
            yield from document.splitlines()
            return
        with _opened(path) as stream:
            yield from stream


def requests(root: Path, stream: str) -> Iterator[bytes]:
    """The requests of a stream, of all its files as far as they can be read."""
    for path in found(root, stream):
        yield from lines(path)


def _link(path: Path, target: Path) -> tuple[bool, Code | None, str]:
    """Put what can be read of ``path`` at ``target``, under the ending that fits: (whether anything is there, why not
    all of it is)."""
    if path.is_dir():
        return False, Code.FILE_BROKEN, "a folder that cannot be listed"
    if not path.name.endswith(ENDINGS):
        return False, Code.FILE_SKIPPED, f"skipped, its name must end in {', '.join(ENDINGS)}"
    try:
        is_gzip = _is_whole_gzip(path)
        document = _document(path)
    except _Broken as error:
        requests = _write_whole_lines(path, target)
        return requests > 0, Code.FILE_BROKEN, f"broken ({error}), its first {requests} requests are read"
    except (_Unreadable, OSError) as error:
        why = (isinstance(error, OSError) and error.strerror) or error
        return False, Code.FILE_BROKEN, f"cannot be read ({why})"
    if document is None:
        (target.with_suffix(".jsonl.gz") if is_gzip else target).symlink_to(path.resolve())
    else:
        target.write_bytes(document)
    return True, None, ""


# ---- compression ----------------------------------------------------------------------------


def _is_whole_gzip(path: Path) -> bool:
    """False for what isn't compressed. Raises _Broken for what ends too soon or is damaged."""
    if not path.is_file():
        raise _Unreadable("not a file" if path.exists() else "a link to nothing")
    with path.open("rb") as stream:
        start = stream.read(len(_GZIP))
        if not start and path.suffix == ".gz":
            raise _Unreadable("of no bytes")
        stream.seek(0)
        if start == _GZIP:
            for _ in _inflated(stream, _PIECE_BYTES):
                pass
    return start == _GZIP


def _inflated(stream: BinaryIO, piece_bytes: int) -> Iterator[bytes]:
    """What is in a .gz of any number of members. Raises _Broken where it breaks, after all that came before."""
    inflate = zlib.decompressobj(wbits=31)
    is_open = False
    for piece in iter(partial(stream.read, piece_bytes), b""):
        while piece:
            if not is_open:
                # Tapes and some writers fill up with zeros.
                piece = piece.lstrip(b"\0")
                if not piece:
                    break
                inflate, is_open = zlib.decompressobj(wbits=31), True
            try:
                yield inflate.decompress(piece)
            except zlib.error as error:
                raise _Broken(str(error)) from None
            is_open = not inflate.eof
            piece = inflate.unused_data
    if is_open:
        yield inflate.flush()
        raise _Broken("cut short")


def _write_whole_lines(path: Path, target: Path) -> int:
    """Write the lines of a broken .gz that are whole to ``target``, which is left out where none is a request; how many
    requests."""
    requests = 0
    parts: list[bytes] = []
    with path.open("rb") as stream, target.open("wb") as out:
        with suppress(_Broken):
            # In small pieces: what is in the same piece as the damage is lost.
            for part in _inflated(stream, 256):
                parts.append(part)
                if b"\n" in part:
                    *whole, tail = b"".join(parts).split(b"\n")
                    parts = [tail]
                    out.writelines(line + b"\n" for line in whole)
                    requests += sum(map(_is_object, whole))
        # The last line of a file needs no end.
        tail = b"".join(parts)
        if _is_object(tail):
            out.write(tail)
            requests += 1
    if not requests:
        target.unlink()
    return requests


# ---- JSON -----------------------------------------------------------------------------------


def _opened(path: Path) -> BinaryIO:
    stream = path.open("rb")
    start = stream.read(len(_GZIP))
    stream.seek(0)
    return gzip.GzipFile(fileobj=stream) if start == _GZIP else stream  # type: ignore[return-value]


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(orjson.loads(line.removeprefix(_BOM)), dict)
    except orjson.JSONDecodeError:
        return False


def _document(path: Path) -> bytes | None:
    """The requests, one a line, of a file that is one JSON document over many lines: an object, or an array of them.
    None: it has a request a line already, or lines that are rejected one by one.

    Raises _Unreadable where it is neither.
    """
    with _opened(path) as stream:
        first = stream.readline(MAX_REQUEST_BYTES)
        for mark, name in _FORMATS.items():
            if first.startswith(mark):
                raise _Unreadable(f"{name}, not JSON: unpack it first")
        opening = first.removeprefix(_BOM).strip()
        # Most files: told by the first line alone.
        if not opening.startswith(_OPENINGS) or len(first) == MAX_REQUEST_BYTES or _is_object(opening):
            return None
        text = first + stream.read(_DOCUMENT_MAX_BYTES)
    try:
        decoded = orjson.loads(text.removeprefix(_BOM))
    except orjson.JSONDecodeError as error:
        # A line that is broken is a record's affair, as in any other file.
        if opening not in _OPENINGS or any(map(_is_object, text.splitlines())):
            return None
        if len(text) >= _DOCUMENT_MAX_BYTES:
            raise _Unreadable(f"one JSON document of more than {_DOCUMENT_MAX_BYTES >> 20} MiB") from None
        raise _Unreadable(f"neither a request a line nor one JSON document: {error}") from None
    return b"".join(orjson.dumps(one) + b"\n" for one in (decoded if isinstance(decoded, list) else [decoded]))

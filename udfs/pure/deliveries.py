"""Which files of a bill are current: a delivery takes the place of all earlier ones of its scope, or adds to them.

Sources, as of 2026-11:
- FOCUS 1.4, Delivery Handling: under Overwrite each delivery is a complete snapshot of its scope, and records that it
  leaves out are removed; under Append it adds to those before it. Which of them, ``focus_metadata`` says.
- AWS, "Understanding export delivery" (cur/latest/userguide/dataexports-export-delivery):
  ``EXPORT/data/BILLING_PERIOD=YYYY-MM/[EXECUTION/]NAME-00001.snappy.parquet`` and
  ``EXPORT/metadata/BILLING_PERIOD=YYYY-MM/[EXECUTION/]NAME-Manifest.json``, which comes last and lists the files.
- Microsoft, "Create and manage Cost Management exports" (costs/tutorial-improved-exports):
  ``PATH/EXPORT/YYYYMMDD-YYYYMMDD/[YYYYMMDDHHMM/]GUID/part_0_0001.csv.gz`` with ``manifest.json`` beside it. Exports of
  the older kind have ``.../YYYYMMDD-YYYYMMDD/NAME_GUID.csv``, of which the newest counts, and no manifest.
- Google, "Export table data to Cloud Storage" (bigquery/docs/exporting-data): ``PREFIX000000000000.csv.gz`` and so on.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, NamedTuple

import orjson

from udfs.pure.focus_metadata import Completeness, Metadata, is_billing_periods, is_metadata

ENDINGS = (".csv", ".csv.gz", ".parquet")

# What writers write beside a bill, or have not finished.
_HIDDEN = (".", "_")
_MANIFEST = re.compile(r"(?:^|/)(?:manifest\.json|[^/]*-Manifest\.json)$")

_AWS = re.compile(
    r"(?P<root>(?:.*/)?)(?P<kind>data|metadata)/(?P<period>BILLING_PERIOD=\d{4}-\d{2})/"
    r"(?:(?P<execution>[^/]+)/)?(?P<name>[^/]+)"
)
_AZURE_RANGE = re.compile(r"(?P<above>(?:.*/)?)(?P<range>20\d{6}-20\d{6})/(?P<below>.*)")
_GUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_AZURE_EXPORT = "/providers/Microsoft.CostManagement/exports/"
_FOCUS_COST = "FocusCost"
_SHARD = re.compile(r"(?P<prefix>.*?)0{6}\d{6}(?:\.csv|\.csv\.gz|\.parquet)")

# A day and a time of day in a name: when a file was written. A day alone may as well say what the file is about.
_MOMENT = re.compile(r"(20\d\d)-?([01]\d)-?([0-3]\d)[T_-]?([0-2]\d)[:-]?([0-5]\d)(?:[:-]?([0-5]\d))?(?:\.\d+)?Z?")

# The last month of a scope, as AWS and Azure name it.
_SCOPE_MONTH = re.compile(r"(?:BILLING_PERIOD=|[ /]20\d{6}-)(20\d\d)-?(0[1-9]|1[0-2])(?:\d\d)?$")

# BigQuery writes the files of one extraction side by side, and deletes none of an earlier one. What is older than the
# newest by more than this is left over.
EXTRACTION_MS = 3_600_000


class Object(NamedTuple):
    """An entry of a listing. path: below the place that was listed, by ``/``; size in bytes; time_ms: last written."""

    path: str
    size: int
    time_ms: int


class Skipped(NamedTuple):
    """A file that is not read, and why.

    Attributes:
        is_none: whether it is no file of a bill, as it stands: nothing that comes later makes one of it.
        is_all: whether it is the manifest of a delivery that is being written, and no other delivery of its scope is
            there.
    """

    path: str
    reason: str
    is_none: bool = False
    is_all: bool = False


@dataclass(frozen=True)
class Delivery:
    """Files that together are what the bill says of a scope.

    Attributes:
        scope: what it is about, and takes the place of what was delivered before for; unique within a listing.
        files: in order; none where the provider says that nothing is charged any more.
        time_ms: when it was delivered.
        is_snapshot: it is all that the bill says of its scope. Else it is a file of which nothing is known, and its
            rows or its name tell which of two deliveries of a charge is the later one.
        signature: is another as soon as anything of it was written again, or anything else is said of it.
        completeness: what the provider says of its times.
    """

    scope: str
    files: tuple[str, ...]
    time_ms: int
    is_snapshot: bool
    signature: str
    completeness: Completeness = Completeness()


def is_bill(path: str) -> bool:
    """Whether a file holds rows of a bill, by its name."""
    return path.endswith(ENDINGS) and not _is_hidden(path)


def _is_hidden(path: str) -> bool:
    return any(part.startswith(_HIDDEN) for part in path.split("/"))


def _is_beside(path: str) -> bool:
    """Whether a file is one that exports leave beside a bill: metadata of FOCUS, statements for a warehouse."""
    return _is_hidden(path) or "metadata" in path.split("/")[:-1]


def is_manifest(path: str) -> bool:
    """Whether ``current`` needs the content of a file."""
    is_told = _MANIFEST.search(path) or is_metadata(path) or (is_bill(path) and is_billing_periods(path))
    return bool(is_told) and not _is_hidden(path)


def current(
    listing: Iterable[Object], manifests: Mapping[str, bytes], is_live: bool = False
) -> tuple[list[Delivery], list[Skipped]]:
    """The deliveries that stand, by scope, and the files that are not read; a function of the set of objects.

    manifests: path -> content, of all for which ``is_manifest``. is_live: the times of the listing are those of the
        provider's writing, so that a file that is newer than the manifest that lists it is one of a delivery on its
        way; a copy has times of its own.

    A delivery without its manifest, or without a file that its manifest lists, is not there yet: the one before it
    stands, where it still exists.
    """
    objects = {entry.path: entry for entry in sorted(listing)}
    bills = {path for path in objects if is_bill(path)}
    parsed: dict[str, dict[str, Any]] = {}
    skipped: list[Skipped] = []
    for path, text in manifests.items():
        if path in objects and _MANIFEST.search(path):
            content = _json(text)
            if content is None:
                skipped.append(Skipped(path, "not JSON, so the files of this manifest are not read", is_none=True))
            else:
                parsed[path] = content
    beside = {path: text for path, text in manifests.items() if path in objects and not _MANIFEST.search(path)}
    metadata = Metadata(beside, bills)
    taken: set[str] = set()
    found: list[Delivery] = []
    for layout in (_aws, _azure, _azure_old, _google, _plain):
        of_layout, claimed, not_read = layout(_Listing(objects, bills - taken, parsed, is_live, metadata))
        found += of_layout
        skipped += not_read
        taken |= claimed
    found = [_with_completeness(each, metadata) for each in found if not each.files or {*each.files} - metadata.tables]
    skipped = [each for each in skipped if each.path not in metadata.tables]
    skipped += [Skipped(path, reason) for path, reason in metadata.unread.items()]
    skipped += [
        Skipped(path, f"not a bill by its name ({', '.join(ENDINGS)})", is_none=True)
        for path in objects
        if not is_bill(path) and not is_manifest(path) and not _is_beside(path)
    ]
    return sorted(found, key=lambda delivery: delivery.scope), sorted(skipped)


def told(skipped: Iterable[Skipped], most: int = 3) -> Iterator[str]:
    """A line for each file that is not read, or for each reason, where it holds for more than ``most`` files."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for each in skipped:
        by_reason[each.reason].append(each.path)
    for reason, paths in sorted(by_reason.items()):
        if len(paths) <= most:
            yield from (f"{path}: skipped, {reason}" for path in paths)
        else:
            yield f"{paths[0]} and {len(paths) - 1} more: skipped, {reason}"


class _Listing(NamedTuple):
    """What a layout is given: all objects, the bills among them that are no other layout's, manifests by path, and of
    ``current`` what else says which files count."""

    objects: Mapping[str, Object]
    bills: set[str]
    manifests: Mapping[str, dict[str, Any]]
    is_live: bool
    metadata: Metadata


_Found = tuple[list[Delivery], set[str], list[Skipped]]
_SUPERSEDED = "a later delivery of its scope takes its place"


class _Candidate(NamedTuple):
    """A delivery by its manifest, or that there is none. Of two the later one is the greater."""

    time_ms: int
    manifest: str
    files: tuple[str, ...]


def _chosen(scope: str, candidates: Iterable[_Candidate], listing: _Listing) -> tuple[Delivery | None, list[Skipped]]:
    """The latest delivery of which all is there, or all of these where each adds to the others, and what is said of the
    rest."""
    objects = listing.objects
    whole: list[_Candidate] = []
    skipped: list[Skipped] = []
    is_written = False
    for candidate in sorted(candidates, reverse=True):
        if whole and not listing.metadata.is_append(whole[0].manifest):
            break
        missing = [path for path in candidate.files if path not in listing.bills]
        newer = [
            path
            for path in candidate.files
            if listing.is_live and path not in missing and objects[path].time_ms > objects[candidate.manifest].time_ms
        ]
        if not missing and not newer:
            whole.append(candidate)
            continue
        why = f"{missing[0]} is not there yet" if missing else f"{newer[0]} is newer: it is being written again"
        skipped.append(Skipped(candidate.manifest, f"its delivery is not complete: {why}"))
        is_written |= bool(newer)
    if not whole:
        return None, [each._replace(is_all=is_written) for each in skipped]
    files = tuple(dict.fromkeys(path for candidate in reversed(whole) for path in candidate.files))
    signed = *files, *(candidate.manifest for candidate in reversed(whole))
    return _delivery(scope, files, whole[0].time_ms, True, objects, signed), skipped


def _aws(listing: _Listing) -> _Found:
    """Data Exports: a scope is a billing period of an export."""
    scopes: dict[str, list[_Candidate]] = defaultdict(list)
    data: dict[str, list[tuple[str, str | None]]] = defaultdict(list)  # scope -> file and its execution
    for path in listing.bills:
        if (place := _AWS.fullmatch(path)) and place["kind"] == "data":
            data[place["root"] + place["period"]].append((path, place["execution"]))
    for path, content in listing.manifests.items():
        place = _AWS.fullmatch(path)
        if not place or place["kind"] != "metadata":
            continue
        scope = place["root"] + place["period"]
        listed = content.get("dataFiles", content.get("reportKeys"))
        if isinstance(listed, list):
            files = [_aws_file(place, _text_of(entry)) for entry in listed]
        else:
            files = [each for each, execution in data[scope] if execution == place["execution"]]
        executions = {of["execution"] for each in files if (of := _AWS.fullmatch(each))} or {place["execution"]}
        times = [moment for execution in executions if (moment := _moment(execution or "")) is not None]
        time_ms = max(times, default=listing.objects[path].time_ms)
        scopes[scope].append(_Candidate(time_ms, path, tuple(sorted(set(files)))))
    found: list[Delivery] = []
    claimed: set[str] = set()
    skipped: list[Skipped] = []
    for scope in sorted(scopes.keys() | data.keys()):
        of_scope = {path for path, _ in data[scope]}
        claimed |= of_scope
        delivery, why = _chosen(scope, scopes.get(scope, ()), listing)
        skipped += why
        if delivery:
            found.append(delivery)
            skipped += [Skipped(path, _SUPERSEDED) for path in of_scope - set(delivery.files)]
        elif scope not in scopes:
            root, _, period = scope.rpartition("BILLING_PERIOD=")
            wanted = f"{root}metadata/BILLING_PERIOD={period}/*-Manifest.json"
            skipped += [Skipped(path, f"its manifest {wanted} is not there (yet)") for path in of_scope]
    return found, claimed, skipped


def _aws_file(manifest: re.Match[str], uri: str) -> str:
    """Path of a listed file in this listing, which may be of a copy in another place."""
    place = _AWS.fullmatch(uri.partition("://")[2] or uri)
    if place and place["kind"] == "data":
        execution = f"{place['execution']}/" if place["execution"] else ""
        return f"{manifest['root']}data/{place['period']}/{execution}{place['name']}"
    execution = f"{manifest['execution']}/" if manifest["execution"] else ""
    return f"{manifest['root']}data/{manifest['period']}/{execution}{uri.rpartition('/')[2]}"


def _text_of(entry: object) -> str:
    """A file that a manifest lists, as text or as an object with its address."""
    if isinstance(entry, Mapping):
        entry = next((entry[name] for name in ("s3Uri", "key", "path") if name in entry), "")
    return str(entry)


def _azure(listing: _Listing) -> _Found:
    """Cost Management: a scope is the dates of all exports of one kind for one billing scope."""
    scopes: dict[str, list[_Candidate]] = defaultdict(list)
    claimed: set[str] = set()
    skipped: list[Skipped] = []
    for path, content in listing.manifests.items():
        blobs, run, config = content.get("blobs"), content.get("runInfo") or {}, content.get("exportConfig") or {}
        if not isinstance(blobs, list) or not (run or config):
            continue
        folder = path.rpartition("/")[0]
        folder = f"{folder}/" if folder else ""
        names = [str(blob.get("blobName", "")).rpartition("/")[2] for blob in blobs if isinstance(blob, Mapping)]
        kind = str(config.get("type") or _FOCUS_COST)
        if kind != _FOCUS_COST:
            ours = {each for each in listing.bills if each.startswith(folder)}
            claimed |= ours
            skipped += [Skipped(each, f"an export of {kind}, not of {_FOCUS_COST}") for each in ours]
            continue
        place = _AZURE_RANGE.fullmatch(path)
        dates = place["range"] if place else str(run.get("startDate"))[:7]
        # Without the billing scope an export is told by its name and where it lies.
        above = str(config.get("resourceId") or "").partition(_AZURE_EXPORT)[0]
        above = above or f"{place['above'] if place else folder}{config.get('exportName')}"
        submitted = _moment(str(run.get("submittedTime") or ""))
        if submitted is None and place:
            submitted = _moment(place["below"])
        time_ms = listing.objects[path].time_ms if submitted is None else submitted
        files = tuple(sorted({folder + name for name in names}))
        scopes[f"{above} {dates}"].append(_Candidate(time_ms, path, files))
    found = []
    runs = {path.rpartition("/")[0] for candidates in scopes.values() for _, path, _ in candidates}
    for path in listing.bills - claimed:
        folder = path.rpartition("/")[0]
        if folder in runs:
            claimed.add(path)
        elif (place := _AZURE_RANGE.fullmatch(path)) and "/" in place["below"]:
            if _GUID.fullmatch(folder.rpartition("/")[2]):
                claimed.add(path)
                skipped.append(Skipped(path, "its manifest.json is not there (yet)"))
    for scope, candidates in sorted(scopes.items()):
        delivery, why = _chosen(scope, candidates, listing)
        skipped += why
        if delivery:
            found.append(delivery)
            folders = {path.rpartition("/")[0] for _, path, _ in candidates}
            skipped += [
                Skipped(path, _SUPERSEDED)
                for path in claimed
                if path.rpartition("/")[0] in folders and path not in delivery.files
            ]
    return found, claimed, skipped


def _azure_old(listing: _Listing) -> _Found:
    """Exports without partitions: each run leaves one more file, named by a GUID, in the folder of its dates."""
    folders: dict[str, list[str]] = defaultdict(list)
    for path in listing.bills:
        place = _AZURE_RANGE.fullmatch(path)
        if place and "/" not in place["below"] and _GUID.search(place["below"]):
            folders[path.rpartition("/")[0]].append(path)
    found: list[Delivery] = []
    claimed: set[str] = set()
    skipped: list[Skipped] = []
    for folder, paths in sorted(folders.items()):
        claimed |= set(paths)
        in_order = sorted(paths, key=lambda path: (listing.objects[path].time_ms, path))
        files = tuple(in_order if listing.metadata.is_append(in_order[0]) else in_order[-1:])
        found.append(_delivery(folder, files, listing.objects[files[-1]].time_ms, True, listing.objects))
        skipped += [Skipped(path, _SUPERSEDED) for path in paths if path not in files]
    return found, claimed, skipped


def _google(listing: _Listing) -> _Found:
    """An extracted table: numbered files after one prefix. A time of day in the prefix tells extractions apart."""
    scopes: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for path in listing.bills:
        if shard := _SHARD.fullmatch(path):
            scopes[_MOMENT.sub("*", shard["prefix"])][shard["prefix"]].append(path)
    found: list[Delivery] = []
    claimed: set[str] = set()
    skipped: list[Skipped] = []
    for scope, extractions in sorted(scopes.items()):
        claimed |= {path for paths in extractions.values() for path in paths}
        newest = {prefix: max(listing.objects[path].time_ms for path in paths) for prefix, paths in extractions.items()}
        times = {prefix: newest[prefix] if (at := _moment(prefix)) is None else at for prefix in extractions}
        in_order = sorted(extractions, key=lambda prefix: (times[prefix], prefix))
        last = in_order[-1]
        if listing.metadata.is_append(extractions[last][0]):
            files = tuple(path for prefix in in_order for path in sorted(extractions[prefix]))
        else:
            since_ms = newest[last] - EXTRACTION_MS
            files = tuple(sorted(path for path in extractions[last] if listing.objects[path].time_ms >= since_ms))
        found.append(_delivery(scope, files, times[last], True, listing.objects))
        skipped += [Skipped(path, _SUPERSEDED) for paths in extractions.values() for path in paths if path not in files]
    return found, claimed, skipped


def _plain(listing: _Listing) -> _Found:
    """Files of which nothing is known: each by itself, or those of a folder together, where each adds to the others."""
    scopes: dict[str, list[str]] = defaultdict(list)
    for path in listing.bills:
        is_append = listing.metadata.is_append(path) and path not in listing.metadata.tables
        scopes[f"{path.rpartition('/')[0]}/*" if is_append else path].append(path)
    found = []
    for scope, paths in sorted(scopes.items()):
        files = tuple(sorted(paths, key=lambda path: (listing.objects[path].time_ms, path)))
        time_ms = listing.objects[files[-1]].time_ms
        found.append(_delivery(scope, files, time_ms, scope not in listing.bills, listing.objects))
    return found, listing.bills, []


def _delivery(
    scope: str,
    files: tuple[str, ...],
    time_ms: int,
    is_snapshot: bool,
    objects: Mapping[str, Object],
    signed: tuple[str, ...] | None = None,
) -> Delivery:
    of = orjson.dumps([list(objects[path]) for path in signed or files])
    return Delivery(scope, files, time_ms, is_snapshot, hashlib.blake2b(of, digest_size=16).hexdigest())


def _with_completeness(delivery: Delivery, metadata: Metadata) -> Delivery:
    """With what is said of its times. What is said of times after its billing period makes no other delivery of it."""
    said = metadata.completeness(delivery.files)
    signature = delivery.signature
    if its_own := said.before(_end_of(delivery.scope)):
        signature = hashlib.blake2b(orjson.dumps([signature, its_own]), digest_size=16).hexdigest()
    return replace(delivery, signature=signature, completeness=said)


def _end_of(scope: str) -> int | None:
    """When the billing period of a scope ends, by its name, in ms; None = it has none."""
    found = _SCOPE_MONTH.search(scope)
    if not found:
        return None
    year, month = int(found[1]), int(found[2])
    return int(datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC).timestamp()) * 1000


def _json(text: bytes) -> dict[str, Any] | None:
    try:
        content = orjson.loads(text.removeprefix(b"\xef\xbb\xbf"))
    except ValueError:
        return None
    return content if isinstance(content, dict) else None


def _moment(text: str) -> int | None:
    """The first day and time of day in a text, UTC, in ms; None where there is none."""
    for found in _MOMENT.finditer(text):
        try:
            at = datetime(*(int(part or 0) for part in found.groups()), tzinfo=UTC)  # type: ignore[misc, arg-type]
        except ValueError:
            continue
        return int(at.timestamp()) * 1000
    return None

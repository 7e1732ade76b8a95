"""The pure stages before detect, one after another, over an input directory: without the engine.

For training and for benchmarks; the job does the same in Flink.
"""

from __future__ import annotations

import gzip
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import NamedTuple

import orjson

from udfs.pure.assemble import assemble
from udfs.pure.meter import meter
from udfs.pure.otlp import SEPARATOR, collect_logs, collect_metrics, collect_spans

# Packed traces by minute, as assemble makes them.
Minutes = dict[int, list[bytes]]
# Minute -> (service, pod) -> dimension -> amount.
UsageByMinute = dict[int, dict[tuple[str, str], dict[str, float]]]


def read(directory: Path) -> tuple[Minutes, UsageByMinute]:
    """Collect, assemble and meter an input directory (docs/interface.md, section 1)."""
    fragments, owners = collect_traces(directory)
    return assemble_all(fragments), meter_all(directory, owners)


def lines(folder: Path) -> Iterator[bytes]:
    """Lines of all files of a stream."""
    for path in sorted(folder.glob("*.jsonl*")):
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield from file


def collect_traces(directory: Path) -> tuple[dict[str, list[bytes]], dict[str, set[str]]]:
    """Fragments by trace id, and the services that claim a pod."""
    fragments: dict[str, list[bytes]] = defaultdict(list)
    owners: dict[str, set[str]] = defaultdict(set)
    for line in lines(directory / "traces"):
        found, pods, _ = collect_spans(line)
        for trace_id, fragment in found.items():
            fragments[trace_id].append(fragment)
        for pod, claim in pods.items():
            owners[pod].add(orjson.loads(claim)[0])
    for line in lines(directory / "logs"):
        for trace_id, fragment in collect_logs(line)[0].items():
            fragments[trace_id].append(fragment)
    return fragments, owners


def assemble_all(fragments: MutableMapping[str, list[bytes]]) -> Minutes:
    """Packed traces by minute. fragments: emptied on the way, since both at once would take twice the memory."""
    minutes: Minutes = defaultdict(list)
    for trace_id in list(fragments):
        assembled = assemble(trace_id, fragments.pop(trace_id))
        if assembled:
            minutes[assembled[0]].append(assembled[1])
    return minutes


class Consumer(NamedTuple):
    """What one consumer used in one bucket; usage: as meter gives it, by window and by minute."""

    service: str
    pod: str
    resource_id: str
    usage: dict[str, dict[int, dict[str, float]]]


def meter_consumers(directory: Path, owners: Mapping[str, set[str]]) -> Iterator[Consumer]:
    """Each consumer and bucket; its service is its own word, else that of its spans."""
    consumers: dict[str, list[bytes]] = defaultdict(list)
    for line in lines(directory / "metrics"):
        for consumer, fragment in collect_metrics(line)[0].items():
            consumers[consumer].append(fragment)
    for consumer in sorted(consumers):
        bucket, uid, name, service, resource_id, *_ = consumer.split(SEPARATOR)
        if not service:
            claims = (owners.get(uid) or owners.get(name) or set()) - {""}
            service = claims.pop() if len(claims) == 1 else ""
        yield Consumer(service, uid or name, resource_id, meter(int(bucket), consumers.pop(consumer)))


def meter_all(directory: Path, owners: Mapping[str, set[str]]) -> UsageByMinute:
    """Usage by minute and consumer."""
    return by_minute(meter_consumers(directory, owners))


def by_minute(consumers: Iterable[Consumer]) -> UsageByMinute:
    """Usage by minute, of all buckets and resources together."""
    usage: UsageByMinute = defaultdict(dict)
    for consumer in consumers:
        for minute, by_dimension in consumer.usage["minutes"].items():
            into = usage[minute].setdefault((consumer.service, consumer.pod), {})
            for dimension, used in by_dimension.items():
                into[dimension] = into.get(dimension, 0.0) + used
    return usage

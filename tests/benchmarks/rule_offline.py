"""The pure stages over a directory, without the engine: timing and quality of the rule detector.

    python -m tests.benchmarks.rule_offline DIR [DIR ...]

Reads an input directory (interface.md §1), runs collect, assemble, meter and detect one after the
other in this process, and prints how long each took. Where the directory has a ``truth/`` folder,
the verdicts are held against it: simulated worlds by trace and by fault, real ones (weak labels)
by the share of traces near an injection and of quiet traces that were flagged.
"""

from __future__ import annotations

import gzip
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from operator import itemgetter
from pathlib import Path

import orjson
import pyarrow.parquet as pq

from udfs.pure.assemble import assemble
from udfs.pure.detect import MinuteResult, RuleDetector
from udfs.pure.meter import meter
from udfs.pure.otlp import collect_logs, collect_metrics, collect_spans

Minutes = dict[int, list[bytes]]
Usage = dict[int, dict[tuple[str, str], dict[str, float]]]
TOPS = (1, 3)


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


def assemble_all(fragments: Mapping[str, list[bytes]]) -> Minutes:
    """Packed traces by minute."""
    minutes: Minutes = defaultdict(list)
    for trace_id, parts in fragments.items():
        assembled = assemble(trace_id, parts)
        if assembled:
            minutes[assembled[0]].append(assembled[1])
    return minutes


def meter_all(directory: Path, owners: Mapping[str, set[str]]) -> Usage:
    """Usage by minute and consumer, whose service is its own word, else that of its spans."""
    consumers: dict[str, list[bytes]] = defaultdict(list)
    for line in lines(directory / "metrics"):
        for consumer, fragment in collect_metrics(line)[0].items():
            consumers[consumer].append(fragment)
    usage: Usage = defaultdict(dict)
    for consumer, parts in sorted(consumers.items()):
        bucket, uid, name, otel_service_name, _ = consumer.split("\x1f")
        if not otel_service_name:
            claims = (owners.get(uid) or owners.get(name) or set()) - {""}
            otel_service_name = claims.pop() if len(claims) == 1 else ""
        for minute, by_dimension in meter(int(bucket), parts)["minutes"].items():
            into = usage[minute].setdefault((otel_service_name, uid or name), {})
            for dimension, used in by_dimension.items():
                into[dimension] = into.get(dimension, 0.0) + used
    return usage


def detect_all(minutes: Minutes, usage: Usage) -> list[MinuteResult]:
    """Every minute with traces or usage, in order."""
    detector = RuleDetector()
    return [
        detector.step(minute, minutes.get(minute, []), usage.get(minute, {}))
        for minute in sorted(minutes.keys() | usage.keys())
    ]


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.3f}" if whole else "  -  "


def against_truth(verdicts: list[dict], truth: Path) -> None:
    """Print precision, recall, F1 per trace, recall by kind, and the culprits per fault."""
    labels = {row["trace_id"]: row for row in pq.read_table(truth / "traces.parquet").to_pylist()}
    hits, wholes, right = Counter(), Counter(), Counter()
    flagged = false = 0
    for verdict in verdicts:
        label = labels[verdict["trace_id"]]
        flagged += verdict["is_anomalous"]
        if label["is_anomalous"]:
            kind = label["anomaly_kind"]
            wholes[kind] += 1
            hits[kind] += verdict["is_anomalous"]
            right[kind] += (
                verdict["is_anomalous"]
                and verdict["culprit_service_name"] == label["culprit_service_name"]
            )
        else:
            false += verdict["is_anomalous"]
    found, true = sum(hits.values()), sum(wholes.values())
    precision, recall = found / max(flagged, 1), found / max(true, 1)
    f1 = 2 * precision * recall / max(precision + recall, 1e-9)
    print(
        f"  P {precision:.3f}  R {recall:.3f}  F1 {f1:.3f}"
        f"  normal flagged {_share(false, len(verdicts) - true)}"
        f"  right culprit {_share(sum(right.values()), found)}"
    )
    print(f"  traces by fault kind: {', '.join(f'{k} {n}' for k, n in sorted(wholes.items()))}")
    faults = pq.read_table(truth / "faults.parquet").to_pylist()
    of_time = _places(verdicts, faults, _in_time)
    fault_of = {trace_id: label["fault_id"] for trace_id, label in labels.items()}
    of_own = _places(verdicts, faults, lambda v, f: fault_of[v["trace_id"]] == f["fault_id"])
    _print_places("of all in a fault's time", of_time)
    _print_places("of a fault's own traces ", of_own)
    for kind in sorted(wholes):
        of_kind = [place for place, f in zip(of_own, faults) if f["anomaly_kind"] == kind]
        print(
            f"  {kind:<20} recall {_share(hits[kind], wholes[kind])}"
            f"  right culprit {_share(right[kind], hits[kind])}"
            f"  AC@1 of own {_share(sum(p <= 1 for p in of_kind), len(of_kind))} of {len(of_kind)}"
        )


def _in_time(verdict: dict, fault: dict) -> bool:
    start, end = (fault[name].timestamp() * 1000 for name in ("start_time", "end_time"))
    return start <= verdict["start_time"] < end


def _places(
    verdicts: list[dict], faults: list[dict], belongs: Callable[[dict, dict], bool]
) -> list[float]:
    """Place of each fault's service among the culprits of its anomalous traces."""
    anomalous = [verdict for verdict in verdicts if verdict["is_anomalous"]]
    places = []
    for fault in faults:
        counts = Counter(v["culprit_service_name"] for v in anomalous if belongs(v, fault))
        names = sorted(counts, key=lambda name: (-counts[name], name))
        own = fault["otel_service_name"]
        places.append(names.index(own) + 1 if own in counts else float("inf"))
    return places


def _print_places(whose: str, places: list[float]) -> None:
    shares = (f"AC@{top} {_share(sum(p <= top for p in places), len(places))}" for top in TOPS)
    print(f"  culprits {whose}: {'  '.join(shares)}  over {len(places)} faults")


def against_weak_labels(verdicts: list[dict], truth: Path) -> None:
    """Print the shares flagged near injections and in quiet minutes, and faults found."""
    labels = {row["trace_id"]: row for row in pq.read_table(truth / "labels.parquet").to_pylist()}
    flagged: dict[str, list[bool]] = defaultdict(list)
    named = []
    by_fault: dict[str, Counter] = defaultdict(Counter)
    for verdict in verdicts:
        row = labels[verdict["trace_id"]]
        flagged[row["label"]].append(verdict["is_anomalous"])
        if row["label"] == "positive":
            by_fault[row["fault_id"]]["traces"] += 1
            if verdict["is_anomalous"]:
                is_right = verdict["culprit_service_name"] == row["culprit_service_name"]
                named.append(is_right)
                by_fault[row["fault_id"]]["flagged"] += 1
                by_fault[row["fault_id"]]["right"] += is_right
    for label, found in sorted(flagged.items()):
        print(f"  {label:<9} flagged {_share(sum(found), len(found))} of {len(found)}")
    warming = sum(verdict["verdict_state"] == "warming" for verdict in verdicts)
    print(
        f"  warming {_share(warming, len(verdicts))}"
        f"  right culprit of the positive flagged {_share(sum(named), len(named))}"
    )
    faults = pq.read_table(truth / "faults.parquet").to_pylist()
    places = _places(verdicts, faults, _in_time)
    _print_places("of all in a fault's time", places)
    for place, fault in zip(places, faults):
        counts = by_fault[fault["fault_id"]]
        print(
            f"    {fault['anomaly_kind']:<18} {fault['otel_service_name']:<28} place {place:>3}"
            f"  traces {counts['traces']:>4}  flagged {counts['flagged']:>4}"
            f"  right {counts['right']:>4}"
        )


def report(directory: Path) -> None:
    """Run all stages over ``directory`` and print what they took and what they found."""
    clock = [time.process_time()]
    fragments, owners = collect_traces(directory)
    clock.append(time.process_time())
    minutes = assemble_all(fragments)
    clock.append(time.process_time())
    usage = meter_all(directory, owners)
    clock.append(time.process_time())
    results = detect_all(minutes, usage)
    clock.append(time.process_time())

    verdicts = [verdict for result in results for verdict in result.verdicts]
    verdicts.sort(key=itemgetter("start_time", "trace_id"))
    spans = sum(verdict["span_count"] for verdict in verdicts)
    took = [after - before for before, after in zip(clock, clock[1:])]
    print(f"{directory}: {len(verdicts):,} traces, {spans:,} spans, {len(results):,} minutes")
    for stage, seconds in zip(("collect", "assemble", "meter", "detect"), took):
        print(f"  {stage:<9}{seconds:6.1f} CPU s  {spans / seconds:10,.0f} spans/s")
    truth = directory / "truth"
    if (truth / "traces.parquet").is_file():
        against_truth(verdicts, truth)
    elif (truth / "labels.parquet").is_file():
        against_weak_labels(verdicts, truth)


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        report(Path(argument))

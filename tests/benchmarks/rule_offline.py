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
from collections.abc import Iterator, Mapping
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import pyarrow.parquet as pq

from udfs.pure.assemble import assemble
from udfs.pure.detect import MinuteResult, RuleDetector
from udfs.pure.meter import meter
from udfs.pure.otlp import collect_logs, collect_metrics, collect_spans

Minutes = dict[int, list[bytes]]
Usage = dict[int, dict[tuple[str, str], dict[str, float]]]
TRUTH_SHARE_TOP = (1, 3)


def lines(folder: Path) -> Iterator[bytes]:
    """Lines of all files of a stream."""
    for path in sorted(folder.glob("*.jsonl*")):
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield from file


def collect_traces(directory: Path) -> tuple[dict[str, list[bytes]], dict[str, set[str]]]:
    """Fragments by trace id, and the services that claim a pod."""
    import orjson

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
    """Usage by minute and consumer; a consumer without a service of its own is who its spans say."""
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
    faults = _culprits(verdicts, truth)
    for top in TRUTH_SHARE_TOP:
        ranks = [rank for rank, _ in faults]
        print(f"  AC@{top} {_share(sum(r <= top for r in ranks), len(ranks))}", end="")
    print(f"  over {len(faults)} faults")
    for kind in sorted(wholes):
        of_kind = [rank for rank, fault in faults if fault["anomaly_kind"] == kind]
        print(
            f"  {kind:<20} recall {_share(hits[kind], wholes[kind])}"
            f"  right culprit {_share(right[kind], hits[kind])}"
            f"  AC@1 {_share(sum(r <= 1 for r in of_kind), len(of_kind))} of {len(of_kind)}"
        )


def _culprits(verdicts: list[dict], truth: Path) -> list[tuple[float, dict]]:
    """(place of the true culprit among those of the fault's time, fault)"""
    ranks = []
    for fault in pq.read_table(truth / "faults.parquet").to_pylist():
        start, end = (fault[name].timestamp() * 1000 for name in ("start_time", "end_time"))
        counts: Counter[str] = Counter(
            verdict["culprit_service_name"]
            for verdict in verdicts
            if verdict["is_anomalous"] and start <= verdict["start_time"] < end
        )
        names = sorted(counts, key=lambda name: (-counts[name], name))
        own = fault["otel_service_name"]
        ranks.append((names.index(own) + 1 if own in counts else float("inf"), fault))
    return ranks


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
    print(f"  warming {_share(warming, len(verdicts))}  right culprit of the positive flagged"
          f" {_share(sum(named), len(named))}")  # fmt: skip
    faults = _culprits(verdicts, truth)
    for top in TRUTH_SHARE_TOP:
        print(f"  AC@{top} {_share(sum(r <= top for r, _ in faults), len(faults))}", end="")
    print(f"  over {len(faults)} faults")
    for rank, fault in faults:
        print(f"    {fault['anomaly_kind']:<18} {fault['otel_service_name']:<24} place {rank}"
              f"  {dict(by_fault[fault['fault_id']])}")  # fmt: skip


def report(directory: Path) -> None:
    """Run all stages over ``directory`` and print what they took and what they found."""
    clock = [time.perf_counter()]
    fragments, owners = collect_traces(directory)
    clock.append(time.perf_counter())
    minutes = assemble_all(fragments)
    clock.append(time.perf_counter())
    usage = meter_all(directory, owners)
    clock.append(time.perf_counter())
    results = detect_all(minutes, usage)
    clock.append(time.perf_counter())

    verdicts = [verdict for result in results for verdict in result.verdicts]
    verdicts.sort(key=itemgetter("start_time", "trace_id"))
    spans = sum(verdict["span_count"] for verdict in verdicts)
    took = [after - before for before, after in zip(clock, clock[1:])]
    print(f"{directory}: {len(verdicts):,} traces, {spans:,} spans, {len(results):,} minutes")
    for stage, seconds in zip(("collect", "assemble", "meter", "detect"), took):
        print(f"  {stage:<9}{seconds:6.1f} s  {spans / seconds:10,.0f} spans/s")
    truth = directory / "truth"
    if (truth / "traces.parquet").is_file():
        against_truth(verdicts, truth)
    elif (truth / "labels.parquet").is_file():
        against_weak_labels(verdicts, truth)


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        report(Path(argument))

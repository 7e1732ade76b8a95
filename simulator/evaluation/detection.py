"""What a detector says about a world, held against its truth."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pandas as pd

from simulator.config import STORM
from simulator.evaluation import alarms as a
from simulator.evaluation import measures as m
from simulator.evaluation.measures import Measures
from simulator.evaluation.worlds import Source, World, bare
from udfs.pure.assemble import NS_PER_MS, Trace
from udfs.pure.verdicts import WARMING, MinuteResult
from udfs.pure.windows import MINUTE_MS

VERDICT_COLUMNS = (
    "trace_id", "start_time", "anomaly_score", "threshold", "is_anomalous", "culprit_service_name",
    "anomaly_kind", "verdict_state",
)  # fmt: skip

# What truth and verdict both tell, by the same names.
SAID = ("is_anomalous", "culprit_service_name", "anomaly_kind")

# A fault of real days is found where its traces are flagged more often than quiet ones, at this p.
FOUND_P = 0.05
SHUFFLES = 200

# How long after a benign shift it is looked at whether it is quiet again.
SHIFT_MINUTES = 120

# How far a true trace is changed, by the greatest log ratio of its times and work.
STRENGTHS = (("up to 1.1 times", math.log(1.1)), ("1.1 to 1.5 times", math.log(1.5)),
             ("1.5 to 3 times", math.log(3)), ("over 3 times", math.inf))  # fmt: skip


class Detector(Protocol):
    """What an arm is: minutes come in ascending order, and the last word for a minute counts."""

    def step(
        self,
        minute_ms: int,
        traces: Sequence[bytes | Trace],
        usage: Mapping[tuple[str, str], Mapping[str, float]],
    ) -> list[MinuteResult]: ...


def detect(detector: Detector, world: World) -> tuple[list[MinuteResult], float]:
    """All that a detector says about a world, in its order, and the CPU seconds that it took."""
    results: list[MinuteResult] = []
    begun = time.process_time()
    for minute in world.times:
        results += detector.step(minute, world.minutes.get(minute, []), world.usage.get(minute, {}))
    return results, time.process_time() - begun


def verdict(trace: Trace, score: float, threshold: float, culprit: str | None) -> dict[str, Any]:
    """What the measures read of a verdict; it is anomalous where it names a culprit."""
    return {
        "trace_id": trace.trace_id,
        "start_time": trace.start_ns // NS_PER_MS,
        "anomaly_score": score,
        "threshold": threshold,
        "is_anomalous": culprit is not None,
        "culprit_service_name": culprit,
    }


def stated(results: Iterable[MinuteResult]) -> tuple[pd.DataFrame, pd.DataFrame, bool]:
    """Verdicts by the first and by the last result for each minute; whether any came twice."""
    first: dict[int, list[dict]] = {}
    last: dict[int, list[dict]] = {}
    is_restated = False
    for result in results:
        is_restated |= result.minute_ms in first
        first.setdefault(result.minute_ms, result.verdicts)
        last[result.minute_ms] = result.verdicts
    return _frame(first), _frame(last), is_restated


def _frame(by_minute: Mapping[int, list[dict]]) -> pd.DataFrame:
    rows = [row for verdicts in by_minute.values() for row in verdicts]
    frame = pd.DataFrame(rows, columns=list(VERDICT_COLUMNS))
    return frame.assign(start_time=pd.to_datetime(frame["start_time"], unit="ms", utc=True))


def judge(verdicts: pd.DataFrame, world: World, source: Source) -> tuple[Measures, dict]:
    """The measures of verdicts, and the timeline of the normal traces."""
    begin = world.times[0]
    verdicts = verdicts.assign(culprit_service_name=verdicts["culprit_service_name"].map(bare))
    truth = world.truth[world.truth["start_ms"] >= begin + source.leave_out_minutes * MINUTE_MS]
    verdicts = verdicts[verdicts["trace_id"].isin(truth["trace_id"])]
    said = verdicts.rename(columns={name: f"{name} said" for name in SAID})
    columns = ["trace_id", "anomaly_score", "verdict_state", *(f"{name} said" for name in SAID)]
    table = truth.merge(said[columns], on="trace_id", how="left")
    if len(table) > len(truth):
        raise ValueError(f"{source.title}: a trace has two verdicts")
    if world.is_real:
        true, normal = (table["label"] == label for label in ("positive", "negative"))
        true, normal = true.to_numpy(), normal.to_numpy()
    else:
        true = table["is_anomalous"].to_numpy(bool)
        normal = ~true
    flags = table["is_anomalous said"].eq(True).to_numpy()
    minutes = ((table["start_ms"].to_numpy(float) - begin) // MINUTE_MS).astype(int)
    faults = world.faults[world.faults["fault_id"].isin(table.loc[true, "fault_id"])]

    measures = _false_alarms(table, normal, flags, minutes, world, begin)
    if true.any():
        measures |= _found(table, true, normal, flags)
        measures |= _culprits(table, true, flags, verdicts, faults)
    if world.is_real:
        real = real_days(verdicts, world)
        measures |= {name: real[name] for name in ("faults found", "faults found by chance")}
    if source.case == STORM:
        measures |= storm(verdicts, truth, world.faults)
    measures |= _shifts(source, minutes[normal], flags[normal], table.loc[normal, "verdict_state"] != WARMING)
    times, traces, flagged = a.by_minute(minutes[normal], flags[normal])
    more = {
        "timeline": a.timeline(minutes[normal], flags[normal]),
        "by minute": [[int(t), int(n), int(k)] for t, n, k in zip(times, traces, flagged)],
    }
    return measures, more


def _false_alarms(
    table: pd.DataFrame, normal: np.ndarray, flags: np.ndarray, minutes: np.ndarray, world: World, begin: int
) -> Measures:
    alarms = normal & flags
    state = table["verdict_state"]
    measures = {
        "traces": float(len(table)),
        "normal flagged": mean(flags[normal]),
        "worst hour": _worst_hour(minutes[normal], flags[normal]),
        "locked minutes": float(a.longest_locked(minutes[normal], flags[normal])),
        "warming": float((state == WARMING).mean()),
    }
    of: dict[str, list[tuple[float, float]]] = defaultdict(list)
    starts, ends = (m.epoch_ms(world.faults[name]) for name in ("start_time", "end_time"))
    for service, start, end in zip(world.faults["otel_service_name"], starts, ends):
        of[service].append(((start - begin) / MINUTE_MS, (end - begin) / MINUTE_MS))
    culprits = table["culprit_service_name said"].fillna("?").to_numpy(object)
    known = len(np.unique(minutes[normal]))
    for name, which in (("false incidents", alarms), ("false incidents as told", flags)):
        runs = a.incidents(minutes[which], culprits[which])
        measures[name] = a.a_day(len(a.false_incidents(runs, of)), known, world.services)
    for kind, traces in table.loc[alarms, "anomaly_kind said"].fillna("no kind").value_counts().items():
        measures[f"normal flagged as {kind}"] = float(traces / max(normal.sum(), 1))
    return measures


def _worst_hour(minutes: np.ndarray, flags: np.ndarray) -> float:
    _, traces, flagged = a.by_minute(minutes, flags)
    if not len(traces):
        return math.nan
    ones = np.ones(min(60, len(traces)))
    return float((np.convolve(flagged, ones, "valid") / np.convolve(traces, ones, "valid")).max())


def _found(table: pd.DataFrame, true: np.ndarray, normal: np.ndarray, flags: np.ndarray) -> Measures:
    """Detection of the true traces; of real days those near an injection, which need not show it."""
    hits, alarms = int((flags & true).sum()), int((flags & normal).sum())
    recall, rate = hits / true.sum(), mean(flags[normal])
    measures = {
        "F1": 2 * hits / (hits + alarms + true.sum()),
        "precision": hits / (hits + alarms) if hits + alarms else math.nan,
        "recall": recall,
    }
    for prevalence in a.PREVALENCES:
        measures[f"precision at {prevalence:.0%}".replace("%", " %")] = a.precision_at(prevalence, recall, rate)
    known = true | normal
    scores = table["anomaly_score"].fillna(-np.inf).to_numpy(float)[known]
    measures["PR-AUC"] = a.average_precision(scores, true[known])
    for share in (0.01, 0.03):
        measures[f"recall at {share:.0%}".replace("%", " %")] = a.recall_at(share, scores, true[known])
    own = table[true].assign(found=flags[true])
    for kind, of_kind in own.groupby("anomaly_kind"):
        measures[f"recall {kind}"] = float(of_kind["found"].mean())
    if "latency_log_ratio" in own:
        for name, of_strength in own.groupby(strength(own)):
            measures[f"recall {name}"] = float(of_strength["found"].mean())
    return measures


def strength(table: pd.DataFrame) -> np.ndarray:
    """How far each trace is changed by its fault: a word.  # (traces,)"""
    ratio = table[["latency_log_ratio", "work_log_ratio"]].abs().max(axis=1).fillna(0.0).to_numpy()
    words = np.array([name for name, _ in STRENGTHS], object)
    word = words[np.searchsorted([bound for _, bound in STRENGTHS[:-1]], ratio, side="right")]
    word = np.where(table["structure_changed"].to_numpy(bool), "other calls", word)
    return np.where(table["error_changed"].to_numpy(bool), "other errors", word)


def _culprits(
    table: pd.DataFrame, true: np.ndarray, flags: np.ndarray, verdicts: pd.DataFrame, faults: pd.DataFrame
) -> Measures:
    struck = table[true]
    of_traces = m.culprit_ranks_of_own_traces(verdicts, struck[["trace_id", "fault_id"]], faults)
    of_time = m.culprit_ranks(verdicts, faults)
    own = table[true & flags]
    measures = {
        "faults": float(len(faults)),
        "faults without a flag": 1 - own["fault_id"].nunique() / max(len(faults), 1),
    }
    for top in m.TOPS:
        measures[f"AC@{top}"] = m.named_share(of_traces, top)
        measures[f"AC@{top} of its time"] = m.named_share(of_time, top)
    culprit_of = dict(zip(faults["fault_id"], faults["otel_service_name"]))
    right = own["culprit_service_name said"] == own["fault_id"].map(culprit_of)
    return measures | {"AC@1 of traces": mean(right.to_numpy())}


def _shifts(source: Source, minutes: np.ndarray, flags: np.ndarray, is_ready: pd.Series) -> Measures:
    """How the normal traces fare around what changes for good without any harm."""
    if not source.shifts:
        return {}
    ready = is_ready.to_numpy(bool)
    before = ready & (minutes < source.shifts[0])
    measures = {"normal flagged before the shift": mean(flags[before])}
    ends = [*source.shifts[1:], math.inf]
    spans = [(at, min(end, at + SHIFT_MINUTES)) for at, end in zip(source.shifts, ends)]
    after = np.zeros(len(minutes), bool)
    for begin, end in spans:
        after |= (minutes >= begin) & (minutes < end)
    measures["normal flagged after the shift"] = mean(flags[after & ready])
    quiet = [a.minutes_to_quiet(minutes, flags, begin, end) for begin, end in spans]
    return measures | {"minutes to quiet": float(np.nanmax(quiet)) if not np.isnan(quiet).all() else math.nan}


def minutes_to_detect(first: pd.DataFrame, truth: pd.DataFrame, faults: pd.DataFrame) -> Measures:
    """How long a fault lasts until a trace that it struck is flagged: the median of those found, and the share found.

    first: verdicts by the first word for each minute. A minute is judged when it is over, so its end counts.
    """
    struck = truth.loc[truth["fault_id"].notna(), ["trace_id", "fault_id"]]
    flagged = struck.merge(first[first["is_anomalous"].fillna(False).astype(bool)], on="trace_id")
    earliest = flagged.groupby("fault_id")["start_time"].min().dt.floor("min") + pd.Timedelta(minutes=1)
    begin = faults.set_index("fault_id")["start_time"]
    waited = (earliest - begin).dropna() / pd.Timedelta(minutes=1)
    return {
        "minutes to detect": float(waited.median()) if len(waited) else math.nan,
        "faults detected": len(waited) / len(faults) if len(faults) else math.nan,
    }


def storm(verdicts: pd.DataFrame, truth: pd.DataFrame, faults: pd.DataFrame) -> Measures:
    """Recall as the storm (the only fault) goes on, false-positive rate before, in and after it."""
    found = m.flagged(verdicts, truth["trace_id"])
    start = truth["start_ms"].to_numpy(float)
    true = truth["is_anomalous"].to_numpy(bool)
    begin, end = (m.epoch_ms(faults[name])[0] for name in ("start_time", "end_time"))
    edges = np.linspace(begin, end, 4)
    thirds = zip(("first", "middle", "last"), edges, edges[1:])
    measures = {f"recall, {name} third": mean(found[true & within(start, a, b)]) for name, a, b in thirds}
    phases = {"before": (-np.inf, begin), "in": (begin, end), "after": (end, np.inf)}
    return measures | {
        f"false_positive_rate, {name} the storm": mean(found[~true & within(start, a, b)])
        for name, (a, b) in phases.items()
    }


def real_days(verdicts: pd.DataFrame, world: World) -> Measures:
    """Shares flagged near injections and in quiet, culprits and faults found, beside chance.

    Chance of a culprit: as many names as a fault's time has, up to the top, of all services at
    random. Chance of a fault found: the labels of the labelled traces dealt at random.
    """
    labels, faults = world.truth, world.faults
    found = m.flagged(verdicts, labels["trace_id"])
    is_quiet = (labels["label"] == "negative").to_numpy()
    is_positive = (labels["label"] == "positive").to_numpy()
    measures = {
        "positive traces": float(is_positive.sum()),
        "positive flagged": mean(found[is_positive]),
        "quiet traces": float(is_quiet.sum()),
        "quiet flagged": mean(found[is_quiet]),
        "faults": float(len(faults)),
    }
    ranks, named = m.culprit_ranks(verdicts, faults), _named(verdicts, faults)
    for top in m.TOPS:
        measures[f"AC@{top}"] = m.named_share(ranks, top)
        measures[f"AC@{top} by chance"] = mean(np.minimum(named, top)) / world.services
    is_labelled = is_quiet | is_positive
    fault_of = labels["fault_id"].where(is_positive).to_numpy(object)[is_labelled]
    places = pd.Index(faults["fault_id"]).get_indexer(fault_of)  # -1: quiet
    flags = found[is_labelled]
    measures["faults found"] = faults_found(flags, places, len(faults))
    random = np.random.default_rng(0)
    measures["faults found by chance"] = mean(
        [faults_found(flags, random.permutation(places), len(faults)) for _ in range(SHUFFLES)]
    )
    return measures


def faults_found(flags: np.ndarray, fault_of: np.ndarray, faults: int) -> float:
    """Share of the faults whose traces are flagged more often than quiet ones, one-sided p < FOUND_P.

    flags: (traces,) bool. fault_of: (traces,) place of a trace's fault, or -1 if it is quiet. The
    quiet share has one flagged and one unflagged trace added: that none of a few was flagged
    doesn't prove that none ever is. A fault without traces is not found.
    """
    from scipy.stats import binom

    quiet = flags[fault_of < 0]
    share = (quiet.sum() + 1) / (len(quiet) + 2)
    near = fault_of >= 0
    traces = np.bincount(fault_of[near], minlength=faults)
    hits = np.bincount(fault_of[near & flags], minlength=faults)
    return mean(binom.sf(hits - 1, traces, share) < FOUND_P)


def _named(verdicts: pd.DataFrame, faults: pd.DataFrame) -> np.ndarray:
    """How many services the anomalous traces of each fault's time name.  # (faults,)"""
    anomalous = verdicts[verdicts["is_anomalous"].astype(bool)]
    start = m.epoch_ms(anomalous["start_time"])
    times = zip(m.epoch_ms(faults["start_time"]), m.epoch_ms(faults["end_time"]))
    culprit = anomalous["culprit_service_name"]
    return np.array([culprit[within(start, a, b)].nunique() for a, b in times])


def within(times: np.ndarray, begin: float, end: float) -> np.ndarray:
    return (begin <= times) & (times < end)


def mean(values: Sequence[float] | np.ndarray) -> float:
    """NaN where there are none."""
    return float(np.mean(values)) if len(values) else math.nan

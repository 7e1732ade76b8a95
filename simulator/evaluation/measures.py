"""The measures of evaluation.md, each a function of tables.

Frames have the columns of docs/interface.md, sections 3 and 4. A measure that the data says nothing
about (a share of nothing) is NaN, never 0 or 1. Shares and rates are of 1.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from decimal import Decimal
from typing import NamedTuple

import numpy as np
import pandas as pd

from udfs.pure.windows import HOUR_MS, MINUTE_MS, WINDOW_MS

Measures = dict[str, float]

# Of ranked_anomalies and of what faults cost.
KEYS = ["window_start", "otel_service_name"]

# The places in a ranking of culprits that are looked at.
TOPS = (1, 3)
# Tells a service that no ranking names from one that is named last.
UNNAMED = np.inf


def _share(part: float, whole: float) -> float:
    return float(part / whole) if whole else float("nan")


def flagged(verdicts: pd.DataFrame, trace_ids: pd.Series) -> np.ndarray:
    """Whether each of ``trace_ids`` is judged anomalous; one without a verdict is not.  # (traces,)

    Raises:
        ValueError: a trace has two verdicts.
    """
    if verdicts["trace_id"].duplicated().any():
        trace_id = verdicts.loc[verdicts["trace_id"].duplicated(), "trace_id"].iloc[0]
        raise ValueError(f"trace_verdicts has several rows of trace_id {trace_id}, must have one")
    anomalous = verdicts.loc[verdicts["is_anomalous"].fillna(False).astype(bool), "trace_id"]
    return trace_ids.isin(anomalous).to_numpy()


def detection(verdicts: pd.DataFrame, truth: pd.DataFrame) -> Measures:
    """Precision, recall, F1, false-positive rate and accuracy per trace, and recall by kind.

    ``truth`` decides which traces count: one without a verdict was not flagged, and its share is
    ``unjudged``.
    """
    found = flagged(verdicts, truth["trace_id"])
    true = truth["is_anomalous"].to_numpy(bool)
    hits, alarms = int((found & true).sum()), int((found & ~true).sum())
    precision, recall = _share(hits, found.sum()), _share(hits, true.sum())
    measures = {
        "traces": float(len(truth)),
        "anomalous": _share(true.sum(), len(truth)),
        "unjudged": _share((~truth["trace_id"].isin(verdicts["trace_id"])).sum(), len(truth)),
        "precision": precision,
        "recall": recall,
        "f1": _share(2 * hits, found.sum() + true.sum()),
        "false_positive_rate": _share(alarms, (~true).sum()),
        "accuracy": _share((found == true).sum(), len(truth)),
    }
    by_kind = pd.Series(found[true]).groupby(truth.loc[true, "anomaly_kind"].to_numpy())
    return measures | {f"recall {kind}": float(share) for kind, share in by_kind.mean().items()}


def culprit_ranks(verdicts: pd.DataFrame, faults: pd.DataFrame) -> np.ndarray:
    """Place of each fault's service among its time's culprits; UNNAMED if it is none.  # (faults,)

    A fault's time is [start_time, end_time). The culprits of the anomalous traces that start in it
    are ranked by the number of their traces, then the sum of their scores, then by name. So faults
    that overlap compete, and so does every false alarm: it is what a person on call sees.
    """
    anomalous = verdicts[
        verdicts["is_anomalous"].fillna(False).astype(bool) & verdicts["culprit_service_name"].notna()
    ].sort_values("start_time", kind="stable")
    starts = anomalous["start_time"].to_numpy("datetime64[ms]")
    codes, names = pd.factorize(anomalous["culprit_service_name"], sort=True)
    scores = anomalous["anomaly_score"].fillna(0.0).to_numpy(float)
    first = np.searchsorted(starts, faults["start_time"].to_numpy("datetime64[ms]"))
    last = np.searchsorted(starts, faults["end_time"].to_numpy("datetime64[ms]"))
    own = names.get_indexer(faults["otel_service_name"])
    return np.array(
        [_place(codes[a:b], scores[a:b], len(names), code) for a, b, code in zip(first, last, own, strict=True)]
    )


def culprit_ranks_of_own_traces(verdicts: pd.DataFrame, truth: pd.DataFrame, faults: pd.DataFrame) -> np.ndarray:
    """As ``culprit_ranks``, over the verdicts on the traces that the fault struck.  # (faults,)

    Says how good the choice of the culprit is where another fault at the same time can't hide it.
    """
    anomalous = verdicts[verdicts["is_anomalous"].fillna(False).astype(bool) & verdicts["culprit_service_name"].notna()]
    struck = truth.loc[truth["fault_id"].notna(), ["trace_id", "fault_id"]].merge(anomalous, on="trace_id")
    codes, names = pd.factorize(struck["culprit_service_name"], sort=True)
    scores = struck["anomaly_score"].fillna(0.0).to_numpy(float)
    rows = struck.groupby("fault_id").indices
    own = names.get_indexer(faults["otel_service_name"])
    nothing = np.empty(0, np.intp)
    return np.array(
        [
            _place(codes[at], scores[at], len(names), code)
            for at, code in zip((rows.get(fault, nothing) for fault in faults["fault_id"]), own, strict=True)
        ]
    )


def _place(codes: np.ndarray, scores: np.ndarray, names: int, own: int) -> float:
    """Place (from 1) of ``own`` by traces, then summed score, then code (sorted by name)."""
    if own < 0 or not (codes == own).any():
        return UNNAMED
    traces = np.bincount(codes, minlength=names)  # (names,)
    # In order of size, so that the sum doesn't depend on the order of the verdicts.
    by_size = np.argsort(scores, kind="stable")
    summed = np.bincount(codes[by_size], weights=scores[by_size], minlength=names)
    order = np.lexsort((np.arange(names), -summed, -traces))
    return float(np.flatnonzero(order == own)[0] + 1)


def ranking_ranks(ranked: pd.DataFrame, faults: pd.DataFrame) -> np.ndarray:
    """Best rank of each fault's service in the windows it overlaps, else UNNAMED.  # (faults,)"""
    pairs = _overlaps(ranked, faults)
    own = pairs[pairs["otel_service_name"] == pairs["fault_service"]]
    return own.groupby("fault")["rank"].min().reindex(range(len(faults)), fill_value=UNNAMED).to_numpy(float)


def ranking_chance(ranked: pd.DataFrame, faults: pd.DataFrame, services: int, top: int) -> float:
    """How many of the faults a ranking would name by chance: one whose names are dealt at random.

    For a fault: the services named at ``top`` or above in its windows, of all ``services``.
    """
    pairs = _overlaps(ranked, faults)
    named = pairs[pairs["rank"] <= top].groupby("fault")["otel_service_name"].nunique().sum()
    return _share(named, services * len(faults))


def _overlaps(ranked: pd.DataFrame, faults: pd.DataFrame) -> pd.DataFrame:
    """Each fault (by position, with its service) with each row of a window it overlaps."""
    rows = ranked[["window_start", "window_end", "otel_service_name", "rank"]]
    own = pd.DataFrame(
        {
            "fault": np.arange(len(faults)),
            "fault_service": faults["otel_service_name"].to_numpy(),
            "fault_start": faults["start_time"].to_numpy("datetime64[ms]"),
            "fault_end": faults["end_time"].to_numpy("datetime64[ms]"),
        }
    )
    windows = rows[["window_start", "window_end"]].drop_duplicates()
    near = own.merge(windows, how="cross")
    near = near[
        (near["window_start"].to_numpy("datetime64[ms]") < near["fault_end"])
        & (near["window_end"].to_numpy("datetime64[ms]") > near["fault_start"])
    ]
    return near.merge(rows, on=["window_start", "window_end"])


def named_share(ranks: np.ndarray, top: int, weights: np.ndarray | None = None) -> float:
    """AC@top: share of the faults whose service is at ``top`` or above, by ``weights`` if given."""
    weights = np.ones(len(ranks)) if weights is None else weights
    return _share(float((weights * (ranks <= top)).sum()), float(weights.sum()))


def culprits(
    verdicts: pd.DataFrame,
    ranked: pd.DataFrame,
    truth: pd.DataFrame,
    faults: pd.DataFrame,
    costs: pd.DataFrame,
) -> Measures:
    """AC@1 and AC@3 per fault: of its time, of its own traces, and of the ranking; also by money.

    A fault's money is its excess cost over all windows and services; one that saved money weighs
    nothing. A fault that nothing names counts as wrong.
    """
    excess = costs.assign(excess_cost=floats(costs["excess_cost"])).groupby("fault_id")["excess_cost"].sum()
    money = np.clip(faults["fault_id"].map(excess).fillna(0.0).to_numpy(float), 0.0, None)
    of_time = culprit_ranks(verdicts, faults)
    of_traces = culprit_ranks_of_own_traces(verdicts, truth, faults)
    of_ranking = ranking_ranks(ranked, faults)
    measures = {
        "faults": float(len(faults)),
        "faults unnamed": _share(np.isinf(of_time).sum(), len(faults)),
    }
    for top in TOPS:
        measures |= {
            f"AC@{top}": named_share(of_time, top),
            f"AC@{top} by money": named_share(of_time, top, money),
            f"AC@{top} own traces": named_share(of_traces, top),
            f"AC@{top} ranking": named_share(of_ranking, top),
            f"AC@{top} ranking, by money": named_share(of_ranking, top, money),
        }
    return measures


def attribution(ranked: pd.DataFrame, costs: pd.DataFrame, column: str = "attributed_cost") -> Measures:
    """A, bias and the share on the right service, of ``column`` against the counterfactual truth.

    Over all (window, service) that are true or predicted, with ĉ the ranking's cost and Δ the sum
    of the faults' excess cost, both signed and unclipped: A = 1 - Σ|ĉ - Δ| / Σ|Δ|;
    bias = Σĉ / ΣΔ - 1; the share is what ĉ covers of the Δ > 0 at its own (window, service):
    Σ min(ĉ, Δ) / ΣΔ.

    Raises:
        ValueError: the ranking is in several currencies; currencies are never added.
    """
    currencies = sorted(ranked.loc[floats(ranked[column]) != 0.0, "billing_currency"].unique())
    if len(currencies) > 1:
        raise ValueError(f"ranked_anomalies is in {len(currencies)} currencies {currencies}, must be in 1")
    both = pd.concat({"predicted": _summed(ranked, column), "true": _summed(costs, "excess_cost")}, axis=1).fillna(0.0)
    guess, delta = both["predicted"].to_numpy(), both["true"].to_numpy()  # (windows x services,)
    rises = delta > 0.0
    covered = np.minimum(np.clip(guess[rises], 0.0, None), delta[rises]).sum()
    return {
        "anomaly cost": float(delta.sum()),
        "attribution A": 1.0 - _share(np.abs(guess - delta).sum(), np.abs(delta).sum()),
        "attribution bias": _share(guess.sum(), delta.sum()) - 1.0,
        "share on right service": _share(covered, delta[rises].sum()),
    }


def _summed(rows: pd.DataFrame, column: str) -> pd.Series:
    """Money of a column by KEYS, float."""
    return rows[KEYS].assign(cost=floats(rows[column])).groupby(KEYS)["cost"].sum()


# How many repairs a day there are hands for, and how long one takes after the window of its row has closed.
REPAIRS = (3, 5, 10)
REPAIR_MS = 10 * MINUTE_MS
DAY_MS = 24 * HOUR_MS


class Repairs(NamedTuple):
    """Faults that were ``ended``, with the time of it in ms, by ``made`` repairs, ``idle`` of which ended none."""

    ended: dict[str, int]
    made: int = 0
    idle: int = 0


def repairs(
    ranked: pd.DataFrame,
    merit: pd.Series,
    faults: pd.DataFrame,
    costs: pd.DataFrame,
    budgets: Sequence[int] = REPAIRS,
    delay_ms: int = REPAIR_MS,
) -> dict[int, Repairs]:
    """What is repaired of the first k incidents a day by ``merit``, for each k of ``budgets``.

    ranked: rows (window_start, otel_service_name); merit: of each row; what is not above 0 is left alone.
    A person who has k repairs a day deals with what is worth one: every row whose merit reaches the day's cut, which
    is as low as the k repairs allow. The service is repaired ``delay_ms`` after the row's window, and that ends all its
    faults that are on by then. Adjacent windows of a service are one incident, repaired once, unless it has got another
    fault since.
    """
    rows = pd.DataFrame({
        "start": epoch_ms(ranked["window_start"]),
        "service": ranked["otel_service_name"].to_numpy(object),
        "merit": merit.to_numpy(float),
    })  # fmt: skip
    rows = rows[rows["merit"] > 0].sort_values(["start", "service"], kind="stable")
    worth = Worth(faults, costs)
    done = {k: Repairs({}) for k in budgets}
    for _, day in rows.groupby(rows["start"] // DAY_MS):
        of_day = list(zip(day["start"].tolist(), day["service"].tolist(), day["merit"].tolist()))
        cuts = sorted({merit for _, _, merit in of_day})
        for k, before in done.items():
            low, high = 0, len(cuts) - 1  # the lowest cut that takes at most k repairs
            while low < high:
                middle = (low + high) // 2
                fits = _repaired(of_day, cuts[middle], worth, before, delay_ms).made - before.made <= k
                low, high = (low, middle) if fits else (middle + 1, high)
            done[k] = _repaired(of_day, cuts[low], worth, before, delay_ms)
    return done


def averted(
    ranked: pd.DataFrame,
    merit: pd.Series,
    faults: pd.DataFrame,
    costs: pd.DataFrame,
    budgets: Sequence[int] = REPAIRS,
) -> dict[int, float]:
    """Dollars averted by ``repairs``: what the ended faults would have cost afterwards; a saving that is lost counts
    against it."""
    worth = Worth(faults, costs)
    return {k: worth.saved(done.ended) for k, done in repairs(ranked, merit, faults, costs, budgets).items()}


def _repaired(
    rows: Sequence[tuple[int, str, float]], cut: float, worth: Worth, before: Repairs, delay_ms: int
) -> Repairs:
    """After a day's rows (window start, service, merit), in order of time, from ``cut`` on."""
    made, idle = before.made, before.idle
    ended = dict(before.ended)
    last: dict[str, int] = {}  # service -> its last window in an incident that was repaired
    for start, service, merit in rows:
        goes_on = last.get(service) == start - WINDOW_MS
        if goes_on:
            last[service] = start
        if merit < cut or goes_on and not worth.is_ill(service, start, ended):
            continue
        last[service] = start
        at = start + WINDOW_MS + delay_ms
        on = worth.on(service, at, ended)
        ended.update(dict.fromkeys(on, at))
        made, idle = made + 1, idle + (not on)
    return Repairs(ended, made, idle)


def true_costs(costs: pd.DataFrame) -> pd.DataFrame:
    """(window_start, otel_service_name, cost): what all faults together cost a service in a window, float."""
    return _summed(costs, "excess_cost").reset_index()


def averted_by_oracle(faults: pd.DataFrame, costs: pd.DataFrame, budgets: Sequence[int] = REPAIRS) -> dict[int, float]:
    """As ``averted``, by who knows what each service's faults cost in each window; not how long they will last."""
    true = true_costs(costs)
    return averted(true, true["cost"], faults, costs, budgets)


def averted_in_hindsight(
    faults: pd.DataFrame, costs: pd.DataFrame, budgets: Sequence[int] = REPAIRS
) -> dict[int, float]:
    """About the most that k repairs a day can avert: by who also knows how long each fault will last.

    The repairs are chosen one after another, each the one that averts most of what is left. They are made after a
    window in which the service was ill, as those of ``averted`` are.
    """
    worth = Worth(faults, costs)
    times = zip(faults["otel_service_name"], epoch_ms(faults["start_time"]), epoch_ms(faults["end_time"]))
    moments = {
        (service, window)
        for service, start, end in times
        for window in range(int(start - start % WINDOW_MS), int(end), WINDOW_MS)
    }
    totals = {}
    for k in budgets:
        ended: dict[str, int] = {}
        left: Counter[int] = Counter()  # day -> repairs made

        def gain(service: str, window: int, ended: dict[str, int] = ended) -> float:
            at = window + WINDOW_MS + REPAIR_MS
            return sum(worth.cost_after(fault, at) for fault in worth.on(service, at, ended))

        heap = [(-gain(service, window), window, service) for service, window in moments]
        heapq.heapify(heap)
        while heap:
            _, window, service = heapq.heappop(heap)
            now = gain(service, window)
            if now <= 0 or left[window // DAY_MS] >= k:
                continue
            if heap and now < -heap[0][0]:
                heapq.heappush(heap, (-now, window, service))
                continue
            at = window + WINDOW_MS + REPAIR_MS
            ended.update(dict.fromkeys(worth.on(service, at, ended), at))
            left[window // DAY_MS] += 1
        totals[k] = worth.saved(ended)
    return totals


class Worth:
    """What repairing a service averts, from the counterfactual bill."""

    def __init__(self, faults: pd.DataFrame, costs: pd.DataFrame) -> None:
        self._time = dict(zip(faults["fault_id"], zip(epoch_ms(faults["start_time"]), epoch_ms(faults["end_time"]))))
        self._of = faults.groupby("otel_service_name")["fault_id"].agg(list).to_dict()
        self._costs: dict[str, list[tuple[int, float]]] = {}
        for fault, start, cost in zip(costs["fault_id"], epoch_ms(costs["window_start"]), floats(costs["excess_cost"])):
            self._costs.setdefault(fault, []).append((int(start), float(cost)))

    def on(self, service: str, at: int, ended: Container[str] = ()) -> list[str]:
        """The service's faults that are on at a time, not in ``ended``."""
        return [f for f in self._of.get(service, ()) if self._time[f][0] <= at < self._time[f][1] and f not in ended]

    def is_ill(self, service: str, window_start: int, ended: Container[str]) -> bool:
        """Whether a fault that was not ended is on in the window."""
        return any(
            self._time[f][0] < window_start + WINDOW_MS and window_start < self._time[f][1]
            for f in self._of.get(service, ()) if f not in ended
        )  # fmt: skip

    def saved(self, ended: Mapping[str, int]) -> float:
        """Dollars that ending faults at their times averts."""
        return sum(self.cost_after(fault, at) for fault, at in ended.items())

    def remaining(self, windows: Sequence[int], ended: Mapping[str, int]) -> list[float]:
        """Dollars that faults cost in each window (start, ms) where some are ended at their times."""
        spent = dict.fromkeys(windows, 0.0)
        for fault, of_fault in self._costs.items():
            for window, cost in of_fault:
                kept = cost if fault not in ended else cost - self._after(fault, window, cost, ended[fault])
                spent[window] = spent.get(window, 0.0) + kept
        return [spent[window] for window in windows]

    def cost_after(self, fault: str, at: int) -> float:
        """Within a window, a fault's cost is spread evenly over the time that it is on."""
        return sum(self._after(fault, window, cost, at) for window, cost in self._costs.get(fault, ()))

    def _after(self, fault: str, window: int, cost: float, at: int) -> float:
        start, end = self._time[fault]
        first, last = max(window, start), min(window + WINDOW_MS, end)
        if window >= at:  # also what lingers after the fault has ended
            return cost
        return cost * (last - max(at, first)) / (last - first) if at < last else 0.0


def epoch_ms(times: pd.Series) -> np.ndarray:
    """Times as whole milliseconds since the epoch.  # (len(times),)"""
    return times.to_numpy("datetime64[ms]").astype(np.int64)


def unconserved(allocated: dict[str, Decimal], charged: dict[str, Decimal]) -> Decimal:
    """What is charged and not allocated, or the reverse, over all currencies: 0, or money leaks."""
    return sum(
        (abs(allocated.get(c, Decimal()) - charged.get(c, Decimal())) for c in allocated.keys() | charged.keys()),
        Decimal(),
    )


def weak_labels(
    verdicts: pd.DataFrame,
    ranked: pd.DataFrame,
    labels: pd.DataFrame,
    faults: pd.DataFrame,
    services: int,
) -> Measures:
    """What can be said where only the injections are known (label: positive, negative or ignore).

    Flagged shares of the traces near an injection and of the quiet ones: how often their culprit is
    the injected service; the faults named by their time's verdicts and by the ranking, beside what
    naming any of ``services`` at random would give.
    """
    found = flagged(verdicts, labels["trace_id"])
    positive, negative = (
        (labels["label"] == "positive").to_numpy(),
        (labels["label"] == "negative").to_numpy(),
    )
    culprit = labels["trace_id"].map(verdicts.set_index("trace_id")["culprit_service_name"])
    right = (culprit == labels["culprit_service_name"]).to_numpy() & found
    of_time, of_ranking = culprit_ranks(verdicts, faults), ranking_ranks(ranked, faults)
    measures = {
        "positive traces": float(positive.sum()),
        "positive flagged": _share((found & positive).sum(), positive.sum()),
        "quiet traces": float(negative.sum()),
        "quiet flagged": _share((found & negative).sum(), negative.sum()),
        "right culprit, of positive flagged": _share((right & positive).sum(), (found & positive).sum()),
        "faults": float(len(faults)),
        "faults unnamed": _share(np.isinf(of_time).sum(), len(faults)),
    }
    for top in TOPS:
        measures |= {
            f"AC@{top}": named_share(of_time, top),
            f"AC@{top} ranking": named_share(of_ranking, top),
            f"AC@{top} ranking by chance": ranking_chance(ranked, faults, services, top),
        }
    measures["faults in the ranking"] = _share(np.isfinite(of_ranking).sum(), len(faults))
    by_kind = pd.Series(of_ranking <= max(TOPS)).groupby(faults["anomaly_kind"].to_numpy()).mean()
    return measures | {f"AC@{max(TOPS)} ranking, {kind}": float(share) for kind, share in by_kind.items()}


def floats(money: pd.Series) -> np.ndarray:
    """Decimal money as float64, for measures, never for accounts; NULL is 0."""
    return np.array([0.0 if value is None else float(value) for value in money], float)


# Two-sided 95 % quantiles of Student's t by degrees of freedom (Fisher & Yates, Statistical Tables,
# table III). Between two entries the smaller number of degrees holds, so that the interval is never
# too narrow.
T_95 = {
    1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262,
    10: 2.228, 11: 2.201, 12: 2.179, 13: 2.160, 14: 2.145, 15: 2.131, 16: 2.120, 17: 2.110,
    18: 2.101, 19: 2.093, 20: 2.086, 21: 2.080, 22: 2.074, 23: 2.069, 24: 2.064, 25: 2.060,
    26: 2.056, 27: 2.052, 28: 2.048, 29: 2.045, 30: 2.042, 40: 2.021, 60: 2.000, 120: 1.980,
}  # fmt: skip


def mean_and_interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean of ``values`` (one a seed) and half the width of its 95 % t-interval; NaNs are left out.

    The half-width of a single value is NaN.
    """
    known = np.array([value for value in values if not np.isnan(value)])
    if len(known) < 2:
        return (float(known[0]) if len(known) else float("nan")), float("nan")
    quantile = T_95[max(degrees for degrees in T_95 if degrees <= len(known) - 1)]
    return float(known.mean()), float(quantile * known.std(ddof=1) / np.sqrt(len(known)))

"""What anomalies cost and what knowing it is worth: the bill, the job's own ranking of it, and the arms that rank.

All of it by the functions that the job runs, without the engine. The arms of a ranking have the same verdicts, usage
and bill, and differ in the order alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence, Set
from functools import cached_property
from pathlib import Path

import numpy as np
import orjson
import pandas as pd

from simulator.evaluation.measures import KEYS, Measures, attribution, floats
from udfs.pure import excess
from udfs.pure.attribute import resource_rows
from udfs.pure.case import Case
from udfs.pure.focus import collect_charges
from udfs.pure.irregular import charge_anomalies
from udfs.pure.offline import Consumer, collect_traces, meter_consumers
from udfs.pure.price import cost_by_window, to_units
from udfs.pure.rank import rank_window
from udfs.pure.verdicts import MinuteResult, incidents
from udfs.pure.windows import window_start

# Columns of ranked_anomalies that the evaluation reads.
RANKED = (
    *KEYS, "rank", "anomaly_score", "anomalous_traces", "total_traces", "cost_weighted_score", "attributed_cost",
    "excess_cost", "billed_excess_cost", "billing_currency", "anomaly_kind", "explanation",
)  # fmt: skip

# The arms of a ranking, by what is set beside each other: alone, as the source fuses, as this project does.
AIOPS, FINOPS, NAIVE, SOURCES, S_EXCESS, OURS = (
    "AIOps only", "FinOps only", "naive fusion", "source's S", "S with excess", "excess",
)  # fmt: skip


def knowing(truth: pd.DataFrame) -> Callable[[MinuteResult, Case], MinuteResult]:
    """What turns a judged minute into one that blames whom the truth names; excess is counted as the job does."""
    true = truth[truth["is_anomalous"].astype(bool)].set_index("trace_id")
    culprit_of = true["culprit_service_name"].to_dict()

    def blame(judged: MinuteResult, case: Case) -> MinuteResult:
        result = MinuteResult(judged.minute_ms, service_traces=judged.service_traces, is_final=judged.is_final)
        for row in judged.verdicts:
            culprit = culprit_of.get(row["trace_id"])
            kind = "anomaly" if culprit else None
            of_row = {"is_anomalous": culprit is not None, "culprit_service_name": culprit, "anomaly_kind": kind}
            result.verdicts.append(row | of_row)
        affected = [[row["culprit_service_name"]] for row in result.verdicts if row["is_anomalous"]]
        result.incidents = incidents(result.verdicts, affected, [None] * len(affected))
        excess.tell(result, case)
        return result

    return blame


class Bill:
    """What consumers used and were charged, by resource."""

    def __init__(self, directory: Path, consumers: Sequence[Consumer] | None = None) -> None:
        if consumers is None:
            consumers = list(meter_consumers(directory, collect_traces(directory)[1]))
        self.of_resource: defaultdict[str, list] = defaultdict(list)  # (service, usage by window)
        for consumer in consumers:
            self.of_resource[consumer.resource_id].append((consumer.service, consumer.usage["windows"]))
        self.charges: defaultdict[str, list[dict]] = defaultdict(list)
        for path in sorted((directory / "billing").glob("*.csv")):
            for kind, charge in collect_charges(path):
                if kind == "charge" and isinstance(charge, dict):
                    self.charges[charge["resource_id"]].append(charge)

    @cached_property
    def allocations(self) -> dict[int, list[dict]]:
        """Rows of cost_allocations by window."""
        by_window: dict[int, list[dict]] = defaultdict(list)
        for resource_id in sorted(self.of_resource.keys() | self.charges.keys()):
            rows = resource_rows(resource_id, self.of_resource[resource_id], self.charges[resource_id])
            for window_ms, found in rows.items():
                by_window[window_ms] += found
        return by_window

    def irregular(self) -> pd.DataFrame:
        """The bill's irregularities on those who bear them: (window_start, otel_service_name, merit in dollars)."""
        periods: defaultdict[tuple, dict[int, tuple[int, int]]] = defaultdict(dict)
        for charge in (charge for charges in self.charges.values() for charge in charges):
            period = charge["start_ms"], charge["end_ms"]
            for window_ms, by_dimension in cost_by_window(charge).items():
                for dimension in by_dimension:
                    of = periods[charge["resource_id"], dimension, charge["currency"]]
                    of[window_ms] = min(period, of.get(window_ms, period), key=lambda of: (of[1] - of[0], of[0]))
        costs: defaultdict[tuple, dict[int, int]] = defaultdict(dict)
        shares: defaultdict[tuple, list[tuple[str, float]]] = defaultdict(list)
        for window_ms, found in self.allocations.items():
            for row in found:
                key = row["resource_id"], row["dimension"], row["billing_currency"]
                costs[key][window_ms] = to_units(row["resource_cost"])
                shares[key, window_ms].append((row["otel_service_name"], row["share"]))
        rows = []
        for key, by_window in costs.items():
            for odd in charge_anomalies(*key, by_window, periods[key]):
                gain = float(odd["billed_cost"] - odd["expected_cost"])
                for service, share in shares[key, odd["window_start"]]:
                    rows.append((odd["window_start"], service, gain * share))
        table = pd.DataFrame(rows, columns=[*KEYS, "merit"])
        table = table.groupby(KEYS, as_index=False)["merit"].sum()
        table["window_start"] = pd.to_datetime(table["window_start"], unit="ms", utc=True)
        return table


def with_namespace(table: pd.DataFrame, services: Set[str]) -> pd.DataFrame:
    """A table of the truth with services named as the telemetry names them: some truths leave namespaces out.

    A name that the telemetry has stays, as does one that none or several services of it have without namespace.
    """
    full: dict[str, list[str]] = defaultdict(list)
    for name in sorted(services):
        full[name.rsplit("/", 1)[-1]].append(name)
    table = table.copy()
    for column in table.columns.intersection(["otel_service_name", "culprit_service_name"]):
        table[column] = [
            full[name][0] if name not in services and len(full.get(name, ())) == 1 else name for name in table[column]
        ]
    return table


def spent(ranked: pd.DataFrame) -> pd.DataFrame:
    """What the rows' excess cost is of, by the service at which it arises: (window_start, otel_service_name,
    billing_currency, excess_cost)."""
    return pd.DataFrame(
        [
            (row.window_start, element["x_OtelServiceName"], row.billing_currency, element["x_Cost"])
            for row in ranked.itertuples()
            for element in orjson.loads(row.explanation)["x_ExcessUsage"]
        ],
        columns=[*KEYS, "billing_currency", "excess_cost"],
    )


def excess_measures(ranked: pd.DataFrame, faults: pd.DataFrame, costs: pd.DataFrame) -> Measures:
    """How well the excess cost of ranked_anomalies is known: the measures of ``attribution``, and A by cause, which
    counts at a fault's culprit what it costs at any service."""
    culprit = dict(zip(faults["fault_id"], faults["otel_service_name"]))
    caused = costs.assign(otel_service_name=costs["fault_id"].map(culprit))
    # Some truths count a cost at the service where it arises, others at the fault's culprit.
    is_at_culprit = (costs["otel_service_name"] == caused["otel_service_name"]).all()
    found = attribution(ranked if is_at_culprit else spent(ranked), costs, "excess_cost")
    by_cause = attribution(ranked, caused, "excess_cost")
    return found | {"attribution A by cause": by_cause["attribution A"]}


def ranked(results: Sequence[MinuteResult], allocations: Mapping[int, list[dict]]) -> pd.DataFrame:
    """ranked_anomalies of the last word for each minute, by the cost_allocations of each window."""
    by_window: dict[int, list] = defaultdict(list)
    for minute, result in {result.minute_ms: result for result in results}.items():
        by_window[window_start(minute)].append((result.incidents, result.service_traces))
    rows = []
    for window_ms, of_window in sorted(by_window.items()):
        incidents, service_traces = zip(*of_window)
        # As they come out of the engine.
        found = orjson.loads(orjson.dumps(allocations.get(window_ms, []), default=str))
        rows += rank_window(window_ms, incidents, service_traces, found)
    table = pd.DataFrame(rows, columns=list(RANKED))
    table["window_start"] = pd.to_datetime(table["window_start"], unit="ms", utc=True)
    return table


def excess_at(ranked: pd.DataFrame, dimension: str, factor: float) -> pd.Series:
    """Excess cost of each row of ranked_anomalies if a price book had a dimension's price wrong by a factor."""
    totals = []
    for explanation in ranked["explanation"]:
        parts = orjson.loads(explanation)["x_ExcessUsage"]
        totals.append(sum(float(of["x_Cost"]) * (factor if of["x_Dimension"] == dimension else 1) for of in parts))
    return pd.Series(totals, dtype=float)


def merits(ranked: pd.DataFrame) -> dict[str, pd.Series]:
    """By arm, what each row of ranked_anomalies is worth.

    AIOPS: alpha. NAIVE: alpha + ln(1 + c_s), unweighted. SOURCES: alpha * ln(1 + c_s), equation (2). S_EXCESS: the same
    of the excess cost. OURS: the excess cost.
    """
    alpha = ranked["anomaly_score"]
    c_s, excess_cost = (pd.Series(floats(ranked[name])) for name in ("attributed_cost", "excess_cost"))
    return {
        AIOPS: alpha,
        NAIVE: alpha + np.log1p(c_s.clip(lower=0)),
        SOURCES: ranked["cost_weighted_score"],
        S_EXCESS: np.sign(excess_cost) * alpha * np.log1p(excess_cost.abs()),
        OURS: excess_cost,
    }

"""The work of a peer as a plain script: orjson, pandas and pyarrow, one process."""

from __future__ import annotations

import numpy as np
import pandas as pd

from tests.benchmarks.arms import shared
from udfs.pure.dimensions import CUMULATIVE, GAUGE
from udfs.pure.windows import IDLE, UNALLOCATED

OPERATION = ["service", "name"]


def verdicts(spans: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(verdicts by trace, operations) of spans with SPAN_COLUMNS, repeated or not."""
    spans = spans.drop_duplicates(["trace_id", "span_id"])
    duration_ns = spans["end_ns"] - spans["start_ns"]
    children = duration_ns.groupby([spans["trace_id"], spans["parent_span_id"]]).sum().rename("child_ns").reset_index()
    linked = spans.merge(children, how="left", left_on=["trace_id", "span_id"], right_on=["trace_id", "parent_span_id"])
    own_ns = linked["end_ns"] - linked["start_ns"] - linked["child_ns"].fillna(0)
    first_ns = spans.groupby("trace_id")["start_ns"].transform("min").to_numpy()
    timed = pd.DataFrame({
        "trace_id": spans["trace_id"].to_numpy(),
        "service": spans["service"].to_numpy(),
        "name": spans["name"].to_numpy(),
        "minute_ns": first_ns - first_ns % shared.MINUTE_NS,
        "x": np.log(np.maximum(own_ns.to_numpy(), shared.MIN_OWN_NS)),
    })  # fmt: skip
    timed["xx"] = timed["x"] ** 2
    minutes = timed.groupby([*OPERATION, "minute_ns"]).agg(n=("x", "size"), x=("x", "sum"), xx=("xx", "sum"))
    learnt = minutes.groupby(OPERATION).cumsum() - minutes
    learnt = learnt[learnt["n"] >= shared.MIN_SPANS]
    mean = learnt["x"] / learnt["n"]
    variance = np.maximum(learnt["xx"] / learnt["n"] - mean**2, shared.MIN_SD**2)
    usual = pd.DataFrame({"mean": mean, "sd": np.sqrt(variance)}).reset_index()
    scored = timed.merge(usual, how="left", on=[*OPERATION, "minute_ns"])
    scored["z"] = ((scored["x"] - scored["mean"]) / scored["sd"]).fillna(-np.inf)
    worst = scored.loc[scored.groupby("trace_id")["z"].idxmax(), ["trace_id", "service", "z"]].set_index("trace_id")
    is_anomalous = worst["z"] > shared.THRESHOLD
    judged = pd.DataFrame({
        "span_count": scored.groupby("trace_id").size(),
        "score": worst["z"].where(np.isfinite(worst["z"]), 0.0),
        "is_anomalous": is_anomalous,
        "culprit": worst["service"].where(is_anomalous, None),
    }).reset_index()  # fmt: skip
    operations = minutes.groupby(OPERATION).sum()
    return judged, pd.DataFrame({
        "span_count": operations["n"], "mean": operations["x"] / operations["n"]
    }).reset_index()  # fmt: skip


def allocations(points: pd.DataFrame, bill: pd.DataFrame) -> pd.DataFrame:
    """The bill (BILL_COLUMNS) by usage (POINT_COLUMNS)."""
    key = ["window_ns", "resource_id", "dimension"]
    used = _used(points)
    costs = bill.groupby([*key, "currency"], as_index=False)["cost"].sum()
    rows = costs.merge(used.groupby(key)["used"].sum().rename("total").reset_index(), how="left", on=key)
    metered = set(used.groupby(["resource_id", "dimension"]).groups)
    rows["left_to"] = [IDLE if pair in metered else UNALLOCATED for pair in zip(rows["resource_id"], rows["dimension"])]
    rows = rows.merge(used, how="left", on=key)
    is_used = rows["total"] > 0
    rows = rows[is_used | ~rows.duplicated([*key, "currency"])]
    share = (rows["used"] / rows["total"]).where(is_used, 1.0)
    return pd.DataFrame({
        **{column: rows[column] for column in (*key, "currency")},
        "service": rows["service"].where(is_used, rows["left_to"]),
        "allocated_cost": rows["cost"] * share,
    })  # fmt: skip


def _used(points: pd.DataFrame) -> pd.DataFrame:
    """Usage by window, resource, dimension and service, as udfs/pure/meter.py has it."""
    points = points[points["resource_id"] != ""]
    best = points.groupby(["resource_id", "pod", "dimension"])["preference"].transform("min")
    series = ["resource_id", "service", "pod", "dimension", "series", "kind"]
    points = points[points["preference"] == best].groupby([*series, "time_ns"], as_index=False)
    points = points.agg(start_ns=("start_ns", "max"), value=("value", "max"))
    before = points.groupby(series)[["time_ns", "start_ns", "value"]].shift()
    # Times in nanoseconds are no floats: pandas shifts integers to floats where a row has none before it.
    before_ns = points.groupby(series)["time_ns"].shift(fill_value=0).to_numpy()
    has_before = before["time_ns"].notna().to_numpy()
    before_start_ns = points.groupby(series)["start_ns"].shift(fill_value=0).to_numpy()
    before_value = before["value"].to_numpy()
    time_ns, start_ns, value = (points[column].to_numpy() for column in ("time_ns", "start_ns", "value"))
    is_gauge = (points["kind"] == GAUGE).to_numpy()
    is_new = (points["kind"] == CUMULATIVE).to_numpy() & (start_ns > 0) & (start_ns < time_ns)
    is_new &= ~has_before | ((start_ns >= before_ns) & (start_ns != before_start_ns))
    since_ns = np.where(is_new, start_ns, before_ns)
    seconds = (time_ns - before_ns) / 1e9
    delta = np.where(is_new | (value < before_value), value, value - before_value)
    first = np.where(is_gauge, before_value * seconds, delta)
    last = np.where(is_gauge, value * seconds, delta)
    counts = (is_new | has_before) & (time_ns - since_ns <= shared.MAX_GAP_NS)
    pieces = []
    for n in (0, 1):
        window_ns = since_ns - since_ns % shared.WINDOW_NS + n * shared.WINDOW_NS
        in_window = counts & (window_ns < time_ns)
        length_ns = (time_ns - since_ns)[in_window]
        from_ns = (np.maximum(since_ns, window_ns) - since_ns)[in_window]
        to_ns = (np.minimum(time_ns, window_ns + shared.WINDOW_NS) - since_ns)[in_window]
        middle = (from_ns + to_ns) / (2 * length_ns)
        piece = points.loc[in_window, ["resource_id", "dimension", "service"]]
        used = (first[in_window] + (last - first)[in_window] * middle) * ((to_ns - from_ns) / length_ns)
        pieces.append(piece.assign(window_ns=window_ns[in_window], used=used))
    return pd.concat(pieces).groupby(["window_ns", "resource_id", "dimension", "service"], as_index=False)["used"].sum()


def main() -> None:
    """Read, judge, allocate, write."""
    chosen = shared.arguments(__doc__.splitlines()[0])
    judged, operations = verdicts(pd.DataFrame(shared.spans(chosen.input)))
    bill = pd.DataFrame(shared.bill(chosen.input), columns=shared.BILL_COLUMNS)
    allocated = allocations(pd.DataFrame(shared.points(chosen.input)), bill)
    for table, frame in zip(shared.TABLES, (judged, operations, allocated), strict=True):
        frame.to_parquet(chosen.output / f"{table}.parquet", index=False)


if __name__ == "__main__":
    main()

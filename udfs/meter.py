"""meter: usage points to usage by window and minute, and consumers to their owners."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

import orjson
import pandas as pd
from pyflink.table.udf import udf

from udfs.pure.meter import meter as meter_bucket


@udf(result_type="BYTES", func_type="pandas", deterministic=False)
def meter(consumers: pd.Series, fragments: pd.Series) -> pd.Series:
    """consumer (its bucket first), ARRAY<BYTES> usage fragments -> usage by window and minute, as JSON."""
    return pd.Series(
        [
            orjson.dumps(
                meter_bucket(int(consumer.split("\x1f", 1)[0]), list(parts)),
                option=orjson.OPT_NON_STR_KEYS | orjson.OPT_SORT_KEYS,
            )
            for consumer, parts in zip(consumers, fragments, strict=True)
        ]
    )


# STRING, since a bucket's usage is gathered by an aggregate: see udfs.assemble.
@udf(result_type="STRING", func_type="pandas", deterministic=False)
def own(otel_service_names: pd.Series, pods: pd.Series, metered: pd.Series, cost_centers: pd.Series) -> pd.Series:
    """Usage with its owner: JSON [otel_service_name, pod, usage, and the cost centre if there is one]; the name is ''
    where nobody knows it."""
    return pd.Series(
        [
            orjson.dumps([name, pod, orjson.Fragment(usage), *([center] if center else [])]).decode()
            for name, pod, usage, center in zip(otel_service_names, pods, metered, cost_centers, strict=True)
        ]
    )


def _the_one(values: set[str]) -> str | None:
    """The only value that isn't empty; None when there is none, or several that contradict each other."""
    values = values - {""}
    return values.pop() if len(values) == 1 else None


def owner(claims: Sequence[bytes]) -> tuple[str | None, str | None, str | None]:
    """Workload, billed resource and cost centre of a pod, where all claims agree."""
    names, resources, *cost_centers = zip_longest(*map(orjson.loads, claims), fillvalue="")
    return _the_one(set(names)), _the_one(set(resources)), _the_one(set(*cost_centers))


@udf(
    result_type="ROW<otel_service_name STRING, resource_id STRING, cost_center STRING>",
    func_type="pandas",
    deterministic=False,
)
def pod_owner(claims: pd.Series) -> pd.DataFrame:
    """ARRAY<BYTES> of claims, see otlp.merge_owner -> the one of each, NULL where they differ."""
    names, resources, cost_centers = zip(*map(owner, claims), strict=True)
    return pd.DataFrame({"otel_service_name": names, "resource_id": resources, "cost_center": cost_centers})

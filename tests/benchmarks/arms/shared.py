"""What the peers of tests/benchmarks/peers.py share: the rule, in SQL that DuckDB and Spark both read, and the input.

The work of a peer: decode OTLP/JSON, keep each span once, link spans to their children by trace, judge each trace by
the z-scores of its spans' own log times, and allocate the bill by usage. A trace is judged by the minutes before the
one in which it starts; an operation is judged once MIN_SPANS of it are known. A span's own time is its duration less
that of its children, at least MIN_OWN_NS. An operation is a service and a span name, as written.

Peers do less than the job: they check no id and no time, reject nothing (a broken line ends them), read no logs, find
no episodes, rank nothing, and of usage they know only what names its pod, service and billed resource itself. The bill,
a few rows, is read by the job's own code.
"""

from __future__ import annotations

import argparse
import gzip
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from udfs.pure.dimensions import CUMULATIVE, DIMENSIONS, GAUGE
from udfs.pure.focus import collect_charges
from udfs.pure.price import cost_by_window, standing, to_decimal
from udfs.pure.windows import IDLE, MAX_GAP_MS, MINUTE_MS, SYSTEM, UNALLOCATED, UNKNOWN_SERVICE, WINDOW_MS

NS_PER_MS = 1_000_000
MINUTE_NS = MINUTE_MS * NS_PER_MS
WINDOW_NS = WINDOW_MS * NS_PER_MS
MAX_GAP_NS = MAX_GAP_MS * NS_PER_MS

MIN_SPANS = 30  # of an operation, before its spans are judged
MIN_SD = 0.05  # of log times, so that what never varies is no alarm at its first change
THRESHOLD = 5.0  # of a trace's greatest z-score
MIN_OWN_NS = 1000

SYSTEM_NAMESPACES = ("kube-system", "kube-public", "kube-node-lease")

SPAN_COLUMNS = ("trace_id", "span_id", "parent_span_id", "service", "name", "start_ns", "end_ns")
POINT_COLUMNS = (
    "resource_id", "service", "pod", "dimension", "preference", "series", "kind", "start_ns", "time_ns", "value",
)  # fmt: skip
BILL_COLUMNS = ("window_ns", "resource_id", "dimension", "currency", "cost")
NAMESPACE = "service.namespace"


class UsageMetric(NamedTuple):
    """A metric and unit that tells usage; factor: to the dimension's unit."""

    name: str
    unit: str
    dimension: str
    preference: int
    kind: str
    factor: float


USAGE_METRICS = tuple(
    UsageMetric(metric.name, unit, dimension.name, preference, metric.kind, factor)
    for dimension in DIMENSIONS.values()
    for preference, metric in enumerate(dimension.metrics)
    for unit, factor in metric.units.items()
)

# View -> its query, in order; each reads those before it. ``spans`` has SPAN_COLUMNS, each span once.
VERDICT_VIEWS = {
    "traces": f"""
        select trace_id, min(start_ns) - min(start_ns) % {MINUTE_NS} as minute_ns
        from spans
        group by trace_id
    """,
    "children": """
        select trace_id, parent_span_id as span_id, cast(sum(end_ns - start_ns) as bigint) as child_ns
        from spans
        where parent_span_id <> ''
        group by trace_id, parent_span_id
    """,
    "timed": f"""
        select
            s.trace_id, s.service, s.name, t.minute_ns,
            ln(greatest(s.end_ns - s.start_ns - coalesce(c.child_ns, 0), {MIN_OWN_NS})) as x
        from spans as s
        join traces as t on s.trace_id = t.trace_id
        left join children as c on s.trace_id = c.trace_id and s.span_id = c.span_id
    """,
    "minutes": """
        select service, name, minute_ns, count(*) as n, sum(x) as sum_x, sum(x * x) as sum_xx
        from timed
        group by service, name, minute_ns
    """,
    "learnt": """
        select
            service, name, minute_ns,
            sum(n) over before as n, sum(sum_x) over before as sum_x, sum(sum_xx) over before as sum_xx
        from minutes
        window before as (
            partition by service, name order by minute_ns rows between unbounded preceding and 1 preceding
        )
    """,
    "usual": f"""
        select
            service, name, minute_ns, sum_x / n as mean,
            sqrt(greatest(sum_xx / n - (sum_x / n) * (sum_x / n), {MIN_SD**2:e})) as sd
        from learnt
        where n >= {MIN_SPANS}
    """,
    "verdicts": f"""
        select
            trace_id, count(*) as span_count, coalesce(max(z), 0.0e0) as score,
            coalesce(max(z), 0.0e0) > {THRESHOLD:e} as is_anomalous,
            case when max(z) > {THRESHOLD:e} then max_by(service, z) end as culprit
        from (
            select t.trace_id, t.service, (t.x - u.mean) / u.sd as z
            from timed as t
            left join usual as u on t.service = u.service and t.name = u.name and t.minute_ns = u.minute_ns
        ) as scored
        group by trace_id
    """,
    "operations": """
        select service, name, cast(sum(n) as bigint) as span_count, sum(sum_x) / sum(n) as mean
        from minutes
        group by service, name
    """,
}

# ``points`` has POINT_COLUMNS, ``bill`` has BILL_COLUMNS. Usage between two points as in udfs/pure/meter.py; an
# interval is at most a window long, so that it falls in two at most.
ALLOCATION_VIEWS = {
    "readings": """
        select
            resource_id, service, pod, dimension, preference, series, kind, time_ns,
            max(start_ns) as start_ns, max(value) as value,
            min(preference) over (partition by resource_id, pod, dimension) as best
        from points
        where resource_id <> ''
        group by resource_id, service, pod, dimension, preference, series, kind, time_ns
    """,
    "steps": """
        select
            *,
            lag(time_ns) over series_ as before_ns, lag(start_ns) over series_ as before_start_ns,
            lag(value) over series_ as before_value
        from readings
        where preference = best
        window series_ as (partition by resource_id, service, pod, dimension, series, kind order by time_ns)
    """,
    "intervals": f"""
        select
            resource_id, service, dimension, time_ns,
            case when is_new then start_ns else before_ns end as since_ns,
            case
                when kind = '{GAUGE}' then before_value * (time_ns - before_ns) / 1e9
                when is_new or value < before_value then value
                else value - before_value
            end as first_value,
            case
                when kind = '{GAUGE}' then value * (time_ns - before_ns) / 1e9
                when is_new or value < before_value then value
                else value - before_value
            end as last_value
        from (
            select
                *,
                kind = '{CUMULATIVE}' and start_ns > 0 and start_ns < time_ns and (
                    before_ns is null or (start_ns >= before_ns and start_ns <> before_start_ns)
                ) as is_new
            from steps
        ) as marked
    """,
    "pieces": f"""
        select
            resource_id, service, dimension, window_ns, first_value, last_value, time_ns - since_ns as length_ns,
            greatest(since_ns, window_ns) - since_ns as from_ns,
            least(time_ns, window_ns + {WINDOW_NS}) - since_ns as to_ns
        from (
            select i.*, i.since_ns - i.since_ns % {WINDOW_NS} + n.n * {WINDOW_NS} as window_ns
            from intervals as i
            cross join (select 0 as n union all select 1 as n) as n
            where i.time_ns - i.since_ns <= {MAX_GAP_NS}
        ) as windowed
        where window_ns < time_ns
    """,
    "used": """
        select
            window_ns, resource_id, dimension, service,
            sum(
                (first_value + (last_value - first_value) * ((from_ns + to_ns) / (2.0e0 * length_ns)))
                * ((to_ns - from_ns) / (1.0e0 * length_ns))
            ) as used
        from pieces
        group by window_ns, resource_id, dimension, service
    """,
    "totals": """
        select window_ns, resource_id, dimension, sum(used) as total
        from used
        group by window_ns, resource_id, dimension
    """,
    "metered": "select distinct resource_id, dimension from used",
    "costs": """
        select window_ns, resource_id, dimension, currency, sum(cost) as cost
        from bill
        group by window_ns, resource_id, dimension, currency
    """,
    "allocations": f"""
        select
            c.window_ns, c.resource_id, c.dimension, c.currency,
            coalesce(
                u.service, case when m.dimension is null then '{UNALLOCATED}' else '{IDLE}' end
            ) as service,
            c.cost * coalesce(u.used / t.total, 1.0e0) as allocated_cost
        from costs as c
        left join metered as m on c.resource_id = m.resource_id and c.dimension = m.dimension
        left join totals as t
            on c.window_ns = t.window_ns and c.resource_id = t.resource_id and c.dimension = t.dimension
        left join used as u
            on c.window_ns = u.window_ns and c.resource_id = u.resource_id and c.dimension = u.dimension
            and t.total > 0
    """,
}

# What an arm writes: <output>/<table>.parquet.
TABLES = ("verdicts", "operations", "allocations")


def decoded_spans(unnest: str, attribute: Callable[[str, str], str]) -> str:
    """SPAN_COLUMNS of ``requests`` (resourceSpans), as SQL.

    unnest: the engine's function that makes a row of each element; attribute: (attributes, key) -> its text, in SQL.
    """
    name, namespace = attribute("resource.attributes", "service.name"), attribute("resource.attributes", NAMESPACE)
    return f"""
        select
            s.traceId as trace_id, s.spanId as span_id, coalesce(s.parentSpanId, '') as parent_span_id, service,
            s.name as name, cast(s.startTimeUnixNano as bigint) as start_ns, cast(s.endTimeUnixNano as bigint) as end_ns
        from (
            select service, {unnest}(scope.spans) as s
            from (
                select coalesce({_qualified(namespace, name)}, '{UNKNOWN_SERVICE}') as service,
                    {unnest}(scopeSpans) as scope
                from (
                    select entry.resource as resource, entry.scopeSpans as scopeSpans
                    from (select {unnest}(resourceSpans) as entry from requests) as entries
                ) as resources
            ) as scopes
        ) as decoded
    """


def decoded_points(unnest: str, attribute: Callable[[str, str], str]) -> str:
    """POINT_COLUMNS of ``metric_requests`` (resourceMetrics) by ``usage_metrics`` (UsageMetric), as SQL."""

    def of(key: str) -> str:
        return f"nullif({attribute('resource.attributes', key)}, '')"

    namespaces = ", ".join(f"'{namespace}'" for namespace in SYSTEM_NAMESPACES)
    return f"""
        select
            resource_id, service, pod, u.dimension, u.preference, u.kind,
            concat(u.name, ' ', container, ' ', coalesce(cast(p.attributes as string), '')) as series,
            coalesce(cast(p.startTimeUnixNano as bigint), 0) as start_ns,
            cast(p.timeUnixNano as bigint) as time_ns,
            coalesce(p.asDouble, cast(p.asInt as double)) * u.factor as value
        from (
            select resource_id, service, pod, container, metric.name as name, coalesce(metric.unit, '') as unit,
                {unnest}(coalesce(metric.sum.dataPoints, metric.gauge.dataPoints)) as p
            from (
                select resource_id, service, pod, container, {unnest}(scope.metrics) as metric
                from (
                    select
                        coalesce({of("cloud.resource_id")}, {of("host.id")}, {of("k8s.node.name")}, '') as resource_id,
                        coalesce(
                            {_qualified(of(NAMESPACE), of("service.name"))},
                            case when {of("k8s.namespace.name")} in ({namespaces}) then '{SYSTEM}' end,
                            '{UNALLOCATED}'
                        ) as service,
                        coalesce(
                            {of("k8s.pod.uid")}, {_qualified(of("k8s.namespace.name"), of("k8s.pod.name"))}, ''
                        ) as pod,
                        coalesce({of("k8s.container.name")}, {of("container.name")}, '') as container,
                        {unnest}(scopeMetrics) as scope
                    from (
                        select entry.resource as resource, entry.scopeMetrics as scopeMetrics
                        from (select {unnest}(resourceMetrics) as entry from metric_requests) as entries
                    ) as resources
                ) as scopes
            ) as metrics
        ) as decoded
        join usage_metrics as u on decoded.name = u.name and decoded.unit = u.unit
        where case u.name
            when 'k8s.pod.network.io' then {attribute("p.attributes", "direction")} = 'transmit'
            when 'container.blockio.io_serviced_recursive'
            then coalesce({attribute("p.attributes", "operation")}, 'read') in ('read', 'write')
            else true
        end
    """


def _qualified(namespace: str, name: str) -> str:
    """SQL of ``namespace/name``, of the bare name where there is no namespace, NULL where there is no name."""
    return f"case when {namespace} <> '' then concat({namespace}, '/', {name}) else nullif({name}, '') end"


def arguments(description: str) -> argparse.Namespace:
    """``--input`` and ``--output`` of an arm."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--input", required=True, type=Path)
    parser.add_argument("--output", required=True, type=Path)
    return parser.parse_args()


def files(directory: Path, stream: str) -> list[Path]:
    """The files of a stream, by name."""
    return sorted(directory.glob(f"{stream}/*.jsonl*"))


def requests(directory: Path, stream: str) -> Iterator[dict[str, Any]]:
    """The OTLP/JSON requests of a stream, one a line."""
    for path in files(directory, stream):
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
            yield from map(orjson.loads, lines)


def spans(directory: Path) -> dict[str, list]:
    """SPAN_COLUMNS of all spans, as often as they were delivered."""
    columns = trace_ids, span_ids, parents, services, names, starts, ends = [[] for _ in SPAN_COLUMNS]
    for request in requests(directory, "traces"):
        for entry in request["resourceSpans"]:
            service = service_of(attributes(entry["resource"])) or UNKNOWN_SERVICE
            for scope in entry["scopeSpans"]:
                for span in scope["spans"]:
                    trace_ids.append(span["traceId"])
                    span_ids.append(span["spanId"])
                    parents.append(span.get("parentSpanId", ""))
                    services.append(service)
                    names.append(span["name"])
                    starts.append(int(span["startTimeUnixNano"]))
                    ends.append(int(span["endTimeUnixNano"]))
    return dict(zip(SPAN_COLUMNS, columns, strict=True))


def points(directory: Path) -> dict[str, list]:
    """POINT_COLUMNS of all usage points that name their billed resource."""
    metrics = {(metric.name, metric.unit): metric for metric in USAGE_METRICS}
    rows = []
    for request in requests(directory, "metrics"):
        for entry in request["resourceMetrics"]:
            resource = attributes(entry["resource"])
            pod = resource.get("k8s.pod.uid") or (
                f"{resource.get('k8s.namespace.name', '')}/{resource.get('k8s.pod.name', '')}"
            )
            is_system = resource.get("k8s.namespace.name") in SYSTEM_NAMESPACES
            service = service_of(resource) or (SYSTEM if is_system else UNALLOCATED)
            keys = ("cloud.resource_id", "host.id", "k8s.node.name")
            resource_id = next((resource[key] for key in keys if resource.get(key)), "")
            container = resource.get("k8s.container.name") or resource.get("container.name") or ""
            for scope in entry["scopeMetrics"]:
                for metric in scope["metrics"]:
                    usage = metrics.get((metric["name"], metric.get("unit", "")))
                    if usage is None:
                        continue
                    for point in (metric.get("sum") or metric["gauge"])["dataPoints"]:
                        labels = attributes(point)
                        if not _counts(metric["name"], labels):
                            continue
                        rows.append((
                            resource_id,
                            service,
                            pod,
                            usage.dimension,
                            usage.preference,
                            f"{metric['name']} {container} {sorted(labels.items())}",
                            usage.kind,
                            int(point.get("startTimeUnixNano", 0)),
                            int(point["timeUnixNano"]),
                            float(point.get("asDouble", point.get("asInt"))) * usage.factor,
                        ))  # fmt: skip
    return dict(zip(POINT_COLUMNS, map(list, zip(*rows)) if rows else [[] for _ in POINT_COLUMNS], strict=True))


def _counts(metric: str, labels: dict[str, str]) -> bool:
    """Whether a point is none of those that stand beside the ones that count (udfs/pure/otlp.py)."""
    if metric == "k8s.pod.network.io":
        return labels.get("direction") == "transmit"
    if metric == "container.blockio.io_serviced_recursive":
        return labels.get("operation", "read").lower() in ("read", "write")
    return True


def attributes(holder: dict[str, Any]) -> dict[str, str]:
    """The attributes that are text."""
    return {pair["key"]: pair["value"].get("stringValue", "") for pair in holder.get("attributes", ())}


def service_of(resource: dict[str, str]) -> str:
    """The workload that a resource names, "" if none."""
    name, namespace = resource.get("service.name", ""), resource.get("service.namespace")
    return f"{namespace}/{name}" if namespace and name else name


def bill(directory: Path) -> list[tuple[int, str, str, str, float]]:
    """BILL_COLUMNS: the charges that stand, by window and dimension; read by the job's own code."""
    charges = [
        value
        for path in sorted((directory / "billing").glob("*"))
        for kind, value in collect_charges(path)
        if kind == "charge" and isinstance(value, dict)
    ]
    costs: dict[tuple[int, str, str, str], int] = defaultdict(int)
    for charge in standing(charges):
        for window_ms, by_dimension in cost_by_window(charge).items():
            for dimension, units in by_dimension.items():
                costs[window_ms * NS_PER_MS, charge["resource_id"], dimension, charge["currency"]] += units
    return [(*key, float(to_decimal(units))) for key, units in sorted(costs.items())]

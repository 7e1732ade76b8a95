"""Literal telemetry and bills for tests: the least that an emitter writes, as plain records."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

# A Monday noon, at the start of a window and of a bucket of usage.
NOON_MS = int(datetime(2025, 3, 3, 12, tzinfo=UTC).timestamp() * 1000)
SECOND_MS = 1_000
MINUTE_MS = 60_000
HOUR_MS = 3_600_000

CHARGE_COLUMNS = (
    "ResourceId",
    "ChargePeriodStart",
    "ChargePeriodEnd",
    "BilledCost",
    "EffectiveCost",
    "ConsumedQuantity",
    "ConsumedUnit",
    "BillingCurrency",
    "ChargeCategory",
    "ChargeClass",
    "ServiceCategory",
    "ServiceName",
    "SkuId",
    "ProviderName",
    "Tags",
)


def resource(
    otel_service_name: str | None = None,
    pod: str | None = None,
    node: str | None = None,
    namespace: str = "shop",
    more: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """An OTLP resource with the attributes that are given; more: others, by name."""
    attributes = {
        "service.name": otel_service_name,
        "k8s.namespace.name": namespace if pod else None,
        "k8s.pod.name": pod,
        "k8s.node.name": node,
        **(more or {}),
    }
    return {
        "attributes": [
            {"key": key, "value": {"stringValue": value}} for key, value in attributes.items() if value is not None
        ]
    }


def span(
    trace: int, span_id: int, parent: int | None, start_ms: float, duration_ms: float, **more: Any
) -> dict[str, Any]:
    """An OTLP span; ids are small numbers, times are ms."""
    return {
        "traceId": f"{trace:032x}",
        "spanId": f"{span_id:016x}",
        "parentSpanId": "" if parent is None else f"{parent:016x}",
        "name": "GET /",
        "kind": 2,
        "startTimeUnixNano": str(int(start_ms * 1e6)),
        "endTimeUnixNano": str(int((start_ms + duration_ms) * 1e6)),
    } | more


def span_request(*groups: tuple[Mapping, Sequence[Mapping]]) -> dict[str, Any]:
    """An ExportTraceServiceRequest of (resource, spans)."""
    return {"resourceSpans": [{"resource": owner, "scopeSpans": [{"spans": list(spans)}]} for owner, spans in groups]}


def cpu_gauge(owner: Mapping, points: Iterable[tuple[int, float]]) -> dict[str, Any]:
    """An ExportMetricsServiceRequest with k8s.pod.cpu.usage of one pod: (time in ms, cores)."""
    data = [{"timeUnixNano": str(t * 1_000_000), "asDouble": cores} for t, cores in points]
    metric = {"name": "k8s.pod.cpu.usage", "unit": "{cpu}", "gauge": {"dataPoints": data}}
    return {"resourceMetrics": [{"resource": owner, "scopeMetrics": [{"metrics": [metric]}]}]}


def charge(
    resource_id: str | None, start_ms: int, end_ms: int, cost: str, unit: str = "vCPU-Hours", **more
) -> dict[str, str | None]:
    """A FOCUS row."""
    return {
        "ResourceId": resource_id,
        "ChargePeriodStart": iso(start_ms),
        "ChargePeriodEnd": iso(end_ms),
        "BilledCost": cost,
        "EffectiveCost": cost,
        "ConsumedQuantity": "1",
        "ConsumedUnit": unit,
        "BillingCurrency": "USD",
        "ChargeCategory": "Usage",
        "ServiceCategory": "Compute",
        "ServiceName": "Virtual Machines",
        "SkuId": "sku-1",
        "ProviderName": "AWS",
    } | more


def iso(time_ms: int) -> str:
    """RFC 3339 in UTC."""
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def write_lines(path: Path, requests: Iterable[Mapping | bytes]) -> None:
    """One request a line; a name that ends in .gz is compressed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wb") if path.suffix == ".gz" else path.open("wb") as stream:
        for request in requests:
            stream.write(request if isinstance(request, bytes) else json.dumps(request).encode())
            stream.write(b"\n")


def write_bill(path: Path, rows: Iterable[Mapping[str, str | None]]) -> None:
    """A FOCUS export as CSV; None is an empty cell."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = list(rows)
    others = sorted(set().union(*rows) - set(CHARGE_COLUMNS))
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, (*CHARGE_COLUMNS, *others))
        writer.writeheader()
        writer.writerows(rows)

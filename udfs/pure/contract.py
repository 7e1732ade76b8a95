"""The tables of results: columns, types, keys and comments, once.

The sinks' DDL, the columns of the functions, the Parquet schemas, the SQL client's tables and docs/interface.md come
from here; PostgreSQL's migrations are checked against it. A new column is a line here, a value in the function that
computes it, and a migration. ``python -m jobs.contract`` then writes the SQL client's tables and the documentation.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Type(Enum):
    """A column's type: in the engine and its sinks, in PostgreSQL, and as a Python function sends it."""

    TEXT = "string", "text", "STRING"
    JSON = "string", "jsonb", "STRING"
    INTEGER = "bigint", "bigint", "BIGINT"
    REAL = "double", "double precision", "DOUBLE"
    FLAG = "boolean", "boolean", "BOOLEAN"
    NAMES = "array<string>", "text[]", "ARRAY<STRING>"
    TIME = "timestamp_ltz(3)", "timestamptz(3)", "BIGINT"  # sent in ms since 1970, UTC
    MONEY = "decimal(28, 12)", "numeric(28, 12)", "STRING"  # sent as decimal text

    def __init__(self, engine: str, postgres: str, sent: str) -> None:
        self.engine = engine
        self.postgres = postgres
        self.sent = sent


@dataclass(frozen=True)
class Column:
    """A column; it is never null where it is part of the table's key, else it may be."""

    name: str
    type: Type
    comment: str


@dataclass(frozen=True)
class Table:
    """A table of results.

    Attributes:
        name: of the table, of its topic in Kafka, and of its Parquet file.
        comment: what it says.
        grain: what a row is.
        key: its unique columns.
        order: the columns that its Parquet file is sorted by.
    """

    name: str
    comment: str
    grain: str
    key: tuple[str, ...]
    order: tuple[str, ...]
    columns: tuple[Column, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Of the columns, in order."""
        return tuple(column.name for column in self.columns)


TEXT, JSON, INTEGER, REAL, FLAG = Type.TEXT, Type.JSON, Type.INTEGER, Type.REAL, Type.FLAG
NAMES, TIME, MONEY = Type.NAMES, Type.TIME, Type.MONEY

# Columns that several tables share.
_WINDOW_START = Column("window_start", TIME, "Start of the half hour, inclusive")
_WINDOW_END = Column("window_end", TIME, "End of the half hour, exclusive")
_DIMENSION = Column(
    "dimension", TEXT, "What of the resource is charged, for example cpu; other where the charge is for none of them"
)
_CURRENCY = Column("billing_currency", TEXT, "Currency of every amount of the row, ISO 4217")
_COST_STATUS = Column(
    "cost_status",
    TEXT,
    "provisional (before the bill, or before the provider says that the time is complete), billed, or corrected (by a"
    " later bill)",
)
_COST_CENTER = Column(
    "cost_center",
    TEXT,
    "Cost centre of the workload's cost: as the setting cost_centers maps its name, else as its telemetry says"
    " (service.instance.cost_center.id), else as the bill's tags do; null where none is known, or several are",
)
_MODEL = Column("model_version", TEXT, "The detector that judged")

_RANKED_ANOMALIES = Table(
    "ranked_anomalies",
    comment="What each anomaly costs and which to deal with first.",
    grain="a window, culprit and currency",
    key=("anomaly_id",),
    order=("window_start", "rank", "billing_currency", "otel_service_name"),
    columns=(
        Column("anomaly_id", TEXT, "Made of window, culprit and currency; the same in every run"),
        Column(
            "window_start",
            TIME,
            "Start of the half hour, inclusive; a trace belongs to the window in which its first span starts",
        ),
        _WINDOW_END,
        Column("otel_service_name", TEXT, "The culprit: the workload (service.name) at fault"),
        Column("rank", INTEGER, "Within the window and currency; 1 = deal with this first"),
        Column("cost_weighted_score", REAL, "S = sign(c_s) * anomaly_score * ln(1 + |c_s|), c_s = attributed_cost"),
        Column("anomaly_score", REAL, "Alpha: mean score of its anomalous traces * log2(1 + their number)"),
        Column("threshold", REAL, "Theta: the mean of the thresholds that its anomalous traces exceeded"),
        Column("anomalous_traces", INTEGER, "Anomalous traces of the window with this culprit"),
        Column("total_traces", INTEGER, "Traces of the window that the culprit took part in"),
        Column("attributed_cost", MONEY, "c_s: what the culprit cost in the window, in billing_currency"),
        Column(
            "excess_cost",
            MONEY,
            "What the use beyond the usual is worth at the price of one more unit (on a machine: of its capacity),"
            " negative where less was used; null where no price is known",
        ),
        Column(
            "projected_monthly_cost",
            MONEY,
            "excess_cost of 30 days in which the anomaly recurs as often as it did; null where that is unknown",
        ),
        Column(
            "billed_excess_cost",
            MONEY,
            "What of excess_cost changed the bill: all of it where use is charged, 0 on a machine that was paid for"
            " anyway, at most what machines cost that were added",
        ),
        _CURRENCY,
        _COST_STATUS,
        _COST_CENTER,
        Column("anomaly_kind", TEXT, "What kind of fault it looks like"),
        Column("affected_services", NAMES, "Other workloads in its anomalous traces, the most frequent first"),
        Column("exemplar_trace_ids", NAMES, "Its traces of the highest score; trace_id of trace_verdicts"),
        Column(
            "explanation",
            JSON,
            "Every factor from which attributed_cost and cost_weighted_score can be recomputed; in the shape of FOCUS"
            " AllocatedMethodDetails, plus usage and charges",
        ),
        _MODEL,
        Column(
            "updated_at", TIME, "Event time: end of the window, or of the latest charge period that the row rests on"
        ),
    ),
)

_TRACE_VERDICTS = Table(
    "trace_verdicts",
    comment="Whether a trace is anomalous, by how much, and whose fault it is.",
    grain="a trace",
    key=("trace_id",),
    order=("start_time", "trace_id"),
    columns=(
        Column("trace_id", TEXT, "OpenTelemetry trace id, 32 hex digits in lower case"),
        Column("start_time", TIME, "Start of its first span"),
        Column("root_service_name", TEXT, "Workload (service.name) of its root span"),
        Column("root_operation", TEXT, "Name of its root span"),
        Column("span_count", INTEGER, "Spans that arrived, each counted once"),
        Column("anomaly_score", REAL, "How far the trace is off; compare it with threshold"),
        Column("threshold", REAL, "Theta: the score from which on a trace counts as anomalous"),
        Column("is_anomalous", FLAG, "The verdict"),
        Column("culprit_service_name", TEXT, "Workload at fault; null where the trace is not anomalous"),
        Column("culprit_operation", TEXT, "Name of the span at fault; null where the trace is not anomalous"),
        Column("anomaly_kind", TEXT, "What kind of fault it looks like; null where the trace is not anomalous"),
        _MODEL,
        Column("verdict_state", TEXT, "warming (the detector had seen too little to judge) or ready"),
    ),
)

_COST_ALLOCATIONS = Table(
    "cost_allocations",
    comment="Who each charge goes to; the sum of allocated_cost is the sum of the accepted charges.",
    grain="a window, resource, dimension, workload and currency",
    key=("window_start", "resource_id", "dimension", "otel_service_name", "billing_currency"),
    order=("window_start", "resource_id", "dimension", "otel_service_name", "billing_currency"),
    columns=(
        _WINDOW_START,
        Column("resource_id", TEXT, "FOCUS ResourceId; __no_resource__ for charges without one"),
        _DIMENSION,
        Column(
            "otel_service_name",
            TEXT,
            "The workload (service.name); __idle__ for what nobody used, __system__ for what the cluster itself used,"
            " __unallocated__ for what belongs to no known workload",
        ),
        Column(
            "usage",
            REAL,
            "Its usage in the window, in the dimension's unit (core-seconds of cpu); null where none was measured",
        ),
        Column(
            "total_usage", REAL, "Usage of the resource by all workloads in the window; null where it was not measured"
        ),
        Column("share", REAL, "The part of resource_cost that it bears, 0 to 1"),
        Column("resource_cost", MONEY, "What the resource and dimension cost in the window, in billing_currency"),
        Column("allocated_cost", MONEY, "share of resource_cost, the last decimal by largest remainder"),
        _CURRENCY,
        _COST_STATUS,
        _COST_CENTER,
    ),
)

_CHARGE_ANOMALIES = Table(
    "charge_anomalies",
    comment="Irregularities in the bill itself, found without traces.",
    grain="a window, resource, dimension and currency",
    key=("window_start", "resource_id", "dimension", "billing_currency"),
    order=("window_start", "resource_id", "dimension", "billing_currency"),
    columns=(
        _WINDOW_START,
        Column("resource_id", TEXT, "FOCUS ResourceId"),
        _DIMENSION,
        _WINDOW_END,
        Column("billed_cost", MONEY, "What was billed for the window, in billing_currency"),
        Column("expected_cost", MONEY, "The cost that earlier days lead one to expect, in billing_currency"),
        Column("anomaly_score", REAL, "How far billed_cost is from expected_cost, as a robust z-score"),
        _CURRENCY,
    ),
)

_UNIT_COSTS = Table(
    "unit_costs",
    comment="What a request costs; the sum of cost is the sum of cost_allocations.",
    grain="a window, workload, kind of request and currency",
    key=("window_start", "otel_service_name", "root_service_name", "root_operation", "billing_currency"),
    order=("window_start", "root_service_name", "root_operation", "otel_service_name", "billing_currency"),
    columns=(
        _WINDOW_START,
        _WINDOW_END,
        Column(
            "otel_service_name",
            TEXT,
            "The workload that cost it; __idle__, __system__ and __unallocated__ as in cost_allocations",
        ),
        Column(
            "root_service_name",
            TEXT,
            "Workload (service.name) that the requests came to first; __untraced__ where no trace of the window asked"
            " anything of the workload, and for what is no workload its name",
        ),
        Column("root_operation", TEXT, "Their operation there: the name of the root span; empty where there is none"),
        Column(
            "requests",
            INTEGER,
            "Such requests in the window, those that samplers left out among them; null where there is none",
        ),
        Column("cost", MONEY, "What of the workload's cost in the window they caused, in billing_currency"),
        Column("cost_per_request", MONEY, "cost / requests, rounded half to even; null where there is none"),
        _CURRENCY,
        _COST_STATUS,
        _COST_CENTER,
    ),
)

_UNIT_COSTS_BY_ATTRIBUTE = Table(
    "unit_costs_by_attribute",
    comment="What a tenant, customer or feature costs; for each attribute the sum of cost is that of cost_allocations.",
    grain="a window, workload, attribute, value and currency",
    key=("window_start", "attribute_name", "attribute_value", "otel_service_name", "billing_currency"),
    order=("window_start", "attribute_name", "attribute_value", "otel_service_name", "billing_currency"),
    columns=(
        _WINDOW_START,
        _WINDOW_END,
        Column("attribute_name", TEXT, "One of unit_costs.attributes; choose one before you add up"),
        Column(
            "attribute_value",
            TEXT,
            "Its value in the root span, else the greatest in the trace; __none__ where it has none, __other__ beyond"
            " the 200 that most requests have, __untraced__ and what is no workload as in unit_costs",
        ),
        Column(
            "otel_service_name",
            TEXT,
            "The workload that cost it; __idle__, __system__ and __unallocated__ as in cost_allocations",
        ),
        Column(
            "requests",
            INTEGER,
            "Such requests in the window, those that samplers left out among them; null where there is none",
        ),
        Column("cost", MONEY, "What of the workload's cost in the window they caused, in billing_currency"),
        Column("cost_per_request", MONEY, "cost / requests, rounded half to even; null where there is none"),
        _CURRENCY,
        _COST_STATUS,
        _COST_CENTER,
    ),
)

_REJECTED_RECORDS = Table(
    "rejected_records",
    comment="Every input record that could not be used, once, with a reason that a person can act on.",
    grain="a stream, reason and payload",
    key=("stream", "reason", "payload"),
    order=("stream", "reason", "payload"),
    columns=(
        Column(
            "stream",
            TEXT,
            "The input it came by: otlp_spans, otlp_metrics, otlp_logs, focus_charges or incident_feedback",
        ),
        Column("reason", TEXT, "Why it could not be used, and what to do"),
        Column(
            "payload",
            TEXT,
            "The record, whole, in base64 where it is no text; of one that is too long its start; of a file its name",
        ),
        Column("event_time", TIME, "The record's own time; null where it has none"),
        Column("rejected_at", TIME, "When the job rejected it"),
        Column(
            "reason_code",
            TEXT,
            "Why, for programs: unreadable, too_long, invalid, not_used, no_resource, ahead, late, file_skipped or"
            " file_broken",
        ),
    ),
)

_INCIDENTS = Table(
    "incidents",
    comment="What goes on, or went on: windows of one culprit that follow each other, as one thing to deal with.",
    grain="a culprit, currency and run of windows",
    key=("incident_id",),
    order=("opened_at", "otel_service_name", "billing_currency"),
    columns=(
        Column("incident_id", TEXT, "Made of its first window, culprit and currency; the same in every run"),
        Column("otel_service_name", TEXT, "The culprit: the workload (service.name) at fault"),
        Column("culprit_operation", TEXT, "Name of the span at fault in most of its traces"),
        Column("anomaly_kind", TEXT, "What kind of fault most of its traces look like"),
        Column("incident_state", TEXT, "open, or closed: quiet for as long as incident.quiet"),
        Column("opened_at", TIME, "Start of its first anomalous minute"),
        Column("last_seen_at", TIME, "End of its last anomalous minute"),
        Column("closed_at", TIME, "When it had been quiet for as long as incident.quiet; null while it is open"),
        Column("windows", INTEGER, "Its rows of ranked_anomalies"),
        Column("window_start", TIME, "Start of its first window, inclusive"),
        Column("window_end", TIME, "End of its last window, exclusive"),
        Column("anomalous_minutes", INTEGER, "Minutes in which it was seen"),
        Column("anomalous_traces", INTEGER, "Sum of its windows'"),
        Column("total_traces", INTEGER, "Traces of its windows that the culprit took part in"),
        Column("peak_anomaly_score", REAL, "Greatest anomaly_score of its windows"),
        Column("affected_services", NAMES, "Other workloads in its anomalous traces, the most frequent first"),
        Column("attributed_cost", MONEY, "What the culprit cost in its windows, in billing_currency"),
        Column("excess_cost", MONEY, "Sum of its windows'; null where no price is known in any of them"),
        Column("billed_excess_cost", MONEY, "Sum of its windows'; null where no price is known in any of them"),
        Column("excess_cost_per_hour", MONEY, "excess_cost / anomalous_minutes * 60"),
        Column(
            "projected_monthly_cost",
            MONEY,
            "excess_cost of 30 days in which the anomaly recurs as often as it did; null where that is unknown",
        ),
        _CURRENCY,
        Column("cost_status", TEXT, "Of its least settled window: provisional, corrected or billed"),
        _COST_CENTER,
        Column("evidence", TEXT, "What happened, since when, how often and at what cost, in one sentence"),
        Column(
            "changes",
            JSON,
            "What changed at the culprit in the hour before: [{what: version, pods or the price of what it uses, at"
            " (ISO 8601), from, to}]",
        ),
        Column("exemplar_trace_ids", NAMES, "Its traces of the highest score; trace_id of trace_verdicts"),
        Column("exemplar_urls", NAMES, "The same as links, by the setting trace.url; empty where there is none"),
        Column(
            "feedback",
            TEXT,
            "The latest that somebody said of it: expected, planned, false_alarm or fixed; null where nobody did",
        ),
        Column("feedback_by", TEXT, "Who said so"),
        Column("feedback_note", TEXT, "In what words"),
        Column("is_silenced", FLAG, "Whether that says to tell nobody of it: expected, planned or false_alarm"),
        _MODEL,
        Column("updated_at", TIME, "Event time: the latest of its windows' updated_at"),
    ),
)

TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        _RANKED_ANOMALIES,
        _TRACE_VERDICTS,
        _COST_ALLOCATIONS,
        _CHARGE_ANOMALIES,
        _REJECTED_RECORDS,
        _UNIT_COSTS,
        _INCIDENTS,
        _UNIT_COSTS_BY_ATTRIBUTE,
    )
}

"""The keyed stages: what they are made of, and how they stand between the views.

A keyed stage reads the changes of a view, remembers what it needs by key, and sends rows of ``changelog.ROW_TYPE``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from py4j.java_gateway import JavaObject
from pyflink.common import Row, WatermarkStrategy
from pyflink.common.typeinfo import TypeInformation
from pyflink.datastream import DataStream
from pyflink.table import ChangelogMode, DataTypes, Schema, StreamTableEnvironment
from pyflink.table.udf import UserDefinedFunctionWrapper

from jobs.config import Config
from jobs.environment import run_sql
from udfs import assemble, changelog, collect, columns, meter
from udfs.attribute import Attribute, rate_card
from udfs.detect import Detect, DetectAsItComes, DetectAtEnd
from udfs.follow import Follow
from udfs.judge import Judge, judge_slot
from udfs.pure.windows import HOUR_MS
from udfs.rank import Rank

# How long after a window's bill may come its evidence is kept for what restates it: a closed month's corrections.
RANK_KEPT_MS = 7 * 24 * HOUR_MS

# Rows wait so many times shorter for the bundle of a stage than for that of a function that SQL calls: fewer come.
STAGE_IS_PROMPTER = 5
# Where the input ends detect works off all minutes at its end, in bundles of so many timers, not of 1,000: the judges
# have work meanwhile.
DETECT_AT_END_BUNDLE = 32
# ... and is given so many of them at once, not 1,000: one of 300,000 spans has 40 MB, and a message of several takes a
# few times that of the heap.
DETECT_AT_END_BATCH = 4

_BUNDLE_SIZE, _BUNDLE_TIME = "python.fn-execution.bundle.size", "python.fn-execution.bundle.time"
_BATCH_SIZE = "python.map-state.iterate-response-batch-size"

# What SQL calls, by name; what depends on the configuration is in Stages.collect.
FUNCTIONS = {
    "collect_logs": collect.collect_logs,
    "collect_feedback": collect.collect_feedback,
    "reject_columns": collect.reject_columns,
    "assemble": assemble.assemble,
    "meter": meter.meter,
    "own": meter.own,
    "pod_owner": meter.pod_owner,
    "rate_card": rate_card,
    "ranked_rows": columns.ranked_rows,
    "ranked_json": columns.ranked_json,
    "allocations_json": columns.allocations_json,
    "charge_anomalies_json": columns.charge_anomalies_json,
    "verdict_rows": columns.verdict_rows,
    "allocation_rows": columns.allocation_rows,
    "charge_anomaly_rows": columns.charge_anomaly_rows,
    "unit_costs_json": columns.unit_costs_json,
    "unit_cost_rows": columns.unit_cost_rows,
    "unit_costs_by_attribute_json": columns.unit_costs_by_attribute_json,
    "unit_cost_by_attribute_rows": columns.unit_cost_by_attribute_rows,
    "incidents_json": columns.incidents_json,
    "incident_rows": columns.incident_rows,
}


@dataclass(frozen=True)
class Stages:
    """The functions that depend on the configuration."""

    detect: Detect
    judge: Judge
    attribute: Attribute
    rank: Rank
    follow: Follow
    collect: Mapping[str, UserDefinedFunctionWrapper]
    system_namespaces: str
    is_endless: bool
    bundle_ms: int

    def register(self, t_env: StreamTableEnvironment) -> None:
        """Create the functions that SQL calls, and where the input has no end the pulses that keep it awake."""
        for name, function in {**FUNCTIONS, **self.collect}.items():
            t_env.create_temporary_system_function(name, function)
        if self.is_endless:
            run_sql(t_env, "ddl/pulse")

    def awake(self, t_env: StreamTableEnvironment, view: str) -> str:
        """The name of ``view`` with rows in between that say nothing, which an input without end needs."""
        if not self.is_endless:
            return view
        run_sql(t_env, "awake", view)
        return f"{view}_awake"

    def keyed(
        self,
        t_env: StreamTableEnvironment,
        verb: str,
        view: str,
        key: Callable[[Row], object],
        key_type: TypeInformation,
    ) -> DataStream:
        """Send the changes of ``view``, by ``key``, through the stage ``verb``; the rows that it sends.

        The changes carry no watermark but the one that ends a bounded input: mini-batches mark their
        progress in the engine's clock, by watermarks of processing time, which a timer of event time
        would take for the end of the world.
        """
        changes = t_env.to_changelog_stream(t_env.from_path(view))
        unmarked = changes.assign_timestamps_and_watermarks(WatermarkStrategy.no_watermarks())
        return self.processed(unmarked, verb, key, key_type)

    def processed(
        self, sent: DataStream, verb: str, key: Callable[[Row], object], key_type: TypeInformation
    ) -> DataStream:
        """Send rows, by ``key``, through the stage ``verb``; the rows that it sends."""
        return self._staged(sent, sent.key_by(key, key_type), verb)

    def judged(self, detected: DataStream) -> DataStream:
        """Send cases through ``judge``, side by side, off the slot in which ``detect`` works."""
        return self._staged(detected, detected.partition_custom(judge_slot, lambda row: row), "judge")

    def _staged(self, sent: DataStream, dealt: DataStream, verb: str) -> DataStream:
        """Have ``verb`` work on what was ``sent`` as it is ``dealt`` to its slots."""
        stage = dealt.process(getattr(self, verb), changelog.ROW_TYPE).name(verb).uid(verb)
        deals = _dealing(dealt._j_data_stream.getTransformation())
        # One operator of Python's with what stands before it, where that is one of ours.
        deals.setParallelism(sent._j_data_stream.getParallelism())
        for transformation in (deals, stage._j_data_stream.getTransformation()):
            # What an operator was given goes before what the run has (PythonConfigUtil).
            settings = transformation.getOperator().getConfiguration()
            for name, value in self._settings(verb).items():
                settings.setString(name, value)
        return stage

    def _settings(self, verb: str) -> dict[str, str]:
        """The engine's, of one stage."""
        found = {_BUNDLE_TIME: str(self.bundle_ms // STAGE_IS_PROMPTER)}
        if verb == "detect" and not self.is_endless:
            found |= {_BUNDLE_SIZE: str(DETECT_AT_END_BUNDLE), _BATCH_SIZE: str(DETECT_AT_END_BATCH)}
        return found


def _dealing(transformation: JavaObject) -> JavaObject:
    """The operator before the exchange that leads to ``transformation``: it finds the key, or the slot, of a row."""
    while transformation.getClass().getSimpleName() != "PartitionTransformation":
        transformation = transformation.getInputs().get(0)
    return transformation.getInputs().get(0)


def stages_of(configuration: Config) -> Stages:
    """The functions of a run: what has no end sends on what it knows now and then, and forgets."""
    money, pace = configuration.money, None if configuration.bounded else configuration.pace
    skew_ms = configuration.pace.skew_ms
    emit_every_ms = pace.emit_every_ms if pace else None
    detector = configuration.models, configuration.threshold
    collects = collect.collect_charges if isinstance(configuration.input, Path) else collect.collect_charge_records
    return Stages(
        DetectAsItComes(*detector, pace) if pace else DetectAtEnd(*detector, skew_ms),
        Judge(configuration.models, is_endless=pace is not None, traits=configuration.traits),
        Attribute(
            money.wait_ms if pace else None,
            emit_every_ms,
            money.price_book,
            money.idle_policy,
            skew_ms,
            money.corrections_ms,
            money.cost_centers,
        ),
        Rank(
            configuration.rank_by,
            emit_every_ms,
            money.wait_ms + RANK_KEPT_MS if pace else None,
            configuration.traits,
        ),
        Follow(
            configuration.incident_quiet_ms,
            configuration.trace_url,
            emit_every_ms,
            money.wait_ms + money.corrections_ms if pace else None,
        ),
        {
            "collect_spans": collect.collect_spans(configuration.resources, frozenset(configuration.traits)),
            "collect_metrics": collect.collect_metrics(configuration.resources),
            "collect_charges": collects(configuration.cost_column, money.exchange),
        },
        ", ".join(f"'{name}'" for name in money.system_namespaces),
        is_endless=pace is not None,
        bundle_ms=int(configuration.engine[_BUNDLE_TIME]),
    )


def newest(t_env: StreamTableEnvironment, table: str, sent: DataStream) -> None:
    """``table``: the newest row of each kind, time_ms and event_key."""
    schema = _columns().primary_key("kind", "time_ms", "event_key").build()
    t_env.create_temporary_view(table, t_env.from_changelog_stream(sent, schema, ChangelogMode.upsert()))


def each(t_env: StreamTableEnvironment, table: str, sent: DataStream) -> None:
    """``table``: all rows, for what has a key of its own and is never taken back."""
    table_ = t_env.from_changelog_stream(sent, _columns().build(), ChangelogMode.insert_only())
    t_env.create_temporary_view(table, table_)


def _columns() -> Schema.Builder:
    """Of changelog.ROW_TYPE."""
    return (
        Schema.new_builder()
        .column("kind", DataTypes.STRING().not_null())
        .column("time_ms", DataTypes.BIGINT().not_null())
        .column("event_key", DataTypes.STRING().not_null())
        .column("payload", DataTypes.BYTES())
    )

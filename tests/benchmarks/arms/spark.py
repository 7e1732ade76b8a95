"""The work of a peer on Spark Structured Streaming: a file stream, traces as state, one micro-batch on all cores.

All that is there is one micro-batch (availableNow), which is the best that Spark can do for throughput. Traces are
assembled by a stateful aggregation; what follows runs on each batch's traces, as SQL. Metrics and the bill are read
once. Heap and number of partitions suit one machine. Needs a Java of 17 or later with the module jdk.incubator.vector,
which the wheel that brings the job's Java leaves out.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from pyspark import StorageLevel
from pyspark.sql import DataFrame, SparkSession

from tests.benchmarks.arms import shared

CORES = len(os.sched_getaffinity(0))
CACHED = ("timed", "minutes", "used")

_ATTRIBUTES = "attributes array<struct<key: string, value: struct<stringValue: string>>>"
_TRACES = f"""resourceSpans array<struct<
    resource: struct<{_ATTRIBUTES}>,
    scopeSpans: array<struct<spans: array<struct<
        traceId: string, spanId: string, parentSpanId: string, name: string,
        startTimeUnixNano: string, endTimeUnixNano: string
    >>>>
>>"""
_POINTS = f"""struct<dataPoints: array<struct<
    {_ATTRIBUTES}, startTimeUnixNano: string, timeUnixNano: string, asDouble: double, asInt: string
>>>"""
_METRICS = f"""resourceMetrics array<struct<
    resource: struct<{_ATTRIBUTES}>,
    scopeMetrics: array<struct<metrics: array<struct<name: string, unit: string, sum: {_POINTS}, gauge: {_POINTS}>>>>
>>"""


def attribute(attributes: str, key: str) -> str:
    """SQL: the text of the attribute ``key``, or NULL."""
    return f"get(filter({attributes}, a -> a.key = '{key}'), 0).value.stringValue"


def create_views(spark: SparkSession, views: Mapping[str, str]) -> None:
    """Views; those that several others read are kept in memory."""
    for name, query in views.items():
        view = spark.sql(query)
        if name in CACHED:
            view.persist(StorageLevel.MEMORY_ONLY)
        view.createOrReplaceTempView(name)


def write(spark: SparkSession, output: Path, tables: tuple[str, ...]) -> None:
    """Each table as a Parquet dataset."""
    for table in tables:
        spark.table(table).coalesce(1).write.mode("overwrite").parquet(str(output / f"{table}.parquet"))


def main() -> None:
    """Read, judge, allocate, write."""
    chosen = shared.arguments(__doc__.splitlines()[0])
    spark = (
        SparkSession.builder.master(f"local[{CORES}]")
        .config("spark.driver.memory", "4g")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.ui.enabled", "false")
        .config("spark.sql.shuffle.partitions", CORES)
        .config("spark.sql.objectHashAggregate.sortBased.fallbackThreshold", 1 << 20)
        .config("spark.sql.session.timeZone", "UTC")
        .getOrCreate()
    )
    spark.sparkContext.setLogLevel("ERROR")

    def judge(traces: DataFrame, _: int) -> None:
        traces.persist(StorageLevel.MEMORY_ONLY).createOrReplaceTempView("assembled")
        here = traces.sparkSession
        here.sql(
            "select trace_id, s.* from (select trace_id, explode(spans) as s from assembled)"
        ).createOrReplaceTempView("spans")
        create_views(here, shared.VERDICT_VIEWS)
        write(here, chosen.output, ("verdicts", "operations"))

    lines = spark.readStream.text(str(chosen.input / "traces"))
    lines.selectExpr(f"from_json(value, '{_TRACES}') as request").selectExpr("request.*").createOrReplaceTempView(
        "requests"
    )
    columns = ", ".join(column for column in shared.SPAN_COLUMNS if column != "trace_id")
    assembled = spark.sql(
        f"select trace_id, collect_set(struct({columns})) as spans"
        f" from ({shared.decoded_spans('explode', attribute)}) group by trace_id"
    )
    with tempfile.TemporaryDirectory() as checkpoints:
        query = (
            assembled.writeStream.outputMode("update")
            .option("checkpointLocation", checkpoints)
            .trigger(availableNow=True)
            .foreachBatch(judge)
            .start()
        )
        query.awaitTermination()

    metrics = spark.read.text(str(chosen.input / "metrics"))
    metrics.selectExpr(f"from_json(value, '{_METRICS}') as request").selectExpr("request.*").createOrReplaceTempView(
        "metric_requests"
    )
    spark.createDataFrame(
        shared.USAGE_METRICS, "name string, unit string, dimension string, preference int, kind string, factor double"
    ).createOrReplaceTempView("usage_metrics")
    spark.sql(shared.decoded_points("explode", attribute)).createOrReplaceTempView("points")
    spark.createDataFrame(
        shared.bill(chosen.input),
        "window_ns bigint, resource_id string, dimension string, currency string, cost double",
    ).createOrReplaceTempView("bill")
    create_views(spark, shared.ALLOCATION_VIEWS)
    write(spark, chosen.output, ("allocations",))
    spark.stop()


if __name__ == "__main__":
    main()

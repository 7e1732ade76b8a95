"""What the functions count, in the engine's metric system, under the group ``anomaly_cost``.

A number stands for one subtask since it was started: counters begin at 0 again after a failure, and what was
processed twice is counted twice. Register them in ``open``, on the worker.

    name                kind     of        what
    spans_in            counter  collect   spans that can be used
    usage_points_in     counter  collect   usage points that can be used
    rejected            counter  collect   rows that go to rejected_records
    charges_in          counter  attribute charges, late ones among them
    late_charges        counter  attribute charges of windows that wait no more
    late_traces         counter  detect    changes of a minute that was over
    minutes_open        gauge    detect    minutes of traces that are not over
    model_ms            gauge    judge     ms that the last minute took to be judged
    models_left_out     gauge    judge     models in the directory that can't be used; the log says why
    bills_outstanding   gauge    attribute windows of resources whose cost is estimated until the bill comes
    unallocated_micros  gauge    attribute cost of the open windows that nobody's usage explains, in millionths
                                           of the billing currency; a sum over currencies where there are several
"""

from __future__ import annotations

from pyflink.datastream import RuntimeContext
from pyflink.metrics import Counter, MetricGroup
from pyflink.table.udf import FunctionContext

GROUP = "anomaly_cost"


def _group(context: RuntimeContext | FunctionContext) -> MetricGroup:
    """Of a keyed function, or of a UDF: the engine has a name for each."""
    is_keyed = hasattr(context, "get_metrics_group")
    return (context.get_metrics_group() if is_keyed else context.get_metric_group()).add_group(GROUP)


def counter(context: RuntimeContext | FunctionContext, name: str) -> Counter:
    """Goes up by ``inc``; Prometheus sees it from the first one on, be it of 0."""
    return _group(context).counter(name)


class Gauge:
    """A whole number that stands as it was set last."""

    def __init__(self, context: RuntimeContext | FunctionContext, name: str) -> None:
        self.value = 0
        _group(context).gauge(name, lambda: self.value)

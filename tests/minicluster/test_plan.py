"""What the planner makes of the SQL: a Python function runs once a row, however often it is mentioned."""

from __future__ import annotations

import re
from pathlib import Path

from jobs import config, tables
from jobs.anomaly_cost import anomaly_cost
from jobs.environment import free_port, run_sql, start_engine
from jobs.source import charge_files
from udfs.detect import Detect
from udfs.rank import Rank


def test_each_python_function_is_called_once(tmp_path: Path) -> None:
    t_env = start_engine(config.load_engine_settings(), tmp_path / "scratch", free_port())
    run_sql(t_env, "ddl", input=str(tmp_path))
    t_env.create_temporary_view("charge_files", charge_files(t_env, [tmp_path / "bill.csv"]))
    sinks = tables.sink_options(tmp_path)
    inserts = anomaly_cost(t_env, sinks, "EffectiveCost", Detect(None), Rank("excess"), rejected_at_ms=0)
    # What comes before a keyed function is planned apart from the sinks.
    plans = {
        inserts.explain(): (
            "verdict_rows",
            "allocation_rows",
            "ranked_rows",
            "charge_anomaly_rows",
            "reject_columns",
        ),
        t_env.from_path("trace_frames").explain(): ("assemble",),
    }
    for plan, functions in plans.items():
        optimised = plan.split("Optimized Execution Plan")[1]
        # A calc lists its calls; a correlate is one call, which it shows twice.
        calcs = re.findall(r"PythonCalc\(.*", optimised)
        correlates = re.findall(r"PythonCorrelate\(.*", optimised)
        by_function = {
            name: sum(calc.count(f"{name}(") for calc in calcs)
            + sum(f"{name}(" in correlate for correlate in correlates)
            for name in functions
        }
        assert set(by_function.values()) == {1}, by_function

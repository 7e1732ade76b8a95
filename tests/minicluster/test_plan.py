"""What the planner makes of the SQL: a Python function runs once a row, however often it is mentioned."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from jobs import config
from jobs.anomaly_cost import prepare
from jobs.environment import free_port, run_sql, start_engine
from jobs.sinks import Directory


def test_each_python_function_is_called_once(tmp_path: Path) -> None:
    (tmp_path / "traces").mkdir()
    (tmp_path / "traces/a.jsonl").write_text("{}")
    configuration = config.load(["--input", str(tmp_path), "--output", str(tmp_path), "--set", "detector=usual"])
    configuration = replace(configuration, scratch=tmp_path / "scratch")
    t_env = start_engine(configuration.engine, tmp_path / "scratch", free_port())
    inserts = prepare(t_env, configuration, [Directory(tmp_path / "changes")])
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
    t_env.drop_temporary_view("trace_frames")
    run_sql(t_env, "views", "23_trace_frames_as_they_come")
    plans[t_env.from_path("trace_frames").explain()] = ("assemble",)
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

"""What the planner makes of the SQL: each Python function runs once a row, whoever mentions its result."""

from __future__ import annotations

import re
from pathlib import Path

from jobs import config, tables
from jobs.anomaly_cost import anomaly_cost
from jobs.environment import free_port, run_sql, start_engine
from jobs.source import charge_files


def test_each_python_function_is_called_once(tmp_path: Path) -> None:
    t_env = start_engine(config.load_engine_settings(), tmp_path / "scratch", free_port())
    run_sql(t_env, "ddl", input=str(tmp_path))
    t_env.create_temporary_view("charge_files", charge_files(t_env, [tmp_path / "bill.csv"]))
    inserts = anomaly_cost(t_env, tables.sink_options(tmp_path), "EffectiveCost", 0)
    plan = inserts.explain()
    calls = re.findall(r"Python(?:Calc|Correlate)\(.*", plan.split("Optimized Execution Plan")[1])
    by_function = {
        name: sum(name in call for call in calls)
        for name in ("verdict_rows", "allocation_rows", "ranked_rows", "charge_anomaly_rows")
    }
    assert set(by_function.values()) == {1}, by_function

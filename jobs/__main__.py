"""anomaly-cost COMMAND ...: all that a user calls, by one name. From a checkout: ``python -m jobs COMMAND ...``.

A command is a module's ``main(argv, prog)``. It is imported when it is called: so the list of commands comes at once,
and what a command needs beyond the package (the extras in pyproject.toml) is missed by that command alone.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple

NAME = "anomaly-cost"


class Command(NamedTuple):
    """A command of the list.

    Attributes:
        module: has ``main(argv, prog=...)``, which returns the exit status.
        help: one line.
        extra: what brings all that the command needs; None = the package itself, on directories.
    """

    module: str
    help: str
    extra: str | None = None


COMMANDS = {
    "run": Command("jobs.anomaly_cost", "rank the anomalies of traces, metrics, logs and bills by what they cost"),
    "report": Command("jobs.report.page", "write the report of a run as HTML"),
    "export": Command("jobs.export_focus", "write the allocated cost as rows of FOCUS"),
    "doctor": Command("jobs.doctor", "tell what of bill and telemetry did not meet"),
    "bill": Command("jobs.bill", "send what changed in a bill to Kafka", "kafka"),
    "migrate": Command("jobs.migrate", "bring PostgreSQL's tables up to date", "postgres"),
    "connectors": Command("jobs.connectors", "download the engine's connectors for Kafka and PostgreSQL", "kafka"),
    "budgets": Command("jobs.budgets", "tell how budgets stand, and what the month will cost", "budgets"),
    "respond": Command("jobs.respond.__main__", "tell people and programs of incidents, by a policy", "respond"),
    "exporter": Command("jobs.exporter", "serve cost, incidents and budgets to Prometheus", "exporter"),
    "superset": Command("jobs.superset", "write a dashboard that Superset imports", "postgres"),
    "ask": Command("jobs.ask", "answer questions about PostgreSQL's tables, over MCP", "ask"),
    "replay-rejects": Command("jobs.replay_rejects", "send rejected records again"),
    "train": Command("jobs.train_detector", "train a detector on traces of your own", "train"),
    "simulate": Command("simulator.__main__", "simulate a world: telemetry, a bill, and the truth", "simulate"),
    "evaluate": Command("simulator.evaluation.__main__", "set the source's claims beside what is measured", "evaluate"),
    "replay": Command("simulator.load", "send recorded or simulated telemetry to Kafka, on a schedule", "replay"),
}

# Modules that only extras bring: the distribution, and the smallest extra that has it.
EXTRAS = {
    "kafka": ("kafka-python", "kafka"),
    "jgo": ("jgo", "kafka"),
    "psycopg": ("psycopg", "postgres"),
    "requests": ("requests", "respond"),
    "kubernetes": ("kubernetes", "respond"),
    "statsmodels": ("statsmodels", "budgets"),
    "prometheus_client": ("prometheus-client", "exporter"),
    "mcp": ("mcp", "ask"),
    "azure": ("azure-storage-blob", "azure"),
    "matplotlib": ("matplotlib", "evaluate"),
    "scipy": ("scipy", "evaluate"),
    "faker": ("faker", "simulate"),
    "locust": ("locust", "replay"),
    "torch": ("torch", "train"),
    "onnx": ("onnx", "train"),
    "onnxscript": ("onnxscript", "train"),
}


def usage() -> str:
    """What --help shows."""
    width = max(map(len, COMMANDS))
    lines = (f"  {name:{width}}  {command.help}" for name, command in COMMANDS.items())
    return "\n".join([
        f"usage: {NAME} COMMAND ...", "", "What each trace anomaly costs, and which one to deal with first.", "",
        *lines, "", f"{NAME} COMMAND --help tells a command's arguments.",
    ])  # fmt: skip


def missing(name: str, error: ModuleNotFoundError) -> str | None:
    """The line for a module that the command ``name`` lacks; None where no extra brings it."""
    found = EXTRAS.get((error.name or "").partition(".")[0])
    if found is None:
        return None
    distribution, extra = found
    return f"{NAME} {name} needs {distribution}: pip install '{NAME}[{COMMANDS[name].extra or extra}]'"


def main(argv: Sequence[str] | None = None) -> int:
    """Call the command that ``argv`` names.

    Returns:
        Its exit status; 2 for no such command, 1 for a missing extra, each with one line.
    """
    name, *rest = (sys.argv[1:] if argv is None else argv) or [""]
    if name in ("-h", "--help"):
        print(usage())
        return 0
    if name not in COMMANDS:
        told = f"{name}: no such command" if name else "no command"
        print(f"{NAME}: {told} (--help lists them)", file=sys.stderr)
        return 2
    try:
        return import_module(COMMANDS[name].module).main(rest, prog=f"{NAME} {name}")
    except ModuleNotFoundError as error:
        told_missing = missing(name, error)
        if told_missing is None:
            raise
        print(told_missing, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())

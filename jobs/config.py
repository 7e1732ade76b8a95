"""Configuration: one frozen record, and the only reader of argv and of flink-conf.yaml."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import yaml

from jobs.errors import UsageError
from udfs.pure.attribute import IDLE_POLICIES, PROPORTIONAL
from udfs.pure.focus import COST_COLUMNS
from udfs.pure.masked import EPISODES, POLICIES
from udfs.pure.predict import DEFAULT_MODELS, ModelError, Models
from udfs.pure.rank import EXCESS, ORDERS
from udfs.pure.rates import BookPrice, Exchange, load_exchange, load_price_book

ROOT = Path(__file__).resolve().parent.parent
FLINK_CONF = ROOT / "flink-conf.yaml"

MASKED, RULE = "masked", "rule"
DETECTORS = (MASKED, RULE)

# Settings of the job itself; every other --set key is the engine's.
JOB_SETTINGS = {
    # Which FOCUS column is attributed: the amortised cost that FinOps allocates by.
    "cost.column": "EffectiveCost",
    # How long a window of an unbounded input waits for its bill, in event time.
    "billing.wait": "72 h",
    # CSV file of prices for what no bill tells a price of: dimension, unit_price, unit,
    # billing_currency, and if need be resource_id (a glob) and sku_id.
    "prices": "",
    # Who bears what a machine costs beyond its use, where its size is known.
    "idle.policy": PROPORTIONAL,
    # CSV file of exchange rates (from, to, rate, valid_from) into currency.target.
    "currency.rates": "",
    "currency.target": "",
    # What rank 1 has most of: the excess cost of the anomaly, S with it in place of c_s, or S of equation (2).
    "rank.by": EXCESS,
    # Who judges: the masked-span model, or the rule it is compared with.
    "detector": MASKED,
    # Directory of the models, each in force from its card's effective_from on.
    "detector.models": str(DEFAULT_MODELS),
    # How the model's scores become verdicts: episodes, or the source's running mean (ema).
    "detector.threshold": EPISODES,
}

ENGINE_PREFIXES = (
    "execution.",
    "jobmanager.",
    "metrics.",
    "parallelism.",
    "pipeline.",
    "python.",
    "rest.",
    "restart-strategy.",
    "state.",
    "table.",
    "taskmanager.",
)


@dataclass(frozen=True)
class Money:
    """How charges become the cost of a window.

    Attributes:
        wait_ms: how long a window waits for its bill, in event time; only where the input has no end.
        price_book: the user's prices.
        idle_policy: one of attribute.IDLE_POLICIES.
        exchange: converts charges; None = currencies stay as they are billed.
    """

    wait_ms: int = 72 * 3_600_000
    price_book: tuple[BookPrice, ...] = ()
    idle_policy: str = PROPORTIONAL
    exchange: Exchange | None = None


@dataclass(frozen=True)
class Config:
    """What one run of the job does.

    Attributes:
        input: the directory to read (interface.md, section 1).
        output: the directory that the Parquet tables go to (section 3).
        cost_column: the FOCUS column that is attributed.
        money: how charges become cost.
        models: directory of the masked-span models; None = the rule judges.
        threshold: one of masked.POLICIES.
        rank_by: one of rank.ORDERS.
        engine: settings of the engine, flink-conf.yaml overlaid by ``--set``.
    """

    input: Path
    output: Path
    cost_column: str
    money: Money
    models: Path | None
    threshold: str
    rank_by: str
    engine: dict[str, str]


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line; the usage is for --help."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (--help tells the arguments)")


def flatten(tree: dict, prefix: str = "") -> dict[str, str]:
    """Nested YAML as the engine's flat keys: {"table": {"exec": 1}} -> {"table.exec": "1"}."""
    flat: dict[str, str] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        elif isinstance(value, bool):
            flat[prefix + key] = str(value).lower()
        else:
            flat[prefix + key] = str(value)
    return flat


def load_engine_settings(path: Path = FLINK_CONF) -> dict[str, str]:
    """The engine's settings that embedded and cluster runs share."""
    return flatten(yaml.safe_load(path.read_text(encoding="utf-8")))


def _directory(url: str, role: str) -> Path:
    """``url`` as a directory.

    Raises:
        UsageError: it names another kind of place.
    """
    scheme, separator, rest = url.partition("://")
    if separator and scheme != "file":
        raise UsageError(f"--{role} {url}: {scheme}:// is not supported yet, give a directory")
    return Path(rest if separator else url)


def _settings(pairs: list[str]) -> tuple[dict[str, str], dict[str, str]]:
    """``--set`` pairs as (the job's, the engine's)."""
    job, engine = dict(JOB_SETTINGS), {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator or not key or not value:
            raise UsageError(f"--set {pair}: must be KEY=VALUE")
        if key in JOB_SETTINGS:
            job[key] = value
        elif key.startswith(ENGINE_PREFIXES):
            engine[key] = value
        else:
            known = ", ".join([*JOB_SETTINGS, *(f"{p}*" for p in ENGINE_PREFIXES)])
            raise UsageError(f"--set {key}: no such setting, must be one of {known}")
    for key, allowed in (
        ("cost.column", COST_COLUMNS),
        ("idle.policy", IDLE_POLICIES),
        ("rank.by", ORDERS),
        ("detector", DETECTORS),
        ("detector.threshold", POLICIES),
    ):
        if job[key] not in allowed:
            raise UsageError(f"--set {key}={job[key]}: must be one of {', '.join(allowed)}")
    parallelism = engine.get("parallelism.default", "1")
    if not parallelism.isdecimal() or int(parallelism) < 1:
        raise UsageError(
            f"--set parallelism.default={parallelism}: must be a whole number from 1"
        )
    return job, engine


_DURATION = re.compile(r"(\d{1,6}) ?(min|h|d)")
_DURATION_MS = {"min": 60_000, "h": 3_600_000, "d": 86_400_000}


def _money(job: dict[str, str]) -> Money:
    """The settings of money, their files read.

    Raises:
        UsageError: one of them can't be used.
    """
    wait = _DURATION.fullmatch(job["billing.wait"])
    if not wait or not int(wait[1]):
        raise UsageError(f"--set billing.wait={job['billing.wait']}: must be as 90 min, 72 h or 3 d")
    target = job["currency.target"].upper()
    if bool(target) != bool(job["currency.rates"]):
        raise UsageError("--set currency.rates and currency.target: give both or none")
    try:
        return Money(
            wait_ms=int(wait[1]) * _DURATION_MS[wait[2]],
            price_book=load_price_book(Path(job["prices"])) if job["prices"] else (),
            idle_policy=job["idle.policy"],
            exchange=load_exchange(Path(job["currency.rates"]), target) if target else None,
        )
    except ValueError as error:
        raise UsageError(f"--set prices or currency.rates: {error}") from None


def _models(job: dict[str, str]) -> Path | None:
    """The directory of the models, once they were seen to load; None for the rule.

    Raises:
        UsageError: they can't be used.
    """
    if job["detector"] == RULE:
        return None
    directory = Path(job["detector.models"]).resolve()
    try:
        Models(directory)
    except ModelError as error:
        raise UsageError(f"--set detector.models: {error}") from None
    return directory


def load(argv: list[str]) -> Config:
    """The configuration that ``argv`` asks for.

    Raises:
        UsageError: wrong arguments, or an input that is no directory.
    """
    parser = _Parser(
        prog="python -m jobs.anomaly_cost",
        description="Join traces, metrics, logs and bills; rank the anomalies by what they cost.",
    )
    parser.add_argument("--input", required=True, metavar="DIR", help="traces/ metrics/ logs/ billing/")
    parser.add_argument("--output", required=True, metavar="DIR", help="where the Parquet tables go")
    parser.add_argument(
        "--bounded", action="store_true", help="stop at the end of the input (a directory always does)"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the job or the engine"
    )
    arguments = parser.parse_args(argv)
    job, engine = _settings(arguments.set)
    source, target = _directory(arguments.input, "input"), _directory(arguments.output, "output")
    if not source.is_dir():
        raise UsageError(f"--input {source}: no such directory")
    if target.exists() and not target.is_dir():
        raise UsageError(f"--output {target}: is a file, must be a directory")
    return Config(
        input=source.resolve(),
        output=target.resolve(),
        cost_column=job["cost.column"],
        money=_money(job),
        models=_models(job),
        threshold=job["detector.threshold"],
        rank_by=job["rank.by"],
        engine=load_engine_settings() | engine,
    )

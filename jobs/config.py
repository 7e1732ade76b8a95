"""Configuration: one frozen record, and the only reader of argv and of flink-conf.yaml."""

from __future__ import annotations

import re
import sys
from argparse import BooleanOptionalAction
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import yaml

from jobs import pipeline, toml
from jobs.arguments import Parser
from jobs.errors import UsageError
from jobs.kafka import EARLIEST, KAFKA_PREFIX, KafkaInput, client_properties, servers, start_options
from jobs.pipeline import EXAMPLE, Pipeline, Settings
from jobs.resources import ROOT
from udfs.pure.attribute import IDLE_POLICIES, PROPORTIONAL
from udfs.pure.cost_center import NO_COST_CENTERS, CostCenters
from udfs.pure.detect import EPISODES, POLICIES
from udfs.pure.focus import COST_COLUMNS
from udfs.pure.follow import TRACE_ID
from udfs.pure.pace import Pace
from udfs.pure.predict import DEFAULT_MODELS, ModelError, Models
from udfs.pure.rank import EXCESS, ORDERS
from udfs.pure.rates import BookPrice, Exchange, load_exchange, load_price_book
from udfs.pure.resources import NO_ALIASES, Resources, load_aliases, read_trust

PROG = "python -m jobs.anomaly_cost"
FLINK_CONF = ROOT / "flink-conf.yaml"

MASKED, USUAL = "masked", "usual"
DETECTORS = (MASKED, USUAL)
# What USUAL took the place of.
RULE = "rule"

SYSTEM_NAMESPACES = ("kube-system", "kube-public", "kube-node-lease")

# Settings of the job itself; every other --set key is the engine's.
JOB_SETTINGS = {
    # Which FOCUS column is attributed: the amortised cost that FinOps allocates by.
    "cost.column": "EffectiveCost",
    # How far clocks may differ: a record that is further ahead of the others is rejected and moves nothing on.
    "clock.skew": "10 min",
    # How long a window of an unbounded input waits for its usage, and for a bill to be its price, in event time.
    "billing.wait": "72 h",
    # How long a charge may still restate such a window: as long as a closed month is corrected.
    "billing.corrections": "60 d",
    # Where the bill of a directory lies, if not in its folder billing: a folder, s3://, gs:// or abfss://.
    "billing.from": "",
    # CSV file of prices for what no bill tells a price of: dimension, unit_price, unit,
    # billing_currency, and if need be resource_id (a glob) and sku_id.
    "prices": "",
    # Who bears what a machine costs beyond its use, where its size is known.
    "idle.policy": PROPORTIONAL,
    # TOML file with a table [cost_centers], as that of budgets: cost centre = globs of services.
    "cost_centers": "",
    # Namespaces whose pods are the cluster's own, where no service.name says whose they are.
    "system.namespaces": ",".join(SYSTEM_NAMESPACES),
    # CSV file of exchange rates (from, to, rate, valid_from) into currency.target.
    "currency.rates": "",
    "currency.target": "",
    # CSV file of what no rule knows (billed_id, observed_id, and if need be attribute): which telemetry is of which
    # billed resource.
    "resources.aliases": "",
    # Which of the ids that telemetry sends go before the others (resources.ORDER).
    "resources.trust": "",
    # What rank 1 has most of: the excess cost of the anomaly, S with it in place of c_s, what of it is on the bill, or
    # S of equation (2).
    "rank.by": EXCESS,
    # So long a culprit has to be quiet until its incident is closed; a later anomaly is another incident.
    "incident.quiet": "30 min",
    # Where a trace is looked at, with {trace_id} in it: http://HOST:16686/trace/{trace_id}.
    "trace.url": "",
    # Attributes of root spans by which unit costs are told: tenant.id,customer.id,feature.
    "unit_costs.attributes": "",
    # What predicts a span: the masked-span model from the rest of its trace, or its operation's past alone.
    "detector": MASKED,
    # Directory of the models, each in force from its card's effective_from on.
    "detector.models": str(DEFAULT_MODELS),
    # How the model's scores become verdicts: episodes, or the source's running mean (ema).
    "detector.threshold": EPISODES,
}

# Keys of the Kafka client, passed on; the job's own are below.
JOB_SETTINGS |= {
    # Where reading begins: earliest, latest, group, or an ISO time; and the consumer group.
    "kafka.start": EARLIEST,
    "kafka.group": "anomaly_cost",
    # On an input without end: how far event time runs ahead before a minute is over, and how often results go out.
    "lateness": "2 min",
    # After so long without anything new, all that is there is over.
    "idle.after": "3 min",
    "emit.every": "250 ms",
    # How often the state is kept.
    "checkpoint.every": "10 s",
}

# Where the input has no end, rows wait so long at most in each mini-batch, and in each bundle of a function that SQL
# calls; in a bundle of a stage for a part of it (stages.STAGE_IS_PROMPTER). docs/run.md says how often.
AT_ONCE = {"table.exec.mini-batch.allow-latency": "100 ms", "python.fn-execution.bundle.time": "100"}

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
        wait_ms: how long a window waits for its usage, in event time; only where the input has no end.
        corrections_ms: how long a charge may restate a window there.
        price_book: the user's prices.
        idle_policy: one of attribute.IDLE_POLICIES.
        exchange: converts charges; None = currencies stay as they are billed.
        system_namespaces: whose usage is the cluster's own.
        cost_centers: whose budget services' costs are of.
    """

    wait_ms: int = 72 * 3_600_000
    price_book: tuple[BookPrice, ...] = ()
    idle_policy: str = PROPORTIONAL
    exchange: Exchange | None = None
    system_namespaces: tuple[str, ...] = SYSTEM_NAMESPACES
    corrections_ms: int = 60 * 86_400_000
    cost_centers: CostCenters = NO_COST_CENTERS


@dataclass(frozen=True)
class Config:
    """What one run of the job does.

    Attributes:
        input: the directory to read (docs/interface.md, section 1), or the topics.
        outputs: where the tables go (section 3): directories of Parquet, postgresql:// or kafka:// URLs.
        output_told: what a person wrote them after, for messages.
        bounded: the input ends: a directory, or the offsets that stand at the start.
        state: where checkpoints are kept; None = nowhere.
        pace: when a minute is over, on an input without end.
        checkpoint_ms: how often the state is kept.
        cost_column: the FOCUS column that is attributed.
        bill: where the bill lies; None = in the folder billing of the input, or in the topic.
        money: how charges become cost.
        resources: what ties telemetry to billed resources.
        models: directory of the masked-span models; None = what is usual predicts.
        threshold: one of detect.POLICIES.
        rank_by: one of rank.ORDERS.
        incident_quiet_ms: so long a culprit has to be quiet until its incident is closed.
        traits: attributes of spans by which unit costs are told.
        trace_url: of a trace, with {trace_id} in it; empty = incidents have no links.
        engine: the engine's settings: flink-conf.yaml overlaid by AT_ONCE where the input has no end, and by ``--set``.
        kafka_properties: of the Kafka client, secrets among them.
        scratch: the run's own folder, once it runs.
    """

    input: Path | KafkaInput
    outputs: tuple[Path | str, ...]
    bounded: bool
    state: Path | None
    pace: Pace
    checkpoint_ms: int
    cost_column: str
    bill: str | None
    money: Money
    models: Path | None
    threshold: str
    rank_by: str
    engine: dict[str, str]
    incident_quiet_ms: int = 30 * 60_000
    trace_url: str = ""
    traits: tuple[str, ...] = ()
    resources: Resources = NO_ALIASES

    kafka_properties: Mapping[str, str] = field(default_factory=dict, repr=False)
    output_told: str = "--output"
    scratch: Path | None = None

    @property
    def directory(self) -> Path | None:
        """The directory that the Parquet tables go to, if one is among the outputs."""
        return next((output for output in self.outputs if isinstance(output, Path)), None)


def flatten(tree: dict) -> dict[str, str]:
    """Nested YAML as the engine's flat keys: {"table": {"exec": 1}} -> {"table.exec": "1"}."""
    return {key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in pipeline.flat(tree)}


def load_engine_settings(path: Path = FLINK_CONF) -> dict[str, str]:
    """The engine's settings that embedded and cluster runs share."""
    return flatten(yaml.safe_load(path.read_text(encoding="utf-8")))


def _directory(url: str, told: str, kinds: str = "a directory") -> Path:
    """``url`` as a directory.

    told: what a person wrote it after.
    kinds: what may be given.

    Raises:
        UsageError: it names another kind of place.
    """
    scheme, separator, rest = url.partition("://")
    if separator and scheme != "file":
        raise UsageError(f"{told} {url}: {scheme}:// is not known, give {kinds}")
    return Path(rest if separator else url).resolve()


def _output(url: str, told: str) -> Path | str:
    """A directory, or the URL as it is: what can be made of that is told where outputs are opened.

    Raises:
        UsageError: it is a file.
    """
    scheme, separator, _ = url.partition("://")
    if separator and scheme != "file":
        return url
    target = _directory(url, told)
    if target.exists() and not target.is_dir():
        raise UsageError(f"{told} {target}: is a file, must be a directory")
    return target


def _pairs(pairs: list[str]) -> Settings:
    """Of ``--set``."""
    values = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator or not key or not value:
            raise UsageError(f"--set {pair}: must be KEY=VALUE")
        values[key] = value
    return Settings(values)


def _is_job(key: str) -> bool:
    return key in JOB_SETTINGS or key.startswith(KAFKA_PREFIX)


def _settings(told: Settings) -> tuple[Settings, dict[str, str]]:
    """What was told as (the job's, with what wasn't, the engine's)."""
    for key in told.values:
        if not _is_job(key) and not key.startswith(ENGINE_PREFIXES):
            known = ", ".join([*JOB_SETTINGS, "kafka.*", *(f"{p}*" for p in ENGINE_PREFIXES)])
            raise UsageError(f"{told.name(key)}: no such setting, must be one of {known}")
    job = Settings(JOB_SETTINGS) | told.only(_is_job)
    engine = dict(told.only(lambda key: not _is_job(key)).values)
    if job["detector"] == RULE:
        print(f"{job.name('detector')}={RULE} is {USUAL} by now: the detector without its model", file=sys.stderr)
        job |= Settings({"detector": USUAL})
    for key, allowed in (
        ("cost.column", COST_COLUMNS),
        ("idle.policy", IDLE_POLICIES),
        ("rank.by", ORDERS),
        ("detector", DETECTORS),
        ("detector.threshold", POLICIES),
    ):
        if job[key] not in allowed:
            raise job.wrong(key, f"must be one of {', '.join(allowed)}")
    parallelism = engine.get("parallelism.default", "1")
    if not parallelism.isdecimal() or int(parallelism) < 1:
        raise told.wrong("parallelism.default", "must be a whole number from 1")
    return job, engine


_DURATION = re.compile(r"(\d{1,6}) ?(ms|s|min|h|d)")
_DURATION_MS = {"ms": 1, "s": 1_000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}


def _duration(job: Settings, key: str) -> int:
    """A setting's duration in ms.

    Raises:
        UsageError: it is none, or of no length.
    """
    found = _DURATION.fullmatch(job[key])
    if not found or not int(found[1]):
        raise job.wrong(key, "must be as 500 ms, 90 s, 90 min, 72 h or 3 d")
    return int(found[1]) * _DURATION_MS[found[2]]


Read = TypeVar("Read")


def _file(job: Settings, key: str, read: Callable[[Path], Read], otherwise: Read) -> Read:
    """What ``read`` makes of the file that a setting names; ``otherwise`` where it names none.

    Raises:
        UsageError: it can't be used.
    """
    if not job[key]:
        return otherwise
    try:
        return read(Path(job[key]))
    except ValueError as error:
        raise UsageError(f"{job.name(key)}: {error}") from None


# RFC 1123 label, as Kubernetes names namespaces.
_NAMESPACE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def _money(job: Settings) -> Money:
    """The settings of money, their files read.

    Raises:
        UsageError: one of them can't be used.
    """
    target = job["currency.target"].upper()
    if bool(target) != bool(job["currency.rates"]):
        raise UsageError(f"{job.name('currency.rates')} and {job.name('currency.target')}: give both or none")
    namespaces = tuple(job["system.namespaces"].split(","))
    if not all(map(_NAMESPACE.fullmatch, namespaces)):
        raise job.wrong("system.namespaces", "must be names as kube-system,monitoring")
    return Money(
        wait_ms=_duration(job, "billing.wait"),
        corrections_ms=_duration(job, "billing.corrections"),
        price_book=_file(job, "prices", load_price_book, ()),
        idle_policy=job["idle.policy"],
        system_namespaces=namespaces,
        exchange=_file(job, "currency.rates", lambda path: load_exchange(path, target), None),
        cost_centers=_file(
            job, "cost_centers", lambda path: toml.cost_centers(path, job.name("cost_centers")), NO_COST_CENTERS
        ),
    )


def _resources(job: Settings) -> Resources:
    """What ties telemetry to billed resources; the file of aliases is read.

    Raises:
        UsageError: a setting can't be used.
    """
    if not (job["resources.aliases"] or job["resources.trust"]):
        return NO_ALIASES
    try:
        trust = read_trust(job["resources.trust"])
    except ValueError as error:
        raise UsageError(f"{job.name('resources.trust')}: {error}") from None
    return Resources(_file(job, "resources.aliases", load_aliases, ()), trust)


def _trace_url(job: Settings) -> str:
    """Where a trace is looked at.

    Raises:
        UsageError: it has no place for the trace's id.
    """
    url = job["trace.url"]
    if url and TRACE_ID not in url:
        raise job.wrong("trace.url", f"must have {TRACE_ID} in it")
    return url


_TRAIT = re.compile(r"[\w.-]{1,100}")
_TRAITS_MOST = 8


def _traits(job: Settings) -> tuple[str, ...]:
    """Names of attributes, each once.

    Raises:
        UsageError: one is none, or there are too many.
    """
    written = job["unit_costs.attributes"]
    names = tuple(dict.fromkeys(name.strip() for name in written.split(","))) if written else ()
    if not all(map(_TRAIT.fullmatch, names)) or len(names) > _TRAITS_MOST:
        raise job.wrong("unit_costs.attributes", f"must be up to {_TRAITS_MOST} names as tenant.id,feature")
    return names


def _models(job: Settings) -> Path | None:
    """The directory of the models, once they were seen to load; None without a model.

    Raises:
        UsageError: they can't be used.
    """
    if job["detector"] == USUAL:
        return None
    directory = Path(job["detector.models"]).resolve()
    try:
        Models(directory)
    except ModelError as error:
        raise UsageError(f"{job.name('detector.models')}: {error}") from None
    return directory


def _kafka_properties(job: Settings) -> dict[str, str]:
    own = {
        key.removeprefix(KAFKA_PREFIX): value
        for key, value in job.values.items()
        if key.startswith(KAFKA_PREFIX) and key not in JOB_SETTINGS
    }
    return client_properties(own, told=job.name)


def _parser(prog: str) -> Parser:
    parser = Parser(
        prog=prog,
        description="Join traces, metrics, logs and bills; rank the anomalies by what they cost.",
    )
    add = parser.add_argument
    add("--pipeline", metavar="FILE", help=f"TOML that says what the arguments say, which go before it; as {EXAMPLE}")
    add(
        "--input",
        metavar="URL",
        help="directory with traces/ metrics/ logs/ billing/, or kafka://HOST:PORT",
    )
    add(
        "--output",
        action="append",
        default=[],
        metavar="URL",
        help="directory for Parquet tables, postgresql://USER@HOST:PORT/DATABASE or kafka://HOST:PORT; several add up",
    )
    add(
        "--bounded",
        action=BooleanOptionalAction,
        help="stop at the end of the input, as it stands (a directory always does)",
    )
    add("--state", metavar="DIR", help="keep checkpoints here, and go on from the last one")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the job or the engine")
    return parser


def _outputs(told: Pipeline) -> tuple[Path | str, ...]:
    """Where the tables go; raises UsageError: one can't be there, or two can't be together."""
    outputs = tuple(_output(url, told.name("output")) for url in told.output)
    if len(set(outputs)) < len(outputs) or sum(isinstance(output, Path) for output in outputs) > 1:
        raise UsageError(f"{told.name('output')}: one directory at most, and each URL once")
    return outputs


def _input(url: str, told: str, bounded: bool, job: Settings) -> Path | KafkaInput:
    """What is read; ``told``: what a person wrote ``url`` after.

    Raises:
        UsageError: it can't be read.
    """
    if url.startswith("kafka://"):
        start_options(job["kafka.start"], job.name("kafka.start"))
        if job["billing.from"]:
            raise job.wrong("billing.from", "is for a directory; anomaly-cost bill sends a bill to the topic")
        try:
            brokers = servers(url)
        except UsageError as error:
            raise UsageError(f"{told}: {error}") from None
        return KafkaInput(brokers, job["kafka.start"], job["kafka.group"], _kafka_properties(job), bounded)
    source = _directory(url, told, "a directory or kafka://")
    if not source.is_dir():
        raise UsageError(f"{told} {source}: no such directory")
    return source


def load(argv: list[str], prog: str = PROG) -> Config:
    """The configuration that ``argv`` asks for, and the file that it names.

    Raises:
        UsageError: wrong arguments, a wrong file, or an input that is no directory.
    """
    arguments = _parser(prog).parse_args(argv)
    file = pipeline.read(Path(arguments.pipeline)) if arguments.pipeline else Pipeline()
    flags = Pipeline(
        arguments.input, tuple(arguments.output), arguments.bounded, arguments.state, _pairs(arguments.set)
    )
    # Who tells where: arguments go before the file.
    reads, writes, keeps = (flags if getattr(flags, key) else file for key in ("input", "output", "state"))
    bounded = bool(file.bounded if flags.bounded is None else flags.bounded)
    if not (reads.input and writes.output):
        absent = [told.name(key) for told, key in ((reads, "input"), (writes, "output")) if not getattr(told, key)]
        raise UsageError(f"{' and '.join(absent)}: missing (--help tells the arguments)")
    job, engine = _settings(file.settings | flags.settings)
    outputs = _outputs(writes)
    source = _input(reads.input, reads.name("input"), bounded, job)
    if isinstance(source, KafkaInput) and not bounded and any(isinstance(output, Path) for output in outputs):
        raise UsageError(f"{writes.name('output')} {writes.output[0]}: a directory gets its tables at the input's end, "
                         "and Kafka has none; add --bounded, or give postgresql:// or kafka://")  # fmt: skip
    is_bounded = bounded or isinstance(source, Path)
    return Config(
        input=source,
        outputs=outputs,
        bounded=is_bounded,
        state=_directory(keeps.state, keeps.name("state")) if keeps.state else None,
        output_told=writes.name("output"),
        pace=Pace(
            emit_every_ms=_duration(job, "emit.every"),
            lateness_ms=_duration(job, "lateness"),
            idle_ms=_duration(job, "idle.after"),
            skew_ms=_duration(job, "clock.skew"),
        ),  # fmt: skip
        checkpoint_ms=_duration(job, "checkpoint.every"),
        cost_column=job["cost.column"],
        bill=job["billing.from"] or None,
        money=_money(job),
        models=_models(job),
        threshold=job["detector.threshold"],
        rank_by=job["rank.by"],
        incident_quiet_ms=_duration(job, "incident.quiet"),
        trace_url=_trace_url(job),
        traits=_traits(job),
        resources=_resources(job),
        engine=load_engine_settings() | ({} if is_bounded else AT_ONCE) | engine,
        kafka_properties=_kafka_properties(job),
    )

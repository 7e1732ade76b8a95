"""Cost as metrics: what services cost, how settled that is, open incidents, budgets, what waits to be told.

    python -m jobs.exporter --tables postgresql://USER@HOST/DATABASE [--port 9108] [--services 50]

serves /metrics for Prometheus, in OpenMetrics where it asks for that. A scrape asks the tables, at most every ten
seconds and for five seconds at most; where they don't answer there are no figures but anomaly_cost_up 0: old figures
look like new ones. Money is in the currency that the label says, as a float; the tables have every decimal. Services
beyond the costliest are together `__other__`.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from wsgiref.simple_server import WSGIServer

import psycopg
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from jobs.arguments import Parser
from jobs.errors import JobError, UsageError, ended, one_line
from jobs.postgres import FORM, address
from jobs.postgres import connection as connect

PORT = 9108
OTHER = "__other__"
# The longest label value.
_LABEL_CHARS = 200
_AGAIN_S, _TIMEOUT_S = 10.0, 5

# A figure: name, what it says, labels, and the query of labels and value; null values are left out.
_Figure = tuple[str, str, tuple[str, ...], str]

# Of the newest month of budget_status: name, what it says, and its expression there.
_BUDGETS = (
    ("budget_amount", "What the month may cost", "amount"),
    ("budget_spent", "What the month has cost, provisional cost with it", "billed_cost + provisional_cost"),
    ("budget_forecast", "What the month will cost, the median", "forecast_cost"),
    ("budget_forecast_low", "Of twenty months nineteen will cost at least so much", "forecast_low"),
    ("budget_burn_rate", "Share of the budget that is spent / share of the month that is over", "burn_rate"),
)


def _of_budget(name: str, says: str, expression: str) -> _Figure:
    query = (
        f"select budget, billing_currency, {expression} from public.budget_status"
        " where month = (select max(month) from public.budget_status)"
    )
    return name, says, ("budget", "currency"), query


# Of incidents that are open, and that nobody silenced: name, what it says, and its expression there.
_OPEN = (
    ("open_incidents", "Incidents that are open, and that nobody silenced", "count(*)"),
    ("open_incidents_excess_cost", "What open incidents have cost beyond the usual so far", "sum(excess_cost)"),
    (
        "open_incidents_excess_cost_per_hour",
        "What an hour of open incidents costs beyond the usual",
        "sum(excess_cost_per_hour)",
    ),
)


def _of_open(name: str, says: str, expression: str) -> _Figure:
    query = (
        f"select otel_service_name, anomaly_kind, billing_currency, {expression} from public.incidents"
        " where closed_at is null and not is_silenced group by 1, 2, 3"
    )
    return name, says, ("service", "kind", "currency"), query


_DAY = "(select max(window_start) from public.cost_allocations)"
_FIGURES: tuple[_Figure, ...] = (
    (
        "service_cost_last_day",
        "What a workload cost in the 24 hours until the newest window",
        ("service", "currency"),
        f"select otel_service_name, billing_currency, sum(allocated_cost) from public.cost_allocations"
        f" where window_start > {_DAY} - interval '24 hours' group by 1, 2",
    ),
    (
        "cost_center_cost_last_day",
        "What a cost centre's workloads cost in the 24 hours until the newest window; empty = of none that is known",
        ("cost_center", "currency"),
        f"select coalesce(cost_center, ''), billing_currency, sum(allocated_cost) from public.cost_allocations"
        f" where window_start > {_DAY} - interval '24 hours' group by 1, 2",
    ),
    (
        "windows_last_week",
        "Half hours of the week until the newest, by how settled their cost is",
        ("cost_status",),
        "select cost_status, count(distinct window_start) from public.cost_allocations"
        f" where window_start > {_DAY} - interval '7 days' group by 1",
    ),
    (
        "unallocated_share_last_day",
        "Share of the cost of the last 24 hours that belongs to no known workload",
        ("currency",),
        "select billing_currency, coalesce(sum(allocated_cost) filter (where otel_service_name = '__unallocated__'), 0)"
        " / nullif(sum(allocated_cost), 0) from public.cost_allocations"
        f" where window_start > {_DAY} - interval '24 hours' group by 1",
    ),
    *(_of_open(*figure) for figure in _OPEN),
    *(_of_budget(*figure) for figure in _BUDGETS),
    (
        "notifications",
        "Messages of respond that wait, or that a receiver refused for good",
        ("receiver", "state"),
        "select receiver, notification_state, count(*) from anomaly_cost.notifications"
        " where notification_state <> 'sent' group by 1, 2",
    ),
    (
        "newest_window_timestamp_seconds",
        "End of the newest window of cost_allocations, in seconds since 1970",
        (),
        "select extract(epoch from max(window_start) + interval '30 min') from public.cost_allocations",
    ),
)


class CostCollector(Collector):
    """Asks the tables when it is scraped."""

    def __init__(self, url: str, services: int = 50, clock: Callable[[], float] = time.monotonic) -> None:
        """url: of the database. services: how many are told apart in each currency. clock: seconds."""
        self._url, self._services, self._clock = url, services, clock
        self._lock = threading.Lock()
        self._asked_at = float("-inf")
        self._families: list[GaugeMetricFamily] = []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """As the client library asks."""
        with self._lock:
            if self._clock() - self._asked_at >= _AGAIN_S:
                self._families = self._ask()
                self._asked_at = self._clock()
            yield from self._families

    def describe(self) -> list[GaugeMetricFamily]:
        """Nothing is asked of the tables to register."""
        return []

    def _ask(self) -> list[GaugeMetricFamily]:
        up = GaugeMetricFamily("anomaly_cost_up", "Whether the tables answer")
        try:
            options = f"-c statement_timeout={_TIMEOUT_S}s"
            with connect(self._url, "anomaly_cost exporter", options, connect_timeout=_TIMEOUT_S) as connection:
                families = [self._family(connection, *figure) for figure in _FIGURES]
        except psycopg.Error as error:
            print(f"exporter: {one_line(error)}", file=sys.stderr, flush=True)
            up.add_metric([], 0)
            return [up]
        up.add_metric([], 1)
        return [up, *families]

    def _family(
        self, connection: psycopg.Connection, name: str, says: str, labels: tuple[str, ...], query: str
    ) -> GaugeMetricFamily:
        family = GaugeMetricFamily(f"anomaly_cost_{name}", says, labels=labels)
        values = {tuple(map(str, row[:-1])): float(row[-1]) for row in connection.execute(query) if row[-1] is not None}
        if "service" in labels:
            values = bounded(values, labels.index("currency"), self._services)
        for of, value in sorted(values.items()):
            family.add_metric([text[:_LABEL_CHARS] for text in of], value)
        return family


def bounded(values: Mapping[tuple[str, ...], float], currency: int, most: int) -> dict[tuple[str, ...], float]:
    """The greatest of each currency; those of all others are summed under OTHER, service and kind alike.

    currency: its place among the labels; the service comes first.
    """
    by_currency: dict[str, list[tuple[str, ...]]] = defaultdict(list)
    for labels in sorted(values, key=lambda labels: (-abs(values[labels]), labels)):
        by_currency[labels[currency]].append(labels)
    found: dict[tuple[str, ...], float] = {}
    for name, ordered in by_currency.items():
        found |= {labels: values[labels] for labels in ordered[:most]}
        rest: Iterable[tuple[str, ...]] = ordered[most:]
        if ordered[most:]:
            other = tuple(name if place == currency else OTHER for place in range(len(ordered[0])))
            found[other] = found.get(other, 0.0) + sum(values[labels] for labels in rest)
    return found


def serve(url: str, port: int, services: int, host: str = "0.0.0.0") -> tuple[WSGIServer, threading.Thread]:
    """Serve /metrics in a thread. port: 0 = any that is free.

    Raises:
        JobError: the port can't be had.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(CostCollector(url, services))
    try:
        return start_http_server(port, host, registry)
    except OSError as error:
        raise JobError(f"port {port}: {error.strerror}") from None


def main(argv: list[str], prog: str = "python -m jobs.exporter") -> int:
    """Exit status: 0, 2 for wrong use, 1 for what failed, each with one line."""
    parser = Parser(prog=prog, description="Cost, incidents and budgets as metrics for Prometheus.")
    parser.add_argument("--tables", required=True, metavar="URL", help=f"{FORM}; the password comes from PGPASSWORD")
    parser.add_argument("--port", type=int, default=PORT, help=f"default: {PORT}")
    parser.add_argument("--services", type=int, default=50, help="so many are told apart, the costliest; default: 50")
    try:
        arguments = parser.parse_args(argv)
        address(arguments.tables)
        if not 0 <= arguments.port < 1 << 16:
            raise UsageError(f"--port {arguments.port}: must be 0 to 65535")
        if arguments.services < 1:
            raise UsageError(f"--services {arguments.services}: must be 1 or more")
        server, thread = serve(arguments.tables, arguments.port, arguments.services)
        print(f"exporter: http://0.0.0.0:{server.server_port}/metrics", file=sys.stderr, flush=True)
        thread.join()
        return 0
    except (UsageError, JobError) as error:
        return ended("exporter", error)
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Tell people and programs of incidents, by a policy, as they open, cost more, are restated and end.

    python -m jobs.respond --tables postgresql://USER@HOST/DATABASE --policy FILE [--once]
        [--feedback-to kafka://HOST:PORT] [--set kafka.KEY=VALUE ...]

It runs beside the job and reads the table incidents; docs/respond.md has the policy and what each receiver gets. Of
several copies one works, and another goes on where that ends. Passwords and keys come from the environment.
"""

from __future__ import annotations

import random
import signal
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import psycopg
import requests

from jobs.arguments import Parser
from jobs.errors import JobError, UsageError, ended, one_line
from jobs.kafka import FEEDBACK, SETTING_HELP, client_settings, producer, python_settings, servers
from jobs.migrate import migrate
from jobs.postgres import FORM
from jobs.postgres import connection as connect
from jobs.report import format as fmt
from jobs.respond import queue
from jobs.respond.actions import Actions
from jobs.respond.feedback import forward
from jobs.respond.kubernetes import Cluster, KubernetesCluster
from jobs.respond.policy import ALERTMANAGER, Action, Policy, load
from jobs.respond.receivers import Answer, asks, post, request
from jobs.respond.watch import decide

# How often the table is looked at where nobody says that it changed, and how often Alertmanager is told again.
_LOOK_S, _AGAIN_S = 5.0, 60.0
# A database that doesn't answer is asked again after so long.
_DATABASE_S = 5.0
_Results = SimpleQueue[tuple[queue.Queued, Answer] | None]


class Respond:
    """One copy at work on a connection, which commits each statement."""

    def __init__(
        self,
        connection: psycopg.Connection,
        policy: Policy,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        rng: random.Random | None = None,
        tell: Callable[[str], None] = lambda line: print(f"respond: {line}", file=sys.stderr, flush=True),
        cluster: Callable[[], Cluster] = KubernetesCluster,
    ) -> None:
        """now: the clock. rng: of the time between tries. tell: takes a line for people. cluster: connects to
        Kubernetes."""
        self._connection, self._policy, self._now, self._tell = connection, policy, now, tell
        self._rng = rng or random.Random()
        self._actions = Actions(connection, policy, cluster, self._asked, tell)
        self._away: set[str] = set()  # receivers whose last try failed
        self._said_again_at = float("-inf")
        self._feedback_waits = False

    def look(self) -> None:
        """Decide what is to be told, and queue it; go on with the actions."""
        now = self._now()
        incidents = queue.incidents(self._connection)
        told = queue.told(self._connection, [incident["incident_id"] for incident in incidents])
        burning = queue.burning(self._connection)
        decision = decide(self._policy, incidents, told, now, burning)
        queue.write(self._connection, decision.told, decision.messages, now)
        self._actions.look(incidents, now, burning)

    def _asked(self, action: Action, value: str, row: Mapping[str, Any], key: str) -> str | None:
        """Ask a webhook; what it says if it doesn't."""
        receiver = self._policy.receivers[action.receiver]
        with requests.Session() as session:
            answer = post(receiver, asks(receiver, action.name, value, row, key), session, self._now())
        return None if answer.taken else answer.error

    def send(self) -> None:
        """Send what is due, to all receivers side by side, and to each in order."""
        now = self._now()
        waiting = {name: list(queue.due(self._connection, name, now)) for name in self._policy.receivers}
        waiting = {name: messages for name, messages in waiting.items() if messages}
        if not waiting:
            return
        results: _Results = SimpleQueue()
        with ThreadPoolExecutor(len(waiting)) as threads:
            for name, messages in waiting.items():
                threads.submit(self._post_all, name, messages, results)
            ends = 0
            while ends < len(waiting):
                result = results.get()
                if result is None:
                    ends += 1
                else:
                    self._note(*result)

    def _post_all(self, name: str, messages: list[queue.Queued], results: _Results) -> None:
        """Until one isn't taken: those behind it would fare no better."""
        receiver = self._policy.receivers[name]
        try:
            with requests.Session() as session:
                for queued in messages:
                    now = self._now()
                    # A message that is tried again is the same, but for an alert, which lasts from now on.
                    at = now if receiver.kind == ALERTMANAGER else queued.created_at
                    wanted = request(receiver, queued.message, queued.notification_id, at)
                    answer = post(receiver, wanted, session, now)
                    results.put((queued, answer))
                    if not answer.taken and not answer.is_final:
                        break
        finally:
            results.put(None)

    def _note(self, queued: queue.Queued, answer: Answer) -> None:
        name, now = queued.message.receiver, self._now()
        if answer.taken:
            queue.sent(self._connection, queued, now)
            if name in self._away:
                self._away.discard(name)
                self._tell(f"{name} takes messages again")
        elif answer.is_final:
            queue.refused(self._connection, queued, answer.error)
            self._tell(f"{name} refuses message {queued.notification_id}: {answer.error}")
        else:
            queue.failed(self._connection, queued, answer.error, answer.retry_after_s, now, self._rng)
            if name not in self._away:
                self._away.add(name)
                self._tell(f"{name}: {answer.error}; its messages wait, and are tried again")

    def say_again(self, clock_s: float) -> None:
        """Tell those receivers again of what is open that forget what isn't said again."""
        if clock_s - self._said_again_at < _AGAIN_S:
            return
        self._said_again_at = clock_s
        for name, receiver in self._policy.receivers.items():
            if receiver.kind == ALERTMANAGER and name not in self._away:
                with requests.Session() as session:
                    for message in queue.open_alerts(self._connection, name):
                        post(receiver, request(receiver, message, 0, self._now()), session, self._now())

    def forward(self, send: Callable[[list[bytes]], None]) -> None:
        """Send the job what people said; what the broker doesn't take is sent the next time."""
        from kafka.errors import KafkaError

        try:
            forward(self._connection, send)
            self._feedback_waits = False
        except (JobError, KafkaError, OSError) as error:
            if not self._feedback_waits:
                self._tell(f"feedback waits: the broker does not take it ({error})")
            self._feedback_waits = True


def _sender(url: str | None, pairs: list[str]) -> Callable[[list[bytes]], None] | None:
    """Sends records to the topic of feedback. Raises UsageError for a URL or settings that can't be."""
    settings = python_settings(client_settings(pairs))
    if url is None:
        return None
    servers(url)

    def send(records: list[bytes]) -> None:
        client = producer(url, settings)
        try:
            for sent in [client.send(FEEDBACK, record) for record in records]:
                sent.get(timeout=30)
        finally:
            client.close()

    return send


def _work(connection: psycopg.Connection, policy: Policy, send: Callable | None, once: bool) -> None:
    """Until the process is asked to end, or once."""
    if not queue.lead(connection):
        print("respond: another copy is at work, this one waits", file=sys.stderr, flush=True)
        while not queue.lead(connection):
            time.sleep(_DATABASE_S)
    queue.begin(connection)
    respond = Respond(connection, policy)
    connection.execute("listen anomaly_cost_incidents")
    receivers, routes = fmt.counted(len(policy.receivers), "receiver"), fmt.counted(len(policy.routes), "route")
    print(f"respond: tells {receivers} by {routes}", file=sys.stderr, flush=True)
    while True:
        respond.look()
        respond.send()
        respond.say_again(time.monotonic())
        if send:
            respond.forward(send)
        if once:
            return
        for _ in connection.notifies(timeout=_LOOK_S, stop_after=1):
            pass


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def main(argv: list[str], prog: str = "python -m jobs.respond") -> int:
    """Exit status: 0; 2 for wrong use, 1 for what failed, 130 when interrupted; each with one line."""
    parser = Parser(prog=prog, description="Tell people and programs of incidents, by a policy.")
    parser.add_argument("--tables", required=True, metavar="URL", help=f"{FORM}; the password comes from PGPASSWORD")
    parser.add_argument("--policy", required=True, type=Path, metavar="FILE", help="TOML: receivers, routes, teams")
    parser.add_argument("--once", action="store_true", help="look and send once, and end")
    parser.add_argument("--feedback-to", metavar="URL", help="kafka://HOST:PORT of the job, for what people say")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=SETTING_HELP)
    try:
        arguments = parser.parse_args(argv)
        policy = load(arguments.policy)
        send = _sender(arguments.feedback_to, arguments.set)
        migrate(arguments.tables)
        signal.signal(signal.SIGTERM, _interrupt)
        is_away = False
        while True:
            try:
                with connect(arguments.tables, "anomaly_cost respond") as connection:
                    is_away = False
                    _work(connection, policy, send, arguments.once)
                return 0
            except psycopg.OperationalError as error:
                if arguments.once:
                    raise JobError(f"{arguments.tables}: {one_line(error)}") from None
                if not is_away:
                    is_away = True
                    print("respond: the database does not answer; trying again", file=sys.stderr, flush=True)
                time.sleep(_DATABASE_S)
    except (UsageError, JobError, psycopg.Error) as error:
        return ended("respond", error)
    except KeyboardInterrupt:
        print("respond: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""What a run says of an engine that failed: each failure once, and the end where trying again is of no use."""

from __future__ import annotations

import json
import traceback
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from jobs.errors import EngineLost, JobError
from jobs.progress import Progress, reason, unreadable_state
from udfs.pure import versioned


class _Engine(HTTPServer):
    """Answers as the engine's REST interface of a job that failed, again and again."""

    entries: list[dict] = []
    workers: list[dict] = []


class _Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        told = {"exceptionHistory": {"entries": self.server.entries}, "taskmanagers": self.server.workers}
        body = json.dumps(told).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def engine() -> Iterator[_Engine]:
    with _Engine(("127.0.0.1", 0), _Answer) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def _of_a_worker(error: Exception) -> str:
    """The engine's account of an exception in a Python function."""
    told = "".join(traceback.format_exception(error))
    return f"java.lang.RuntimeException: Error received from SDK harness for instruction 7: {told}\n\tat a.b.C(C.java)"


def _newer() -> str:
    with pytest.raises(versioned.StateError) as raised:
        versioned.check("the detector", 99, 1)
    return _of_a_worker(raised.value)


def test_a_failure_is_told_once(engine: _Engine, capsys: pytest.CaptureFixture) -> None:
    progress = Progress(engine.server_port)
    engine.entries = [{"timestamp": 1, "stacktrace": "java.io.IOException: the disk is slow\n\tat a.b"}]
    for _ in range(3):
        progress.tell_failures("job")
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1 and told[0].startswith("anomaly_cost: failed, trying again: ")


def test_state_of_a_newer_version_ends_the_run(engine: _Engine) -> None:
    """The engine would try again for ever."""
    engine.entries = [{"timestamp": 1, "stacktrace": _newer()}]
    with pytest.raises(JobError, match=r"the detector is of version 99.*run the release that wrote it") as raised:
        Progress(engine.server_port).tell_failures("job")
    assert len(str(raised.value).splitlines()) == 1


def looks_until_lost(progress: Progress) -> int:
    """How many it takes without a worker."""
    for look in range(1, 100):
        try:
            progress.look_for_worker()
        except EngineLost:
            return look
    raise AssertionError("it is waited for, for ever")


def test_a_worker_is_lost_sooner_where_one_was_seen_or_something_failed(engine: _Engine) -> None:
    progress = Progress(engine.server_port)
    assert looks_until_lost(progress) == 30
    engine.workers = [{}]
    progress.look_for_worker()
    engine.workers = []
    assert looks_until_lost(progress) == 5
    progress = Progress(engine.server_port)
    engine.entries = [{"timestamp": 1, "stacktrace": "java.io.IOException: the disk is slow"}]
    progress.tell_failures("job")
    assert looks_until_lost(progress) == 5


def test_state_that_a_worker_ended_of_ends_the_run(engine: _Engine) -> None:
    """The engine tells no more than that its worker ended; its log has why."""
    account = (
        "2026-11-29 14:26:50,761 WARN  Join[57] switched to FAILED\njava.lang.RuntimeException: Error while getting"
        " state\n\tat a.b\nCaused by: org.apache.flink.util.StateMigrationException: The new state serializer is other"
    )
    progress = Progress(engine.server_port, lambda: account)
    with pytest.raises(JobError, match="run that release with the same arguments.*The new state serializer is other"):
        looks_until_lost(progress)


@pytest.mark.parametrize("account, told", [
    (_newer(), "the state of the detector is of version 99"),
    (
        "org.apache.flink.util.FlinkException: no\nCaused by: java.lang.IllegalStateException: Failed to rollback to"
        " checkpoint/savepoint file:/s. Cannot map checkpoint/savepoint state for operator a1 to the new program",
        "run that release with the same arguments, or give another folder",
    ),
    (
        "java.lang.Exception: no\nCaused by: org.apache.flink.util.StateMigrationException: The new state serializer"
        " must not be incompatible",
        "run that release with the same arguments, or give another folder",
    ),
])  # fmt: skip
def test_state_that_is_not_readable_has_what_to_do(account: str, told: str) -> None:
    found = unreadable_state(reason(account))
    assert told in found and len(found.splitlines()) == 1


@pytest.mark.parametrize("account", [
    _of_a_worker(ValueError("state")),
    "java.lang.IllegalStateException: the checkpoint was aborted",
])  # fmt: skip
def test_another_failure_is_none_of_the_state(account: str) -> None:
    assert unreadable_state(reason(account)) is None

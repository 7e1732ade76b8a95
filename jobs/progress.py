"""What a run shows while it works, and the one line it leaves when it fails."""

from __future__ import annotations

import json
import re
import shutil
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

from pyflink.table import TableResult

from jobs.errors import EngineLost, JobError
from udfs.pure.versioned import StateError

_POLL_S = 1.0
_BYTES_TO_FINISH = 64 * 1024 * 1024

# After so many looks without a worker the engine doesn't come back by itself; and where none was seen yet.
_LOOKS_WITHOUT_WORKER, _FIRST_LOOKS = 5, 30

# What the engine counts, by how the names of its operators begin.
_COUNTED = {
    "Source: otlp_spans[": "trace fragments",
    "Source: otlp_metrics[": "usage fragments",
    "Source: otlp_logs[": "log fragments",
    "detect": "results of the detector",
    "rank": "windows ranked",
}


# What the engine says where the state is of another program: of stages that this one lacks, or of types that it has
# changed. (What a stage says where a newer version wrote a value says what to do by itself.)
_OF_STATE = ("Cannot map checkpoint/savepoint state", "StateMigrationException")
_OTHER_STAGES = (
    "the checkpoint there is of a release with other stages, or of a run with other outputs; run that release with the"
    " same arguments, or give another folder, and the input is read from where kafka.start says"
)


class Progress:
    """A line on stderr: renewed once a second on a terminal, written every ten seconds elsewhere."""

    def __init__(self, rest_port: int, account: Callable[[], str] = str) -> None:
        """rest_port: of the engine on this machine. account: what it has logged and put out."""
        self._account = account
        self._engine = f"http://127.0.0.1:{rest_port}"
        self._url = f"{self._engine}/jobs"
        self._started = time.monotonic()
        self._shown_s = -10.0
        self._terminal = sys.stderr.isatty()
        self._told_ms = 0
        self._looks_without_worker, self._looks_to_bear = 0, _FIRST_LOOKS

    def show(self, text: str) -> None:
        """Show ``text`` with the seconds gone."""
        elapsed_s = time.monotonic() - self._started
        line = f"anomaly_cost: {elapsed_s:4.0f} s  {text}"
        if self._terminal:
            width = shutil.get_terminal_size().columns
            print(f"\r{line[: width - 1]:<{width - 1}}", end="", file=sys.stderr, flush=True)
        elif elapsed_s - self._shown_s >= 10:
            print(line, file=sys.stderr, flush=True)
            self._shown_s = elapsed_s

    def tell_failures(self, job_id: str) -> None:
        """Say what the engine failed of and is trying again, once each.

        Raises:
            JobError: it failed of the state that it goes on from, which it would do again and again.
        """
        try:
            with urllib.request.urlopen(f"{self._url}/{job_id}/exceptions", timeout=5) as reply:
                entries = json.load(reply)["exceptionHistory"]["entries"]
        except (OSError, ValueError, KeyError):
            return
        for entry in sorted(entries, key=lambda entry: entry["timestamp"]):
            if entry["timestamp"] > self._told_ms:
                self._told_ms = entry["timestamp"]
                self.end()
                why = reason(entry["stacktrace"])
                if told := unreadable_state(why):
                    raise JobError(told)
                self._looks_to_bear = _LOOKS_WITHOUT_WORKER
                print(f"anomaly_cost: failed, trying again: {why}", file=sys.stderr, flush=True)

    def look_for_worker(self) -> None:
        """Count how often in a row there is no worker: an exception while a task was cleaned up ends it.

        Raises:
            EngineLost: there is none any more.
            JobError: it ended of the state that it went on from, as the next one would.
        """
        try:
            with urllib.request.urlopen(f"{self._engine}/taskmanagers", timeout=5) as reply:
                workers = json.load(reply)["taskmanagers"]
        except (OSError, ValueError, KeyError):
            return
        if workers:
            self._looks_without_worker, self._looks_to_bear = 0, _LOOKS_WITHOUT_WORKER
            return
        self._looks_without_worker += 1
        if self._looks_without_worker >= self._looks_to_bear:
            if told := _refused_state(self._account()):
                raise JobError(told)
            raise EngineLost("the engine's worker ended")

    def end(self) -> None:
        """Leave the line as it stands."""
        if self._terminal:
            print(file=sys.stderr)

    def read(self, job_id: str) -> str:
        """What each stage has sent on so far, as the engine's REST interface tells."""
        try:
            with urllib.request.urlopen(f"{self._url}/{job_id}", timeout=5) as reply:
                vertices = json.load(reply)["vertices"]
        except (OSError, ValueError, KeyError):
            return "starting the engine"
        counts = {
            unit: vertex["metrics"].get("write-records", 0)
            for name, unit in _COUNTED.items()
            for vertex in vertices
            if vertex["name"].startswith(name)
        }
        return ", ".join(f"{n:,} {unit}" for unit, n in counts.items() if n) or "reading"


def unreadable_state(why: str) -> str | None:
    """What to do where a ``reason`` is that this program can't read the state that it goes on from; else None."""
    if StateError.__name__ in why:
        return why.partition(": ")[2]
    return f"{_OTHER_STAGES}: {why}" if any(word in why for word in _OF_STATE) else None


def _refused_state(account: str) -> str | None:
    """``unreadable_state`` of what an engine's account says of the state that it goes on from; None if nothing."""
    found = [
        line for line in account.splitlines() if line.startswith("Caused by: ") and any(w in line for w in _OF_STATE)
    ]
    return unreadable_state(reason(found[-1])) if found else None


def reason(text: str) -> str:
    """The one sentence in the engine's stack trace ``text`` that names the cause."""
    python = re.findall(r"^(\w+(?:\.\w+)*(?:Error|Exception|Bill)): (.+)$", text, re.MULTILINE)
    if python and "Traceback (most recent call last)" in text:
        return f"{python[-1][0]}: {python[-1][1]}"
    causes = re.findall(r"^(?:Caused by)?: (?:[\w.$]+\.)?([\w$]+)(?:: (.+))?", text, re.MULTILINE)
    return ": ".join(filter(None, causes[-1])) if causes else text.splitlines()[0]


def wait(result: TableResult, rest_port: int, scratch: Path, told: Path, account: Callable[[], str]) -> None:
    """Wait for the job, showing progress.

    told: the user's name for what ``scratch`` lies in. account: see ``Progress``.

    Raises:
        JobError: the disk that holds ``scratch`` is full, or the state can't be read.
        EngineLost: the engine ended, or its worker.
        Py4JError: the job failed, or the engine is no more.
    """
    progress = Progress(rest_port, account)
    client = result.get_job_client()
    job_id = str(client.get_job_id())
    finished = client.get_job_execution_result()
    try:
        while not finished.done():
            progress.show(progress.read(job_id))
            try:
                progress.tell_failures(job_id)
            except JobError:
                client.cancel().result()
                raise
            if shutil.disk_usage(scratch).free < _BYTES_TO_FINISH:
                client.cancel().result()
                raise JobError(f"{told}: the disk is full")
            progress.look_for_worker()
            time.sleep(_POLL_S)
        finished.result()
    finally:
        progress.end()

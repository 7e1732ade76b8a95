"""What a measured command starts is measured, too."""

from __future__ import annotations

import subprocess
import sys

from tests.benchmarks.measure import _family

CHILD = "import sys; sys.stdin.read()"
# Starts one in its own session and one in another, tells their ids, and waits for its input to end.
COMMAND = f"""
import subprocess, sys
children = [subprocess.Popen([sys.executable, "-c", {CHILD!r}], stdin=subprocess.PIPE, start_new_session=elsewhere)
            for elsewhere in (False, True)]
print(*(child.pid for child in children), flush=True)
sys.stdin.read()
"""


def test_a_process_in_a_session_of_its_own_is_counted() -> None:
    command = [sys.executable, "-c", COMMAND]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        children = set(map(int, process.stdout.readline().split()))
        assert len(children) == 2
        assert _family(process.pid) == {process.pid, *children}
    assert _family(process.pid) == set()

"""The engine's Python workers: forked from one process, as if each were Python's own."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from jobs import workers
from udfs.worker import WORKER

ROOT = Path(__file__).resolve().parents[2]
# It lives until its input ends.
OWNER = """
import sys
from pathlib import Path
from jobs import workers
workers.start(Path(sys.argv[1]))
print(workers.executable(Path(sys.argv[1])), flush=True)
sys.stdin.read()
"""
BOOT = ["-m", WORKER]


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[subprocess.Popen]:
    """A process that has started workers in the test's folder."""
    command = [sys.executable, "-c", OWNER, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline().strip() == str(tmp_path / "python")
        yield process
        process.stdin.close()


def run(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [str(folder / "python"), *arguments], cwd=folder, env=os.environ | environment, capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip


def test_a_worker_is_forked_and_has_the_caller_s_arguments_environment_and_outputs(
    owner: subprocess.Popen, tmp_path: Path
) -> None:
    # The engine's own start of a worker, stopped where it would serve. A new Python would say what it imports.
    environment = {"PYTHON_LOOPBACK_SERVER_ADDRESS": "nowhere:1", "PYTHONVERBOSE": "1"}
    found = run(tmp_path, *BOOT, "--id=7", "--provision_endpoint=nowhere", **environment)
    assert found.returncode == 1
    assert "Initializing Python harness: " in found.stdout and "--id=7" in found.stdout
    assert "_InactiveRpcError" in found.stderr  # it has looked for the address of its environment
    assert "import 'site'" not in found.stderr
    missing = run(tmp_path, *BOOT)
    assert missing.returncode == 1 and "No id provided." in missing.stdout


def test_any_other_call_is_python_s_own(owner: subprocess.Popen, tmp_path: Path) -> None:
    found = run(tmp_path, "-c", "import sys; print(sys.executable, sys.argv[1:])", "a b")
    assert found.stdout == f"{sys.executable} ['a b']\n"


@pytest.mark.parametrize("ends", [lambda owner: owner.stdin.close(), lambda owner: owner.kill()])
def test_what_workers_are_forked_from_ends_with_its_owner_however_that_ends(
    owner: subprocess.Popen, tmp_path: Path, ends: object
) -> None:
    (server,) = psutil.Process(owner.pid).children()
    ends(owner)
    psutil.wait_procs([server], timeout=60)
    assert not server.is_running()
    assert not tmp_path.exists()  # and their folder with it


def test_without_what_workers_are_forked_from_each_imports_for_itself(owner: subprocess.Popen, tmp_path: Path) -> None:
    (server,) = psutil.Process(owner.pid).children()
    server.kill()
    psutil.wait_procs([server], timeout=60)
    found = run(tmp_path, *BOOT, PYTHONVERBOSE="1")
    assert "No id provided." in found.stdout and "import 'site'" in found.stderr


def test_a_worker_ends_with_the_script_that_the_engine_ends(owner: subprocess.Popen, tmp_path: Path) -> None:
    """... however busy it is: here it waits for a server that accepts and says nothing."""
    (server,) = psutil.Process(owner.pid).children()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        command = shlex.join([str(tmp_path / "python"), *BOOT, "--id=7", f"--provision_endpoint={address}"])
        # As pyflink-udf-runner.sh does.
        with subprocess.Popen(["sh", "-c", f"{command} 2>&1 | cat"], cwd=tmp_path, stdout=subprocess.DEVNULL) as script:
            silent.accept()
            (worker,) = server.children()
            script.terminate()
            psutil.wait_procs([worker], timeout=60)
            assert not worker.is_running()
    assert server.is_running()


# An engine that hangs, and one that ends.
ENGINE = """
import subprocess, sys
from pathlib import Path
from jobs import workers
folder = Path(sys.argv[1])
workers.start(folder, engine_ends_s=1.0)
engine = subprocess.Popen([folder / "java", sys.argv[2]])
while Path(f"/proc/{engine.pid}/comm").read_text() != "java\\n":
    pass  # its caller goes on a moment before it has its name
workers.watch(folder)
print(engine.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("hangs", [True, False])
def test_an_engine_that_hangs_is_ended_after_its_command(tmp_path: Path, hangs: bool) -> None:
    shutil.copy("/bin/sleep", tmp_path / "java")
    command = [sys.executable, "-c", ENGINE, str(tmp_path), "600" if hangs else "3"]
    with subprocess.Popen(command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        engine = psutil.Process(int(process.stdout.readline()))
        (server,) = (each for each in psutil.Process(process.pid).children() if each != engine)
        run(tmp_path, *BOOT)  # it has looked for the engine by now
        process.kill()
        psutil.wait_procs([engine, server], timeout=60)
        assert not engine.is_running() and not server.is_running()


def test_who_waits_for_a_worker_ends_with_what_it_was_forked_from(tmp_path: Path) -> None:
    """... and does not become one that nobody ends."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(tmp_path / "workers"))
        server.listen()
        command = [sys.executable, workers.__file__, "ask", str(tmp_path / "workers"), "-c", "print('a worker')"]
        with subprocess.Popen(command, text=True, stdout=subprocess.PIPE) as asker:
            connection, _ = server.accept()
            connection.recv(1)
            connection.close()
            assert asker.communicate(timeout=60) == ("", None) and asker.returncode == 1


def test_a_folder_whose_name_is_too_long_for_a_socket_has_no_workers(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 40)
    folder.mkdir()
    workers.start(folder)
    assert workers.executable(folder) == sys.executable

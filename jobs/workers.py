"""The engine's Python workers, forked from one process that has imported what they need while the engine starts.

The engine calls ``python.executable`` for each worker, which takes two seconds of a core to import Beam and pandas. It
is given a script instead that asks ``serve``, by a socket, to fork itself; what the script was called with, and its
output, are the worker's. Any other call is Python's own.

    engine -> script `python -m pyflink.fn_execution.beam.beam_boot ARGUMENTS` -> socket -> fork -> worker

``serve`` ends after the command and its engine, ends an engine that hangs, and takes their folder away.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

# What a worker imports before it knows which functions it is to call.
_IMPORTED = (
    "apache_beam.portability.api.org.apache.beam.model.fn_execution.v1.beam_fn_api_pb2_grpc",
    "pyflink.fn_execution.beam.beam_sdk_worker_main",
    "pyflink.table",
    "pyflink.datastream",
    "onnxruntime",
)
_SOCKET, _SCRIPT, _ENGINE = "workers", "python", "engine.pid"
_LENGTH_BYTES = 4
# How often ended workers are looked for.
_LOOK_S = 0.5
# How long an engine may take to end when its command is no more; it is three seconds, or for ever.
_ENGINE_ENDS_S = 30.0


def start(folder: Path, engine_ends_s: float = _ENGINE_ENDS_S) -> None:
    """Start the process that workers are forked from; it ends with this one and its engine.

    folder: where the socket and the script go; it goes with the engine. Where its name is too long for a socket, each
        worker imports for itself.
    engine_ends_s: how long the engine (``watch``) may take to end then.
    """
    # Here, for what runs below has no packages (-S).
    from jobs.resources import PYTHON
    from udfs.worker import WORKER

    path, script = folder / _SOCKET, folder / _SCRIPT
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(path))
    except OSError:
        listener.close()
        return
    # Its end tells that this process is no more, however it ended.
    alive, _ = os.pipe()
    # Who comes before everything is imported waits.
    listener.listen(64)
    subprocess.Popen(
        [*PYTHON, "-m", __name__, "serve", str(listener.fileno()), str(alive), str(folder), str(engine_ends_s)],
        pass_fds=(listener.fileno(), alive),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    listener.close()
    os.close(alive)
    python, module = shlex.quote(sys.executable), shlex.quote(str(Path(__file__).resolve()))
    script.write_text(
        f'#!/bin/sh\n[ "$1 $2" = "-m {WORKER}" ] || exec {python} "$@"\n'
        f'exec {python} -I -S {module} ask {shlex.quote(str(path))} "$@"\n',
        encoding="utf-8",
    )
    script.chmod(0o755)


def watch(folder: Path) -> None:
    """Have the engine that this process has started ended some time after this process, if it hangs then.

    Its own RocksDB may hold it for ever, where that is closed while a worker's state is asked for (FLINK-40135).
    """
    with suppress(OSError):
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text("utf-8").split()
        for child in children:
            if Path(f"/proc/{child}/comm").read_text("utf-8").strip() == "java":
                (folder / _ENGINE).write_text(child, encoding="utf-8")


def executable(folder: Path) -> str:
    """What the engine is to call in place of Python, by where the workers were started."""
    script = folder / _SCRIPT
    return str(script) if script.exists() else sys.executable


def ask(path: str, arguments: list[str]) -> int:
    """Have a worker forked, and wait for its end; its exit status. Where ``serve`` isn't there, become it.

    It ends with the engine's script, and its worker with it.
    """
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from udfs.worker import end_with_parent

    end_with_parent()
    asked = json.dumps([arguments, dict(os.environ), os.getcwd()]).encode()
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(path)
    except OSError:
        os.execv(sys.executable, [sys.executable, *arguments])
    try:
        socket.send_fds(connection, [len(asked).to_bytes(_LENGTH_BYTES, "big")], [1, 2])
        connection.sendall(asked)
        status = connection.recv(1)
    except OSError:
        status = b""
    # It ends without a word with the command, whose worker nobody needs any more.
    return status[0] if status else 1


def serve(listener: socket.socket, alive: int, folder: Path, engine_ends_s: float) -> None:
    """Fork a worker for each who asks, and end it with who asked, until ``alive`` ends; then end them all.

    An engine that hangs is ended, too, when so many seconds have gone. The folder goes last.
    """
    engine: int | None = None
    for module in _IMPORTED:
        importlib.import_module(module)
    running: dict[int, socket.socket] = {}  # worker -> who asked for it
    while True:
        askers = {asker.fileno(): pid for pid, asker in running.items()}
        ready, _, _ = select.select([listener.fileno(), alive, *askers], [], [], _LOOK_S)
        # Who asked says nothing more: it has ended.
        for ended in askers.keys() & set(ready):
            os.kill(askers[ended], signal.SIGKILL)
        while running:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            with running.pop(pid) as asker, suppress(OSError):
                asker.sendall(bytes([os.waitstatus_to_exitcode(status) & 0xFF]))
        if engine is None:
            with suppress(OSError, ValueError):
                # A descriptor of it: no other process can be taken for it.
                engine = os.pidfd_open(int((folder / _ENGINE).read_text("utf-8")))
        if alive in ready:
            for pid in running:
                os.kill(pid, signal.SIGKILL)
            if engine is not None and not select.select([engine], [], [], engine_ends_s)[0]:
                signal.pidfd_send_signal(engine, signal.SIGKILL)
                select.select([engine], [], [], engine_ends_s)
            # Not before: an engine that ends makes folders again of which it has files open.
            shutil.rmtree(folder, ignore_errors=True)
            return
        if listener.fileno() in ready:
            asker, _ = listener.accept()
            try:
                asked, outputs = _received(asker)
            except (OSError, ValueError):
                asker.close()
                continue
            pid = os.fork()
            if not pid:
                others = [other.fileno() for other in running.values()] + ([] if engine is None else [engine])
                for descriptor in (listener.fileno(), alive, *others):
                    os.close(descriptor)
                asker.close()
                _become(outputs, *asked)
            for descriptor in outputs:
                os.close(descriptor)
            running[pid] = asker


def _received(asker: socket.socket) -> tuple[tuple[list[str], dict[str, str], str], list[int]]:
    """What ``ask`` sends: (arguments, environment, working directory), and descriptors of its outputs."""
    length, outputs, _, _ = socket.recv_fds(asker, _LENGTH_BYTES, 2)
    with asker.makefile("rb") as stream:
        arguments, environment, folder = json.loads(stream.read(int.from_bytes(length, "big")))
    return (arguments, environment, folder), outputs


def _become(outputs: list[int], arguments: list[str], environment: dict[str, str], folder: str) -> NoReturn:
    """Run as ``python ARGUMENTS`` would, of which the first two are -m and the module."""
    status = 1
    try:
        for number, descriptor in enumerate(outputs, 1):
            os.dup2(descriptor, number)
            os.close(descriptor)
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        own = [entry for entry in environment.get("PYTHONPATH", "").split(os.pathsep) if entry]
        sys.path[:] = [*own, *(entry for entry in sys.path if entry not in own)]
        sys.argv[1:] = arguments[2:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    if sys.argv[1] == "ask":
        sys.exit(ask(sys.argv[2], sys.argv[3:]))
    serve(socket.socket(fileno=int(sys.argv[2])), int(sys.argv[3]), Path(sys.argv[4]), float(sys.argv[5]))

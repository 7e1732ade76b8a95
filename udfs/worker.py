"""What is ours to say about the engine's Python workers."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path

# What the engine runs as its worker's main module.
WORKER = "pyflink.fn_execution.beam.beam_boot"
# prctl(2)
_SET_DEATH_SIGNAL = 1
_SAMPLER = "apache_beam.runners.worker.statesampler"


def stop_sampling() -> None:
    """Have Beam no more measure what each bundle spends its time on, in a worker; elsewhere nothing is done.

    It starts a thread for each bundle, which sleeps for a fifth of the time that the bundle has lasted, 200 ms at most,
    and waits for it at the bundle's end (statesampler_fast.pyx). Nobody reads what it finds.
    """
    sampler = sys.modules.get(_SAMPLER)
    if sampler is None:
        return

    def start(self: object) -> None:
        self.tracked_thread = threading.current_thread()  # type: ignore[attr-defined]
        sampler.set_current_tracker(self)

    def stop_if_still_running(self: object) -> None:
        sampler.set_current_tracker(None)

    sampler.StateSampler.start = start
    sampler.StateSampler.stop_if_still_running = stop_if_still_running


def end_with_the_engine() -> None:
    """Have a worker end when the engine ends the script that runs it, or ends itself; elsewhere nothing is done.

    The engine does so once its servers have waited for the worker, a minute each (GrpcFnServer.close). One that hangs
    would stay for ever, with its memory. So would the worker of a TaskManager that was killed: its script lives on.
    """
    specification = getattr(sys.modules["__main__"], "__spec__", None)
    if specification is not None and specification.name == WORKER:
        end_with_parent()
        _end_with_grandparent()


def _end_with_grandparent() -> None:
    """End this process when the one that started its parent ends; where that can't be told, nothing is done."""
    with suppress(OSError, AttributeError, ValueError):
        # After the command's name, which may hold anything: state, parent.
        parent = Path(f"/proc/{os.getppid()}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()[1]
        ended = os.pidfd_open(int(parent))

        def wait() -> None:
            select.select([ended], [], [])
            os.kill(os.getpid(), signal.SIGKILL)

        threading.Thread(target=wait, name="engine", daemon=True).start()


def end_with_parent() -> None:
    """Have the kernel end this process when the one that started it ends; where it can't, nothing is done.

    Nothing that a worker still had to do is lost by that: a bundle counts when the engine has heard of its end.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)

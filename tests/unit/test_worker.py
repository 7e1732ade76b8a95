"""What is changed of the engine's workers."""

from __future__ import annotations

import shlex
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
from apache_beam.runners.worker import statesampler
from apache_beam.utils.counters import CounterFactory

from udfs.worker import WORKER, stop_sampling

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("start", "stop_if_still_running"):
        monkeypatch.setattr(statesampler.StateSampler, name, getattr(statesampler.StateSampler, name))


def test_a_bundle_starts_no_thread_to_wait_for() -> None:
    stop_sampling()
    sampler = statesampler.StateSampler("stage", CounterFactory())
    threads = threading.active_count()
    sampler.reset()
    sampler.start()
    try:
        assert threading.active_count() == threads
        assert statesampler.get_current_tracker() is sampler
        with sampler.scoped_state("step", "process"):
            assert sampler.get_info().tracked_thread is threading.current_thread()
    finally:
        sampler.stop_if_still_running()
    assert statesampler.get_current_tracker() is None
    sampler.commit_counters()


def test_what_beam_has_is_what_is_changed() -> None:
    """Its next version may have other names."""
    assert {"start", "stop_if_still_running", "stop"} <= vars(statesampler.StateSampler).keys()


# As the engine does: what it ends is the script, of which the worker is a child.
SCRIPT = "{python} -c {code} | cat; echo after"
CODE = """
import sys, time, types
sys.modules["__main__"].__spec__ = types.SimpleNamespace(name={name!r})
import udfs
print("here", flush=True)
time.sleep({sleep_s})
"""


@pytest.mark.parametrize(("name", "ends"), [(WORKER, True), ("another", False)])
def test_a_worker_ends_when_the_engine_ends_its_script_and_nothing_else_does(name: str, ends: bool) -> None:
    code = CODE.format(name=name, sleep_s=600 if ends else 1)
    command = SCRIPT.format(python=sys.executable, code=shlex.quote(code))
    with subprocess.Popen(["sh", "-c", command], cwd=ROOT, stdout=subprocess.PIPE, text=True) as script:
        assert script.stdout.readline() == "here\n"
        (worker,) = (each for each in psutil.Process(script.pid).children() if "python" in each.name())
        if ends:
            worker.suspend()  # it hangs
        script.terminate()
        script.wait(60)
        assert worker.is_running() or ends
        psutil.wait_procs([worker], timeout=60)
        assert not worker.is_running()


# The engine starts the script, and is killed.
ENGINE = "import subprocess, sys; subprocess.run(['sh', '-c', sys.argv[1]])"


def test_a_worker_ends_with_an_engine_that_is_killed() -> None:
    code = shlex.quote(CODE.format(name=WORKER, sleep_s=600))
    command = [sys.executable, "-c", ENGINE, SCRIPT.format(python=sys.executable, code=code)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as engine:
        assert engine.stdout.readline() == "here\n"
        (script,) = psutil.Process(engine.pid).children()
        started = script.children(recursive=True)
        (worker,) = (each for each in started if "python" in each.name())
        assert worker.is_running()
        engine.kill()
        gone, alive = psutil.wait_procs([script, *started], timeout=60)
        for left in alive:
            left.kill()
        assert worker in gone and not alive

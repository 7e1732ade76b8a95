"""What is changed of the engine's workers."""

from __future__ import annotations

import threading

import pytest
from apache_beam.runners.worker import statesampler
from apache_beam.utils.counters import CounterFactory

from udfs.worker import stop_sampling


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

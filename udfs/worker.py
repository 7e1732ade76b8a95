"""What is ours to say about the engine's Python workers."""

from __future__ import annotations

import sys
import threading

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

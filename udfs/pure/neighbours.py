"""Noisy neighbours: a pod that over-uses its host slows the others there, whoever calls whom.

A host (the resource that a pod runs on) is crowded while a pod of it over-uses and most services there are slow in
their own time, of which a lesser part is slow elsewhere. One slow service has reasons of its own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

# Slow services on the host, but for the one that over-uses, from which on they are thought to have a cause in common;
# and their share of those that are heard of there.
SERVICES_MIN = 2
SHARE_MIN = 0.5


def crowding(host: Sequence[str], service: np.ndarray, slow: np.ndarray, overuse: np.ndarray) -> dict[str, int]:
    """Crowded hosts, each with the place of the pod that over-uses it.

    host: (pods,) "" = unknown. service: (pods,) numbers. slow: (pods,) chance that the pod's own time is in an episode,
    NaN where it is not heard of. overuse: (pods,) log odds.
    """
    on: dict[str, list[int]] = defaultdict(list)
    for pod, name in enumerate(host):
        if name:
            on[name].append(pod)
    found = {}
    for name, pods in on.items():
        greedy = max(pods, key=lambda pod: (overuse[pod], -pod))
        if overuse[greedy] <= 0:
            continue
        others = np.isfinite(slow) & (service != service[greedy])
        here = np.isin(np.arange(len(service)), pods) & others
        ill, heard = set(service[here & (slow > 0.5)].tolist()), set(service[here].tolist())
        elsewhere = others & ~here & np.array([bool(other) for other in host])
        ill_there, heard_there = set(service[elsewhere & (slow > 0.5)].tolist()), set(service[elsewhere].tolist())
        share, share_there = len(ill) / max(len(heard), 1), len(ill_there) / max(len(heard_there), 1)
        if len(ill) >= SERVICES_MIN and share >= SHARE_MIN and share > share_there:
            found[name] = greedy
    return found

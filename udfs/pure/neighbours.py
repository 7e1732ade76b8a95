"""Noisy neighbours: a pod that uses more of its host slows the others there, whoever calls whom.

A host (the resource that a pod runs on) is crowded while a pod of it uses more than usual, whatever the reason, and
most services there are slow in their own time, there and nowhere else. One slow service has reasons of its own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

# Slow services on the host, but for the one that uses more, from which on they are thought to have a cause in common;
# and their share of those that are heard of there.
SERVICES_MIN = 2
SHARE_MIN = 0.5
# The chance from which on a pod counts as slow.
SLOW_MIN = 0.5
# Standard deviations that the one who uses more is beyond its usual, where its over-use is not known by itself.
SURPLUS_MIN = 3.0


def crowding(
    host: Sequence[str], service: np.ndarray, slow: np.ndarray, overuse: np.ndarray, surplus: np.ndarray
) -> dict[str, int]:
    """Crowded hosts, each with the place of the pod that uses more.

    host: (pods,) "" = unknown. service: (pods,) numbers. slow: (pods,) chance that the pod's own time is in an episode,
    NaN where it is not heard of. overuse: (pods,) log odds. surplus: (pods,) the most that it uses beyond what its work
    explains, in standard deviations, -inf = not known: it tells who it is where nobody's over-use is known.
    """
    on: dict[str, list[int]] = defaultdict(list)
    heard: dict[int, set[str]] = defaultdict(set)  # hosts on which each service is heard of, and on which it is slow
    ill: dict[int, set[str]] = defaultdict(set)
    for pod, name in enumerate(host):
        if name:
            on[name].append(pod)
            if np.isfinite(slow[pod]):
                heard[service[pod]].add(name)
                if slow[pod] > SLOW_MIN:
                    ill[service[pod]].add(name)
    found = {}
    for name, pods in on.items():
        greedy = _greedy(pods, overuse, surplus)
        if greedy is not None:
            others = [other for other, hosts in heard.items() if name in hosts and other != service[greedy]]
            slowed = [other for other in others if ill[other] == {name}]
            if len(slowed) >= max(SERVICES_MIN, SHARE_MIN * len(others)):
                found[name] = greedy
    return found


def _greedy(pods: list[int], overuse: np.ndarray, surplus: np.ndarray) -> int | None:
    """Who of a host's pods uses more, by its over-use, or by its surplus where no over-use is known."""
    for use, least in ((overuse, 0.0), (surplus, SURPLUS_MIN)):
        most = max(pods, key=lambda pod: (use[pod], -pod))
        if use[most] > least:
            return most
    return None

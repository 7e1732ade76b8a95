"""Channels of evidence, and the kinds of anomaly that they stand for."""

from __future__ import annotations

import math

# own        own time of a span
# leaf       duration of a call that nobody answers with a span (databases, dead callees)
# gap        time between a call and its callee's span: network, accept queue, broker
# failure    an error, a missing answer, a logged error
# repeat     a call repeated more often than usual, unless the callee had failed before
# structure  a set of children that the operation hardly ever has
OWN, LEAF, GAP, FAILURE, REPEAT, STRUCTURE = range(6)
CHANNELS = 6
# The times come first. Where one is missing it says nothing; another event that is missing didn't happen.
TIMES = 3
# What pods use is not evidence of a span; it comes after the channels.
OVERUSE = CHANNELS

KINDS = (
    "latency_spike", "latency_spike", "latency_spike", "dependency_failure", "retry_loop",
    "structure_change", "resource_overuse",
)  # fmt: skip

# Log odds against an anomaly in quiet times: what a trace's evidence has to exceed.
PRIOR = 1e-3
THRESHOLD = math.log((1 - PRIOR) / PRIOR)

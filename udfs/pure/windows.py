"""Event time as the job cuts it: the attribution window W, the detector's minute, the meter's bucket.

All times are UTC milliseconds since the epoch. All intervals are half-open, ``[start, end)``.
"""

from __future__ import annotations

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS

# W of the paper and of docs/interface.md: aligned to the hour and the half hour.
WINDOW_MS = 30 * MINUTE_MS

# Usage is metered a bucket at a time. A bucket is a whole number of windows; the longer it is, the
# fewer points are counted in two buckets, and the more is metered again when a late point comes.
USAGE_BUCKET_MS = 4 * WINDOW_MS

# Two points of a series further apart than this say nothing of the time between them.
MAX_GAP_MS = 30 * MINUTE_MS

# What changed at a service, or in a price, so long before an incident may have to do with it.
CHANGES_MINUTES = 60

# Names that no workload and no resource can have: who a cost goes to when nobody caused it.
UNALLOCATED = "__unallocated__"
IDLE = "__idle__"
SYSTEM = "__system__"  # what the cluster itself uses: pods of its own namespaces that no workload claims
NO_RESOURCE = "__no_resource__"

# The semantic conventions' own default for a missing service.name.
UNKNOWN_SERVICE = "unknown_service"


def window_start(time_ms: int) -> int:
    """Start of the attribution window W that holds ``time_ms``."""
    return time_ms - time_ms % WINDOW_MS


def minute_start(time_ms: int) -> int:
    """Start of the minute that holds ``time_ms``."""
    return time_ms - time_ms % MINUTE_MS


def bucket_start(time_ms: int) -> int:
    """Start of the usage bucket that holds ``time_ms``."""
    return time_ms - time_ms % USAGE_BUCKET_MS

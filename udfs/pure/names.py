"""Names that come from outside, as keys of tables keep them."""

from __future__ import annotations

import hashlib

from udfs.pure.windows import IDLE, NO_RESOURCE, SYSTEM, UNALLOCATED

# A key of five columns has to fit a page of an index: PostgreSQL's holds 2,704 bytes.
NAME_MAX_BYTES = 800

# What the tables say where there is no workload or no resource. As a name from outside each of them names nothing.
RESERVED = frozenset({UNALLOCATED, IDLE, SYSTEM, NO_RESOURCE})


def workload(text: str) -> str:
    """``text`` as the name of a workload or of what it runs on; "" where it is none, as where none was sent."""
    return "" if text in RESERVED else text


def name(text: str) -> str:
    """``text`` without NUL, which no database takes, and cut where a key can't hold it: distinct ones stay so."""
    if "\x00" in text:
        text = text.replace("\x00", "")
    if len(text) > NAME_MAX_BYTES // 4 and len(text.encode()) > NAME_MAX_BYTES:
        tail = f"... (blake2b {hashlib.blake2b(text.encode(), digest_size=8).hexdigest()})"
        text = text.encode()[: NAME_MAX_BYTES - len(tail)].decode("utf-8", "ignore") + tail
    return text

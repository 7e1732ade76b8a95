"""Names that come from outside, as keys of tables keep them."""

from __future__ import annotations

import hashlib

# A key of five columns has to fit a page of an index: PostgreSQL's holds 2,704 bytes.
NAME_MAX_BYTES = 800


def name(text: str) -> str:
    """``text`` without NUL, which no database takes, and cut where a key can't hold it: distinct ones stay so."""
    if "\x00" in text:
        text = text.replace("\x00", "")
    if len(text) > NAME_MAX_BYTES // 4 and len(text.encode()) > NAME_MAX_BYTES:
        tail = f"... (blake2b {hashlib.blake2b(text.encode(), digest_size=8).hexdigest()})"
        text = text.encode()[: NAME_MAX_BYTES - len(tail)].decode("utf-8", "ignore") + tail
    return text

"""Lay flink-conf.yaml, and this Python, over the settings in the given file, which the engine's image brings."""

from __future__ import annotations

import sys
from pathlib import Path

import yaml

from jobs.config import flatten, load_engine_settings


def overlay(base: dict) -> dict[str, str]:
    """The image's settings and the project's, as flat keys; the project's win."""
    return {
        **flatten(base),
        **load_engine_settings(),
        "python.executable": sys.executable,
        "python.client.executable": sys.executable,
    }


if __name__ == "__main__":
    path = Path(sys.argv[1])
    settings = overlay(yaml.safe_load(path.read_text(encoding="utf-8")) or {})
    path.write_text(yaml.safe_dump(settings, width=10_000), encoding="utf-8")

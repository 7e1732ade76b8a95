"""What a run is told: by arguments, and by a TOML file in their stead. EXAMPLE is one, with every key.

input = "kafka://HOST:9092"
output = ["postgresql://USER@HOST/DATABASE"]

[settings]
"rank.by" = "excess"
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs import toml
from jobs.errors import UsageError
from jobs.postgres import holds_password
from jobs.resources import ROOT

EXAMPLE = ROOT / "docs" / "pipeline.toml"

KEYS = ("input", "output", "bounded", "state", "settings")
# Settings whose values are paths, or may be.
FILES = ("prices", "cost_centers", "currency.rates", "resources.aliases", "detector.models", "billing.from")


@dataclass(frozen=True)
class Settings:
    """Settings by key, and what a person wrote each value after: ``--set KEY``, or the file and its key."""

    values: Mapping[str, str] = field(default_factory=dict)
    after: Mapping[str, str] = field(default_factory=dict)

    def __getitem__(self, key: str) -> str:
        return self.values[key]

    def __or__(self, later: Settings) -> Settings:
        kept = {key: after for key, after in self.after.items() if key not in later.values}
        return Settings({**self.values, **later.values}, {**kept, **later.after})

    def only(self, is_wanted: Callable[[str], bool]) -> Settings:
        """Those whose keys are wanted."""
        return Settings({key: value for key, value in self.values.items() if is_wanted(key)}, self.after)

    def name(self, key: str) -> str:
        """What the value of ``key`` was written after."""
        return self.after.get(key, f"--set {key}")

    def wrong(self, key: str, why: str) -> UsageError:
        """What tells that the value of ``key`` can't be used."""
        return UsageError(f"{self.name(key)}={self[key]}: {why}")


@dataclass(frozen=True)
class Pipeline:
    """What a run is told.

    Attributes:
        input, output, state: as they were written; None or empty = not told.
        bounded: None = not told.
        settings: of the job and of the engine, any.
        path: the file that tells it; None = arguments.
    """

    input: str | None = None
    output: tuple[str, ...] = ()
    bounded: bool | None = None
    state: str | None = None
    settings: Settings = Settings()
    path: Path | None = None

    def name(self, key: str) -> str:
        """What the value of ``key`` was written after, for messages."""
        return f"{self.path}: {key}" if self.path else f"--{key}"


def read(path: Path) -> Pipeline:
    """What a file tells. Paths in it count from its folder.

    Raises:
        UsageError: it can't be read, has a key that is none, a value of the wrong kind, or a password.
    """
    content = toml.read(path, "--pipeline")
    here = path.parent.resolve()
    for key in content:
        if key not in KEYS:
            raise UsageError(f"{path}: {key}: no such key, must be one of {', '.join(KEYS)}")

    def text(key: str, value: object, kinds: str = "text") -> str:
        if not isinstance(value, str) or not value:
            raise UsageError(f"{path}: {key}: must be {kinds}, and not empty")
        if holds_password(value):
            raise UsageError(f"{path}: {key}: holds a password; give it in the environment")
        return value

    def place(key: str, value: object) -> str:
        url = text(key, value)
        return url if "://" in url else str(here / url)

    output = content.get("output", [])
    bounded = content.get("bounded")
    if not isinstance(bounded, bool | None):
        raise UsageError(f"{path}: bounded: must be true or false")
    if not isinstance(content.get("settings", {}), dict):
        raise UsageError(f"{path}: settings: must be a table, [settings]")
    values: dict[str, str] = {}
    for key, value in flat(content.get("settings", {})):
        told = f"settings.{key}"
        if key in values:
            raise UsageError(f"{path}: {told}: is there twice")
        written = text(told, _text(value), "text, a number, true or false, or a list of texts")
        values[key] = place(told, written) if key in FILES else written
    return Pipeline(
        place("input", content["input"]) if "input" in content else None,
        tuple(place("output", each) for each in (output if isinstance(output, list) else [output])),
        bounded,
        place("state", content["state"]) if "state" in content else None,
        Settings(values, {key: f"{path}: settings.{key}" for key in values}),
        path,
    )


def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Keys and values of tables in tables: {"rank": {"by": 1}} -> ("rank.by", 1), the same as {"rank.by": 1}."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _text(value: object) -> object:
    """A setting's value as ``--set`` has it; as it is, where it is of another kind."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ",".join(value) if all(isinstance(each, str) for each in value) else value
    return str(value) if isinstance(value, int | float) else value

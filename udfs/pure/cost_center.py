"""Whose budget a workload's cost is of: its cost centre, from the user, from telemetry, or from the bill.

In this order: what the user's file maps by the workload's name; what its resources say (ATTRIBUTE), where all that used
a billed resource in a window say the same; what the tags of that resource's charges say, where all say the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

# Of a telemetry resource.
ATTRIBUTE = "service.instance.cost_center.id"

# A tag's key, less what says whose it is ("user:CostCenter", "example.com/cost-centre").
_PREFIX = re.compile(r".*[:/]")
_TAG = re.compile(r"cost[-_. ]?cent(?:er|re)(?:[-_. ]?id)?", re.IGNORECASE)


@dataclass(frozen=True)
class CostCenters:
    """The user's mapping. globs: (cost centre, globs of otel_service_name); the first that fits counts."""

    globs: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def of(self, service: str) -> str | None:
        """The cost centre of a workload, None where none is mapped."""
        return next((center for center, globs in self.globs if any(fnmatchcase(service, of) for of in globs)), None)


NO_COST_CENTERS = CostCenters()


def of_tags(tags: Mapping[str, str | None]) -> str | None:
    """What the tags of a charge say."""
    return one_of(value for key, value in tags.items() if _TAG.fullmatch(_PREFIX.sub("", key)))


def one_of(told: Iterable[str | None]) -> str | None:
    """What all that tell one tell; None where nobody does, or they tell several."""
    found = {center for center in told if center}
    return found.pop() if len(found) == 1 else None

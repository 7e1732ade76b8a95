"""Imports run one way: the mathematics knows no engine, the simulator knows neither job nor functions.

The evaluation judges the functions, so it may import the mathematics, as the generator of the worlds may not.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Folder -> packages that nothing in it may import.
FORBIDDEN = {
    "udfs/pure": {"pyflink", "jobs", "simulator", "tests"},
    "udfs": {"jobs", "simulator", "tests"},
    "simulator": {"jobs", "udfs", "pyflink", "tests"},
    "simulator/evaluation": {"jobs", "pyflink", "tests"},
    "jobs": {"simulator", "tests"},
}


def _imports(path: Path) -> set[str]:
    """Modules that ``path`` imports, the engine's wrappers of udfs.pure named as udfs."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_imports_run_one_way(folder: str) -> None:
    evaluation = ROOT / "simulator/evaluation"
    for path in (ROOT / folder).rglob("*.py"):
        if folder == "simulator" and evaluation in path.parents:
            continue
        wrong = {name for name in _imports(path) if name.split(".")[0] in FORBIDDEN[folder]}
        assert not wrong, f"{path.relative_to(ROOT)} imports {', '.join(sorted(wrong))}"


def test_the_evaluation_knows_the_mathematics_alone_and_is_not_known_to_the_generator() -> None:
    for path in (ROOT / "simulator").rglob("*.py"):
        imports = _imports(path)
        if path.parent.name == "evaluation":
            wrong = {name for name in imports if name.split(".")[0] == "udfs" and not name.startswith("udfs.pure")}
        else:
            wrong = {name for name in imports if name.startswith("simulator.evaluation")}
        assert not wrong, f"{path.relative_to(ROOT)} imports {', '.join(sorted(wrong))}"


def test_the_mathematics_does_not_know_its_wrappers() -> None:
    for path in (ROOT / "udfs/pure").rglob("*.py"):
        wrong = {name for name in _imports(path) if name.split(".")[0] == "udfs" and not name.startswith("udfs.pure")}
        assert not wrong, f"{path.relative_to(ROOT)} imports {', '.join(sorted(wrong))}"


def test_torch_is_not_needed_by_what_serves() -> None:
    for path in [*(ROOT / "jobs").rglob("*.py"), *(ROOT / "udfs").rglob("*.py")]:
        assert path.name in ("train_detector.py", "network.py") or "torch" not in _imports(path), path
    for path in (ROOT / "jobs").rglob("*.py"):
        assert path.name == "train_detector.py" or "jobs.network" not in _imports(path), path

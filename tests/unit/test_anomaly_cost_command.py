"""One command for all: it imports what it calls, names it, and says what is missing in one line."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib

import pytest

from jobs.__main__ import COMMANDS, EXTRAS, main
from jobs.resources import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def names(requirements: list[str]) -> set[str]:
    """Names of distributions and, of this one's own extras, what these bring."""
    found = set()
    for requirement in requirements:
        name, _, rest = requirement.partition("[")
        if name == PROJECT["name"]:
            for extra in rest.rstrip("]").split(","):
                found |= names(PROJECT["optional-dependencies"][extra])
        else:
            found.add(name.partition("=")[0].partition("<")[0])
    return found


def test_the_list_of_commands_needs_nothing_but_python() -> None:
    code = "import sys; from jobs.__main__ import main; main(['--help']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert all(f"\n  {name} " in done.stdout for name in COMMANDS)
    loaded = {module.partition(".")[0] for module in done.stderr.split()}
    assert not loaded & {"pyflink", "numpy", "pyarrow", "psycopg", "kafka", "udfs", "simulator"}


@pytest.mark.parametrize(("argv", "told"), [([], "no command"), (["frob"], "frob: no such command"), ([""], "no comm")])
def test_no_such_command_exits_2_with_one_line(argv: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    output = capsys.readouterr()
    assert output.err.startswith(f"anomaly-cost: {told}") and output.err.count("\n") == 1 and not output.out


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_s_help_names_it_and_exits_0(name: str) -> None:
    # As a process: locust changes the standard library.
    command = [sys.executable, "-m", "jobs", name, "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.lower().startswith(f"usage: anomaly-cost {name} ")


@pytest.mark.parametrize("name", [name for name, command in COMMANDS.items() if command.module.startswith("jobs.")])
def test_wrong_arguments_exit_2_with_one_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--no-such-argument"]) == 2
    output = capsys.readouterr()
    assert output.out == "" and output.err.count("\n") == 1, output.err


def test_arguments_and_exit_status_are_the_command_s(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--input", "/none"]) == 2
    assert capsys.readouterr().err == "doctor: --input /none: no such directory\n"


@pytest.mark.parametrize(
    ("name", "module", "argv", "told"),
    [
        (
            "bill",
            "kafka",
            ["--from", ".", "--to", "kafka://h:1"],
            "kafka-python: pip install 'anomaly-cost[kafka]'",
        ),
        ("run", "kafka", ["--input", "kafka://h:1", "--output", "kafka://h:1"], "kafka-python: pip install 'anomaly-c"),
        ("migrate", "psycopg", ["postgresql://u@h/d"], "psycopg: pip install 'anomaly-cost[postgres]'"),
        ("respond", "psycopg", [], "psycopg: pip install 'anomaly-cost[respond]'"),
        ("simulate", "faker", [], "faker: pip install 'anomaly-cost[simulate]'"),
        ("replay", "locust", [], "locust: pip install 'anomaly-cost[replay]'"),
    ],
)
def test_a_missing_extra_is_told_in_one_line(name: str, module: str, argv: list[str], told: str) -> None:
    code = f"import sys; sys.modules[{module!r}] = None; from jobs.__main__ import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, name, *argv]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1
    assert done.stderr.startswith(f"anomaly-cost {name} needs {told}") and done.stderr.count("\n") == 1, done.stderr


def test_a_missing_module_that_no_extra_brings_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jobs.doctor", None)
    with pytest.raises(ModuleNotFoundError):
        main(["doctor"])


def test_the_extras_that_are_named_bring_what_is_missing() -> None:
    extras = PROJECT["optional-dependencies"]
    base = names(PROJECT["dependencies"])
    for distribution, extra in EXTRAS.values():
        assert distribution in names(extras[extra]) and distribution not in base
    assert all(command.extra is None or command.extra in extras for command in COMMANDS.values())
    # All but what trains.
    assert names(extras["all"]) == set().union(*(names(needs) for extra, needs in extras.items() if extra != "train"))


def test_the_extra_of_the_evaluation_brings_what_it_imports() -> None:
    """... where it is used, too: figures and tests come last, after hours."""
    found = set()
    for path in (ROOT / "simulator" / "evaluation").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.partition(".")[0])
    needs = {EXTRAS[module][0] for module in found & EXTRAS.keys()}
    assert needs >= {"matplotlib", "scipy"}
    assert needs <= names(PROJECT["optional-dependencies"][COMMANDS["evaluate"].extra])


def test_the_wheel_asks_for_what_the_project_is_tested_with() -> None:
    """... by the same bounds: requirements.lock is made of requirements.in."""
    tested = set()
    for file in ("requirements.in", "requirements-train.in"):
        for line in (ROOT / file).read_text(encoding="utf-8").splitlines():
            tested.add(line.partition("#")[0].strip())
    asked = [*PROJECT["dependencies"]]
    for needs in PROJECT["optional-dependencies"].values():
        asked += (need for need in needs if not need.startswith(PROJECT["name"]))
    assert set(asked) <= tested


def test_the_wheel_names_every_package() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    found = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for top in ("jobs", "udfs", "simulator")
        for path in (ROOT / top).rglob("*.py")
    }
    assert set(setuptools["packages"]) == found | {"jobs.data"}

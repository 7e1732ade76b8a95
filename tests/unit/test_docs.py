"""The commands that the documentation tells: each is there, and takes the arguments that are told of it."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cache
from importlib.util import find_spec

import pytest

from jobs.config import JOB_SETTINGS
from tests.pages import BY_HAND, ELSEWHERE, PAGES, ROOT, Told, commands, is_seen_to

# What settings of the engine, and of Kafka's clients, begin with.
ENGINE = ("execution.", "kafka.", "parallelism.", "pipeline.", "python.", "rest.", "state.", "table.", "taskmanager.")


def _commands() -> dict[str, set[str]]:
    """What is called -> its options, over all pages; a line that ends in a backslash goes on."""
    found: dict[str, set[str]] = {}
    for page in PAGES:
        text = page.read_text("utf-8").replace("\\\n", " ")
        # A comment begins after two blanks; usage that goes on in the next line begins with an option in brackets.
        text = re.sub(r"\n +(?=\[?--)", " ", re.sub(r" {2,}# .*", "", text))
        for module, words, command, others in re.findall(
            r"python -m ((?:jobs|simulator|tests)[\w.]*)([^\n`]*)|\banomaly-cost ([a-z][a-z-]*)([^\n`]*)", text
        ):
            called = module or f"jobs {command}"
            found.setdefault(called, set()).update(re.findall(r"(?<![\w-])--[a-z][a-z-]*", words or others))
    return found


@cache
def _help(module: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *module.split(), "--help"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, f"python -m {module} --help: {done.stderr[-500:]}"
    return done.stdout


@pytest.mark.parametrize("module", sorted(module for module, options in _commands().items() if options))
def test_a_command_of_the_pages_takes_the_options_that_they_tell(module: str) -> None:
    told = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", _help(module)))
    assert _commands()[module] <= told | {"--help"}


def test_the_commands_of_the_pages_are_found() -> None:
    """The tests above would pass on a pattern that finds none."""
    found = _commands()
    assert len(found) > 15
    assert {"--input", "--output", "--state", "--bounded", "--set"} <= found["jobs.anomaly_cost"]


def test_a_module_of_the_pages_is_there() -> None:
    assert [module for module in _commands() if find_spec(module.split()[0]) is None] == []


def test_a_setting_of_the_pages_is_one() -> None:
    for page in PAGES:
        for key in re.findall(r"--set \"?([a-z][a-z._-]+)=", page.read_text("utf-8")):
            assert key in JOB_SETTINGS or key.startswith(ENGINE), f"{page.name}: {key}"


def test_a_make_target_of_the_pages_is_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.M))
    told = {name for page in PAGES for name in re.findall(r"(?:^ +|`)make ([a-z-]+)", page.read_text("utf-8"), re.M)}
    assert {"demo", "test"} <= told <= targets


def test_a_file_that_the_pages_name_is_there() -> None:
    for page in PAGES:
        for name in re.findall(r"`((?:jobs|udfs|simulator|sql|docker|tests|docs)/[\w./-]+)`", page.read_text("utf-8")):
            assert (ROOT / name).exists() or list(ROOT.glob(f"{name}*")), f"{page.name}: {name}"


@pytest.mark.parametrize("told", list(commands()), ids=lambda told: f"{told.page}: {told.line[:60]}")
def test_a_command_of_the_pages_is_called(told: Told) -> None:
    """By tests/e2e/test_pages.py as it stands there, by another test, or by people, for a reason."""
    assert is_seen_to(told.line)


@pytest.mark.parametrize("pattern", ELSEWHERE)
def test_another_test_calls_what_it_is_said_to(pattern: str) -> None:
    file, words = ELSEWHERE[pattern]
    assert words in (ROOT / file).read_text("utf-8")


@pytest.mark.parametrize("pattern", [*ELSEWHERE, *BY_HAND])
def test_a_page_tells_what_is_called(pattern: str) -> None:
    assert any(re.fullmatch(pattern, told.line) for told in commands())

"""A process's own folder: held as long as it lives, however it ends, and removed by the next one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from jobs import folders

HOLD = """
import sys
from pathlib import Path
from jobs import folders
print(folders.make(Path(sys.argv[1]), "own-"), flush=True)
sys.stdin.readline()
"""


def test_what_a_killed_process_left_goes_and_what_is_held_stays(tmp_path: Path) -> None:
    (tmp_path / "other-1").mkdir()
    # Of nobody knows whom.
    (tmp_path / "own-without-a-lock").mkdir()
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        held = Path(holder.stdout.readline().strip())
        (held / "jars").mkdir()
        mine = folders.make(tmp_path, "own-")
        assert held.is_dir() and mine.is_dir()
        holder.kill()
        holder.wait()
        another = folders.make(tmp_path, "own-")
        kept = {"other-1", "own-without-a-lock", mine.name, another.name}
        assert {path.name for path in tmp_path.iterdir()} == kept
    finally:
        holder.kill()
        holder.communicate()


def test_a_place_whose_path_has_blanks_is_not_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(folders.tempfile, "gettempdir", lambda: str(tmp_path))
    assert folders.without_blanks() == tmp_path
    monkeypatch.setattr(folders.tempfile, "gettempdir", lambda: str(tmp_path / "my files"))
    assert folders.without_blanks() == Path("/tmp")

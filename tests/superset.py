"""A real Superset on loopback, installed from PyPI once, in an environment of its own."""

from __future__ import annotations

import secrets
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests

from tests.services import ROOT, _folder, _HttpServer, _run

VERSION = "6.0.0"
USER = "admin"


def program() -> Path:
    """The command, in an environment that is made where it isn't yet.

    Raises:
        RuntimeError: it can't be installed.
    """
    folder = ROOT / "build" / "superset" / VERSION
    if not (folder / ".installed").exists():
        uv = [sys.executable, "-m", "uv"]
        _run([*uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)])
        into = ["pip", "install", "--quiet", "--python", str(folder / "bin" / "python")]
        _run([*uv, *into, f"apache-superset=={VERSION}", "psycopg2-binary", "rich"])
        (folder / ".installed").touch()
    return folder / "bin" / "superset"


class Superset(_HttpServer):
    """One that knows nothing yet but its administrator."""

    READY = "health"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._password, self._session = secrets.token_urlsafe(), requests.Session()
        (folder / "superset_config.py").write_text(
            f"SECRET_KEY = {secrets.token_urlsafe(42)!r}\n"
            f"SQLALCHEMY_DATABASE_URI = 'sqlite:///{folder}/superset.db'\n"
            "WTF_CSRF_ENABLED = False\n"
            "TALISMAN_ENABLED = False\n"
        )
        name = ["--username", USER, "--firstname", "A", "--lastname", "A", "--email", "a@example.org"]
        for of in (
            ["db", "upgrade"],
            ["fab", "create-admin", *name, "--password", self._password],
            ["init"],
        ):
            done = subprocess.run(self._superset(*of), capture_output=True, text=True, timeout=300)
            if done.returncode:
                raise RuntimeError(f"superset {of[0]}: {done.stderr[-2000:]}")

    def _superset(self, *arguments: str) -> list[str]:
        settings = f"SUPERSET_CONFIG_PATH={self.folder}/superset_config.py"
        return ["env", settings, "FLASK_APP=superset", str(program()), *arguments]

    def _command(self) -> Sequence[str]:
        return self._superset("run", "--port", str(self.port), "--no-reload")

    def log_in(self) -> None:
        """From now on it is asked as its administrator."""
        asked = {"username": USER, "password": self._password, "provider": "db", "refresh": True}
        token = self.ask("POST", "/api/v1/security/login", json=asked)["access_token"]
        self._session.headers["Authorization"] = f"Bearer {token}"

    def ask(self, method: str, path: str, **more: Any) -> Any:
        """What it answers, as JSON.

        Raises:
            AssertionError: it refuses.
        """
        answer = self._session.request(method, self.url + path, timeout=120, **more)
        assert answer.ok, f"{path}: {answer.status_code} {answer.text[:2000]}"
        return answer.json()


@contextmanager
def superset() -> Iterator[Superset]:
    """A running one."""
    with _folder("superset") as folder:
        server = Superset(folder)
        try:
            server.start()
            server.log_in()
            yield server
        finally:
            server.stop()

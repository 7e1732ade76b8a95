"""The report's pictures in the documentation: python -m tests.pictures REPORT FOLDER, with Debian's chromium."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

# Name: width and height in CSS pixels, whether it is dark, and whether the first incident is open.
PICTURES = {"report": (1000, 620, False, False), "report-narrow": (400, 900, True, True)}


def take(report: Path, target: Path, width: int, height: int, is_dark: bool, is_open: bool) -> None:
    """A picture of the page at that size; of an open incident it begins with its row."""
    page = report.read_text(encoding="utf-8")
    if is_dark:
        # As a browser that is asked for dark pages sees it.
        page = page.replace("(prefers-color-scheme: dark)", "all")
    if is_open:
        page = page.replace("</style>", "header, .head, .heads { display: none; }</style>", 1)
        page = page.replace('<details class="incident"', '<details open class="incident"', 1)
    with tempfile.TemporaryDirectory() as folder:
        shown = Path(folder, "page.html")
        shown.write_text(page, encoding="utf-8")
        subprocess.run(
            [
                "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                "--virtual-time-budget=2000", f"--user-data-dir={folder}/profile", f"--window-size={width},{height}",
                f"--screenshot={target}", shown.as_uri(),
            ],
            check=True, capture_output=True, timeout=120,
        )  # fmt: skip


def main(report: str, folder: str) -> None:
    for name, picture in PICTURES.items():
        take(Path(report), Path(folder, f"{name}.png").resolve(), *picture)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""The masked-span model alone: traces a CPU second with every span masked once, by traces a minute.

    python -m tests.benchmarks.model DIR [DIR ...]

Reads input directories, records the tokens that the detector would ask the default model about, and times its
predictions (one thread), once minute by minute and once in frames of many minutes, as heavier traffic would bring.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

from jobs.train_detector import sample
from udfs.pure.offline import read
from udfs.pure.predict import DEFAULT_MODEL, MaskedSpanModel, usual_of
from udfs.pure.tokens import Tokens

FRAMES = (10, 100, 2000)  # traces


def frames(tokens: Tokens, traces: int) -> list[Tokens]:
    """The tokens cut into frames of so many traces."""
    last = np.cumsum(tokens.lengths)
    parts = []
    for at in range(0, len(tokens.lengths), traces):
        until = min(at + traces, len(last))
        rows = slice(last[at] - tokens.lengths[at], last[until - 1])
        columns = [column[rows] for column in tokens[:-1]]
        parts.append(Tokens(*columns, tokens.lengths[at:until]))
    return parts


def main(directories: list[str]) -> None:
    """Print a line for each directory and size of frame."""
    model = MaskedSpanModel(DEFAULT_MODEL)
    for directory in directories:
        tokens = sample(*read(Path(directory)), {}).tokens
        for traces in FRAMES:
            parts = frames(tokens, traces)
            begun = time.process_time()
            for part in parts:
                model.predict(part, usual_of(part))
            seconds = time.process_time() - begun
            print(f"{directory}: {traces} traces a frame: {len(tokens.lengths) / seconds:,.0f} traces "
                  f"and {len(tokens.known) / seconds:,.0f} spans a CPU second")  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1:])

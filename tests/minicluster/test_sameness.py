"""The tables are a function of the set of records: not of files, order, batches or parallelism."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.minicluster.shop import write_shop
from tests.reshuffle import reshuffle


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("worlds")
    write_shop(folder / "ordered")
    reshuffle(folder / "ordered", folder / "shuffled")
    return folder / "ordered", folder / "shuffled"


def test_order_split_repetition_batches_and_parallelism_do_not_show(job, worlds) -> None:
    ordered, shuffled = worlds
    reference = job(ordered, "parallelism.default=1")
    others = {
        "shuffled, parallelism 2": job(shuffled, "parallelism.default=2"),
        "batches of one": job(
            shuffled,
            "parallelism.default=1",
            "python.fn-execution.arrow.batch.size=1",
            "python.fn-execution.bundle.size=3",
            "table.exec.mini-batch.size=7",
        ),
    }
    assert reference["trace_verdicts"].num_rows == 399
    assert reference["ranked_anomalies"].num_rows > 0
    for name in ("ranked_anomalies", "trace_verdicts", "cost_allocations", "charge_anomalies"):
        for way, tables in others.items():
            assert tables[name].equals(reference[name]), f"{name} differs: {way}"

"""Dimensions stand once, in udfs/pure/dimensions.py: another is an entry there, and the whole job knows it."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from udfs.pure import otlp, tokens
from udfs.pure.dimensions import DIMENSIONS, WATCHED

TPU = textwrap.dedent(
    """
    import re, json
    from udfs.pure import dimensions
    from udfs.pure.dimensions import GAUGE, TIME, Dimension, Metric

    dimensions.DIMENSIONS["tpu"] = Dimension(
        "tpu", "tpu-seconds", "TPU-Seconds", "Compute",
        metrics=(Metric("container.tpu.usage", GAUGE, {"{tpu}": 1.0}),),
        billed_in=re.compile(rf"\\w*tpus?{TIME}"), is_common=False, is_watched=False,
    )
    """
)


def of_a_tpu(code: str) -> None:
    """Run ``code`` in a process whose dimensions have one more, before anything else is imported."""
    done = subprocess.run(
        [sys.executable, "-c", TPU + textwrap.dedent(code)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_a_tpu_is_metered() -> None:
    of_a_tpu(
        """
        from udfs.pure.meter import meter
        from udfs.pure.otlp import collect_metrics

        first = 240_000 * 120  # a minute of 2024, and the first of a bucket
        points = [{"timeUnixNano": str(minute * 60 * 10**9), "asDouble": 0.5} for minute in (first, first + 1)]
        request = {"resourceMetrics": [{
            "resource": {"attributes": [{"key": "k8s.pod.uid", "value": {"stringValue": "p"}}]},
            "scopeMetrics": [{"metrics": [
                {"name": "container.tpu.usage", "unit": "{tpu}", "gauge": {"dataPoints": points}}
            ]}],
        }]}
        fragments, _, rejects = collect_metrics(json.dumps(request).encode())
        assert not rejects, rejects
        bucket = first * 60_000
        [fragment] = [part for key, part in fragments.items() if key.startswith(str(bucket))]
        assert meter(bucket, [fragment])["minutes"] == {bucket: {"tpu": 30.0}}
        """
    )


def test_a_tpu_is_priced_and_named() -> None:
    of_a_tpu(
        """
        from fractions import Fraction
        from jobs.export_focus import CATEGORIES
        from udfs.pure import rates
        from udfs.pure.rank import USAGE_UNITS

        assert rates.unit_kind("TPU-Hours") == rates.unit_kind("Google v5 TPU Hours") == "tpu"
        assert rates.usage_per_unit("TPU-Hours", "tpu") == 3600
        assert rates.usage_per_unit("TPU-Hours", "cpu") == 0
        assert "tpu" not in rates.GUESSED
        charge = {"consumed_quantity": "2", "consumed_unit": "TPU-Hours", "per": "unit", "parts": [["tpu", "1"]]}
        assert rates.capacity(charge) == {"tpu": Fraction(7200)}
        assert USAGE_UNITS["tpu"] == "TPU-Seconds" and CATEGORIES["tpu"] == "Compute"
        """
    )


def test_a_tpu_is_documented_and_not_yet_watched() -> None:
    of_a_tpu(
        """
        from jobs import contract
        from udfs.pure import tokens, usage_watch

        page = contract.interface(contract.INTERFACE.read_text("utf-8"))
        assert "| tpu | tpu-seconds | `container.tpu.usage` | gauge | `{tpu}` |" in page
        assert "tpu" not in tokens.REALS and "tpu" not in usage_watch.DIMENSIONS
        """
    )


def test_the_detector_reads_what_its_model_was_trained_on() -> None:
    """More of them would need another model: arrays and checkpoints have this shape."""
    assert WATCHED == ("cpu", "memory", "io", "network")
    assert tokens.REALS[tokens.USAGE] == WATCHED
    assert [tokens.REALS[place] for place in tokens.CAUSES] == ["own_time", *WATCHED]


def test_metrics_have_one_dimension_and_those_with_rules_of_their_own_are_among_them() -> None:
    names = [metric.name for dimension in DIMENSIONS.values() for metric in dimension.metrics]
    assert len(names) == len(set(names))
    assert {otlp._CADVISOR_CPU, otlp._BLOCK_IO, otlp._NETWORK_IO} <= set(names)


@pytest.mark.parametrize("name", DIMENSIONS)
def test_what_is_paid_by_time_is_a_capacity(name: str) -> None:
    assert DIMENSIONS[name].is_capacity == (name in ("cpu", "memory", "gpu"))

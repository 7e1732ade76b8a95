"""The commands that the pages of the documentation tell, as they stand there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "docker" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]

# What a command begins with; the name of the program follows it, or is it.
_PROGRAMS = (
    r"(?:\.venv/bin/\w+|python3?|anomaly-cost|make|pip|for|export|psql|aws|kubectl|docker|docker-compose|flink|hadolint"
    r"|shellcheck|check-jsonschema|(?:kafka-topics|sql-client)\.sh|pytest|ANOMALY_COST_LONG=1)(?= )"
)


class Told(NamedTuple):
    """A command of a page."""

    page: str
    line: str


def commands() -> Iterator[Told]:
    """Those of blocks of code, and those in backticks that take an argument; comments and prompts left out.

    A line that ends in a backslash goes on, and so does usage, whose next line begins with a bracket or an option.
    """
    for page in PAGES:
        text = re.sub(r"\\\n\s*", "", page.read_text("utf-8"))
        text = re.sub(r" {2,}# .*", "", text)
        text = re.sub(r"\n {8,}(?=\[?--)", " ", text)
        text = re.sub(r"(\n    for .*; do)\n\s+(.*)\n\s+(done)", r"\1 \2; \3", text)
        blocks = re.findall(rf"^ {{4}}({_PROGRAMS}.*)$", text, re.M)
        fenced = [line for block in re.findall(r"^```sh\n(.*?)^```", text, re.M | re.S) for line in block.splitlines()]
        in_text = re.findall(rf"`({_PROGRAMS}[^`\n]*)`", text)
        for line in dict.fromkeys([*blocks, *fenced, *in_text]):
            yield Told(str(page.relative_to(ROOT)), line.strip())


def shell(line: str, words: dict[str, str]) -> str:
    """A page's command as one would type it: what it leaves open filled in, the longest first, what stands in brackets
    left out.

    Raises:
        ValueError: a word that the command doesn't have.
    """
    line = re.sub(r" \[[^\]]*\]", "", line)
    for word in sorted(words, key=len, reverse=True):
        if word not in line:
            raise ValueError(f"{word} is not in {line}")
        line = line.replace(word, words[word])
    return line


# What other tests call: how a command of the pages goes (a pattern) -> a test, and words of it that do so.
ELSEWHERE = {
    r"flink (run|stop)\b.*": ("tests/e2e/test_cluster.py", "cluster.stop_with_savepoint("),
    r"sql-client\.sh .*": ("tests/e2e/test_cluster.py", "cluster.sql("),
    r"pip install.*|anomaly-cost --help": ("tests/e2e/test_wheel.py", '"install"'),
    r"anomaly-cost run --pipeline .*": ("tests/e2e/test_wheel.py", '"run", "--pipeline"'),
    r"anomaly-cost doctor|python -m jobs( COMMAND)?|anomaly-cost COMMAND": ("tests/e2e/test_wheel.py", '"doctor"'),
    # What an input and an output may be, and each option.
    r".*python -m jobs\.anomaly_cost --input (URL|DIR) .*": ("tests/minicluster/test_command.py", "jobs.anomaly_cost"),
    r".*python -m jobs\.anomaly_cost --input kafka://.*": ("tests/e2e/test_kafka_postgres.py", '"--state"'),
    r".*python -m jobs\.anomaly_cost --input focus-sample .*": ("tests/minicluster/test_attribution.py", "SAMPLE_COST"),
    r".*python -m jobs\.bill.*": ("tests/e2e/test_bill.py", "bill.main("),
    r".*python -m jobs\.ask.*": ("tests/e2e/test_ask.py", "jobs.ask"),
    r".*python -m jobs\.respond .*": ("tests/e2e/test_respond.py", "jobs.respond"),
    r".*python -m jobs\.train_detector .*": ("tests/unit/test_train_detector.py", "main("),
    r".*python -m jobs\.contract": ("tests/unit/test_contract.py", "python -m jobs.contract"),
    r".*python -m jobs\.connectors": ("tests/unit/test_connectors.py", "connectors"),
    r".*python -m jobs\.(report|doctor|replay_rejects|budgets|migrate)\b.*": ("tests/e2e/test_pages.py", "jobs.report"),
    r".*python -m simulator( |\.evaluation\.job).*": ("tests/e2e/test_pages.py", "python -m simulator"),
    r".*python -m simulator\.evaluation .*": ("tests/unit/test_evaluation_report.py", "main(["),
    r".*python -m tests\.benchmarks\.queueing .*": ("tests/unit/test_queueing.py", "q.main("),
    r".*python -m tests\.benchmarks\.families .*": ("tests/unit/test_families.py", "f.main("),
    r".*python -m tests\.benchmarks\.peers .*": ("tests/unit/test_peers_benchmark.py", "measured"),
}

# What is called by nobody but people and CI, and why.
BY_HAND = {
    r"make (setup|train|test|test-all|test-long|lint|types|coverage)": "they are what runs the tests",
    r"make pictures": "it needs Chromium",
    r"(ANOMALY_COST_LONG=1 )?pytest .*|.*python -m pytest .*|python -m tests\.savepoint .*": "they are tests",
    r"export .*": "no command",
    r"docker(-compose)? .*": "it needs Docker; tests/unit/test_docker.py checks the files",
    r"check-jsonschema .*|hadolint .*|shellcheck .*": "they check files, and are packages of their own",
    r"kubectl apply -f docker/kubernetes/flinkdeployment\.yaml": "it needs Flink's operator",
    r"kubectl apply -k .*|kubectl .*rollout.*": "it needs a cluster; tests/e2e/test_collector.py has an API server's",
    r"aws .*": "it needs an account",
    r".*uv venv BENCH; .*": "it installs Spark",
    r"python -m tests\.benchmarks\.(growth|stream|job|bill|forecast)\b.*": "they take minutes to measure how long",
}


def is_seen_to(line: str) -> bool:
    """Whether somebody calls a command of the pages: the test that types it, another one, or people, for a reason."""
    typed = re.sub(r'["\'\s]+', "", (ROOT / "tests/e2e/test_pages.py").read_text("utf-8"))
    if re.sub(r'["\'\s]+', "", line) in typed:
        return True
    return any(re.fullmatch(pattern, line) for pattern in (*ELSEWHERE, *BY_HAND))

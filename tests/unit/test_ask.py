"""The tools that jobs.ask serves: what a client is told of them, and what of its arguments is refused."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
from mcp import Client
from mcp.types import Tool

from jobs import ask
from jobs.config import ROOT

NOWHERE = "postgresql://someone@127.0.0.1:1/none"


@pytest.fixture(scope="module")
def tools() -> dict[str, Tool]:
    return {tool.name: tool for tool in asyncio.run(ask.server(ask.Tables(NOWHERE)).list_tools())}


def call(name: str, **arguments: Any) -> str:
    """What an erring call says."""

    async def answer() -> Any:
        async with Client(ask.server(ask.Tables(NOWHERE))) as client:
            return await client.call_tool(name, arguments)

    result = asyncio.run(answer())
    assert result.is_error
    return result.content[0].text


def test_the_tools_and_their_arguments(tools: dict[str, Tool]) -> None:
    needed = {name: tool.input_schema.get("required", []) for name, tool in tools.items()}
    assert needed == {
        "top_incidents": [],
        "explain_incident": ["incident_id"],
        "what_if": ["incident_id", "hours"],
        "budget": [],
        "unit_cost": [],
        "cost_of_service": ["service"],
    }
    properties = tools["top_incidents"].input_schema["properties"]
    assert properties["state"]["enum"] == ["open", "closed", "all"]
    assert (properties["limit"]["minimum"], properties["limit"]["maximum"]) == (1, ask.ROWS_MOST)
    hours = tools["what_if"].input_schema["properties"]["hours"]
    assert (hours["exclusiveMinimum"], hours["maximum"]) == (0, 8_784)


def test_every_tool_only_reads_and_says_what_it_answers(tools: dict[str, Tool]) -> None:
    for tool in tools.values():
        hints = tool.annotations
        assert hints.read_only_hint and not hints.destructive_hint and not hints.open_world_hint
        assert tool.title and tool.description
        assert all(of.get("description") for of in tool.input_schema["properties"].values()), tool.name
        result = tool.output_schema["$defs"]["Result"]
        assert set(result["required"]) == {"what", "rows", "is_cut", "sql", "parameters"}


def test_no_query_is_made_of_text() -> None:
    """Each is a constant: nothing is put into it, and it has a parameter for each number up to its greatest."""
    queries = {name: text for name, text in vars(ask).items() if isinstance(text, str) and "from public." in text}
    assert len(queries) == 15
    for name, text in queries.items():
        assert not re.search(r"[{}%]", text), name
        assert text.lstrip().startswith("select"), name
        numbers = {int(number) for number in re.findall(r"\$(\d+)", text)}
        assert numbers == set(range(1, len(numbers) + 1)), name


@pytest.mark.parametrize(
    "name, arguments, words",
    [
        ("top_incidents", {"limit": 0}, "limit"),
        ("top_incidents", {"limit": ask.ROWS_MOST + 1}, "limit"),
        ("top_incidents", {"order": "excess_cost; drop table incidents"}, "order"),
        ("top_incidents", {"since": "soon"}, "since"),
        ("top_incidents", {"since": "2026-01-02", "until": "2026-01-01"}, "since 2026-01-02 is after until 2026-01-01"),
        ("top_incidents", {"service": ""}, "service"),
        ("what_if", {"incident_id": "a", "hours": -1}, "hours"),
        ("what_if", {"incident_id": "a", "hours": 1e9}, "hours"),
        ("what_if", {"incident_id": "a", "hours": "NaN"}, "hours"),
        ("explain_incident", {}, "incident_id"),
        ("budget", {"month": "2026-13"}, "month"),
        ("unit_cost", {"attribute": "tenant.id", "service": "web"}, "attribute goes without service and operation"),
        ("unit_cost", {"value": "acme"}, "value needs attribute"),
        ("cost_of_service", {"service": "x" * 1_001}, "service"),
    ],
)
def test_wrong_arguments_are_told_by_name(name: str, arguments: dict[str, Any], words: str) -> None:
    assert words in call(name, **arguments)


def test_a_database_that_is_away_is_told_in_one_line() -> None:
    told = call("top_incidents")
    assert "Connection refused" in told and "\n" not in told


@pytest.mark.parametrize(
    "argv, status, words",
    [
        (["--tables", NOWHERE], 1, "Connection refused"),
        (["--tables", "kafka://127.0.0.1:1"], 2, "postgresql://USER@HOST"),
        (["--tables", "postgresql://someone:secret@127.0.0.1:1/none"], 2, "PGPASSWORD"),
        (["--tables", NOWHERE, "--timeout", "0"], 2, "--timeout 0"),
        ([], 2, "--tables"),
    ],
)
def test_wrong_use_ends_in_one_line(
    argv: list[str], status: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask.main(argv) == status
    told = capsys.readouterr()
    assert told.out == "" and told.err.count("\n") == 1 and words in told.err and "secret" not in told.err


def test_the_page_names_all_tools(tools: dict[str, Tool]) -> None:
    page = (ROOT / "docs" / "ask.md").read_text("utf-8")
    assert re.findall(r"^\| `(\w+)` \|", page, re.M) == list(tools)


def test_an_argument_that_a_tool_does_not_have_is_an_error(tools: dict[str, Tool]) -> None:
    """An assistant that asks for a team would take what all teams cost for it."""
    assert all(tool.input_schema["additionalProperties"] is False for tool in tools.values())
    assert "top_incidents has no argument team; it has state, " in call("top_incidents", team="payments")

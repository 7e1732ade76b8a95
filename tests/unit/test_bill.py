"""python -m jobs.bill: what it sends of each delivery makes of the topic the bill as a directory gives it."""

from __future__ import annotations

import json
import os
import random
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from jobs import bill
from jobs.bill import load, look
from jobs.errors import JobError, UsageError
from jobs.ledger import Ledger
from tests.bills import LAYOUTS, SAMPLE_COST, Export, correction, recency, sample, snapshots, text_of
from udfs.pure.bills import Place, place
from udfs.pure.focus import charge_key
from udfs.pure.focus_record import collect_charge_record
from udfs.pure.price import standing

ABOUT = ["/bills", "broker:9092", "EffectiveCost"]


class Topic:
    """Takes records. fails_after: how many it takes before it fails, once."""

    def __init__(self) -> None:
        self.records: list[bytes] = []
        self.fails_after: int | None = None
        self._read: dict[bytes, tuple[str, dict]] = {}

    def deliver(self, records: list[tuple[bytes, bytes]]) -> None:
        taken = records if self.fails_after is None else records[: self.fails_after]
        self.records += [record for _, record in taken]
        if self.fails_after is not None:
            self.fails_after = None
            raise JobError("the broker is gone")

    def charges(self) -> dict[str, dict]:
        """As the job holds them, by key."""
        return dict(self._charge(record) for record in self.records)

    def _charge(self, record: bytes) -> tuple[str, dict]:
        if record not in self._read:
            kind, charge = collect_charge_record(record, "2024-10-09T00:00:00")
            assert kind == "charge"
            self._read[record] = charge_key(charge), charge
        return self._read[record]

    def stands(self) -> dict[str, tuple]:
        return stands(list(self.charges().values()))


def stands(charges: list[dict]) -> dict[str, tuple]:
    """What of charges counts: by identity the lines, and whether a window's rows would say ``corrected`` or
    ``provisional``."""
    return {
        f"{each['identity']} {each['key']}": (
            each["cost"],
            each["start_ms"],
            each["is_restated"],
            each.get("is_incomplete", False),
        )
        for each in standing(charges)
        if each["charge_class"] != "Correction"
    } | corrections(charges)


def corrections(charges: list[dict]) -> dict[str, tuple]:
    """Of corrections how often each counts: one that comes back is another copy."""
    found: dict[str, tuple] = {}
    for each in standing(charges):
        if each["charge_class"] == "Correction":
            key = f"{each['identity']} {each['cost']}"
            found[key] = (found.get(key, (0,))[0] + 1,)
    return found


def in_directory(where: Place) -> dict[str, tuple]:
    """The same of a bounded run."""
    deliveries, _ = where.deliveries()
    return stands([value for each in deliveries for _, _, value in where.collect(each, "EffectiveCost")])


def total(found: dict[str, tuple]) -> Decimal:
    return sum((Decimal(of[0]) for of in found.values() if len(of) > 1), Decimal(0))


def writer(folder: Path) -> Callable[[str, bytes, datetime], None]:
    def write(path: str, content: bytes, at: datetime) -> None:
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        os.utime(target, (at.timestamp(), at.timestamp()))

    return write


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    return sample()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_topic_is_the_bill_at_each_delivery(tmp_path, rows, layout):
    """Two days of hourly deliveries, one that shrank, a month closed and then corrected."""
    few = rows[::9]
    export = Export(layout, writer(tmp_path / "bill"), list(rows[0]))
    topic, ledger = Topic(), Ledger(tmp_path / "state", ABOUT)
    for what, month in snapshots(few):
        export.deliver(month)
        where = place(str(tmp_path / "bill"))
        assert look(where, ledger, topic.deliver, "EffectiveCost", print)
        sent = len(topic.records)
        assert look(where, ledger, topic.deliver, "EffectiveCost", print)
        assert len(topic.records) == sent, what  # each delivery once
        if not what.startswith("hour") or what in ("hour 1", "hour 17", "hour 48"):
            assert topic.stands() == in_directory(where), what
        if what == "closed":
            assert total(topic.stands()) == sum(Decimal(row["EffectiveCost"]) for row in few)
    # Neither order nor repetition of the records shows.
    before = topic.stands()
    random.Random(3).shuffle(topic.records)
    topic.records += topic.records[::3]
    assert topic.stands() == before


def test_of_snapshots_that_lie_side_by_side_the_later_corrects_the_earlier(tmp_path, rows):
    """As in a bounded run: files with a date in their name, each with the whole month."""
    few = [row for row in rows if Decimal(row["EffectiveCost"]) > 0][:6]
    write, where = writer(tmp_path / "bill"), place(str(tmp_path / "bill"))
    topic, ledger = Topic(), Ledger(tmp_path / "state", ABOUT)

    hours = iter(range(24))

    def deliver(name: str, costs: int) -> dict[str, tuple]:
        month = [row | {"EffectiveCost": str(Decimal(row["EffectiveCost"]) * costs)} for row in few[:4]] + few[4:]
        write(name, text_of(month, list(few[0])), datetime(2024, 10, 1, next(hours), tzinfo=UTC))
        assert look(where, ledger, topic.deliver, "EffectiveCost", print)
        assert topic.stands() == in_directory(where), name
        return topic.stands()

    def restated(found: dict[str, tuple]) -> list[bool]:
        return sorted(of[2] for of in found.values())

    assert restated(deliver("bill-2024-10-01.csv", 1)) == [False] * 6
    assert restated(deliver("bill-2024-10-02.csv", 3)) == [False, False, True, True, True, True]
    assert restated(deliver("bill-2024-10-03.csv", 3)) == [False, False, True, True, True, True]
    # The first two were wrong and are written anew: nothing was restated.
    deliver("bill-2024-10-01.csv", 3)
    sent = len(topic.records)
    ledger.close()
    ledger = Ledger(tmp_path / "state", ABOUT)
    assert look(where, ledger, topic.deliver, "EffectiveCost", print) and len(topic.records) == sent
    assert restated(topic.stands()) == [False] * 6


def test_a_state_of_an_earlier_release_is_refused(tmp_path):
    """It tells charges apart by other identities: each would be sent again, beside itself."""
    Ledger(tmp_path / "state", ABOUT).close()
    with closing(sqlite3.connect(tmp_path / "state")) as state:
        state.execute("delete from meta where name = 'identities'")
        state.commit()
    with pytest.raises(
        UsageError, match="is of an earlier release.*begin with a new file, and the job with a new state"
    ):
        Ledger(tmp_path / "state", ABOUT)


def test_exactly_what_changed_is_sent(tmp_path, rows):
    export = Export("aws_overwrite", writer(tmp_path / "bill"), list(rows[0]))
    topic, ledger, where = Topic(), Ledger(None, ABOUT), place(str(tmp_path / "bill"))
    export.deliver(rows)
    look(where, ledger, topic.deliver, "EffectiveCost", print)
    assert len(topic.records) == len(rows)
    assert total(topic.stands()) == Decimal(SAMPLE_COST)
    topic.records.clear()
    # One changes, one is left out, one is new; nothing is sent of the others.
    export.deliver([rows[0] | {"EffectiveCost": "5"}, *rows[2:], rows[1] | {"ResourceId": "another"}])
    look(where, ledger, topic.deliver, "EffectiveCost", print)
    sent = [json.loads(record) for record in topic.records]
    assert sorted((row["ResourceId"], row["EffectiveCost"], "x_Withdrawn" in row) for row in sent) == sorted([
        (rows[0]["ResourceId"], "5", False),
        (rows[0]["ResourceId"], rows[0]["EffectiveCost"], True),
        (rows[1]["ResourceId"], rows[1]["EffectiveCost"], True),
        ("another", rows[1]["EffectiveCost"], False),
    ])  # fmt: skip


@pytest.mark.parametrize("taken", [0, 1, 5, 40])
def test_after_a_kill_the_rest_is_sent_first(tmp_path, rows, taken):
    """Also where the next delivery is there by then: what was half sent is taken back by it."""
    few = rows[::10]
    export = Export("azure", writer(tmp_path / "bill"), list(rows[0]))
    where, topic = place(str(tmp_path / "bill")), Topic()
    for _, month in list(snapshots(few, hours=4))[1:]:
        export.deliver(month)
        ledger = Ledger(tmp_path / "state", ABOUT)
        topic.fails_after = taken
        with pytest.raises(JobError):
            look(where, ledger, topic.deliver, "EffectiveCost", print)
        topic.fails_after = None
        ledger.close()
    ledger = Ledger(tmp_path / "state", ABOUT)
    look(where, ledger, topic.deliver, "EffectiveCost", print)
    assert topic.stands() == in_directory(where)


def test_a_delivery_that_breaks_off_is_not_taken_and_what_was_sent_stands(tmp_path, rows):
    few = rows[:20]
    export = Export("file", writer(tmp_path / "bill"), list(rows[0]))
    topic, ledger, where = Topic(), Ledger(tmp_path / "state", ABOUT), place(str(tmp_path / "bill"))
    export.deliver(few)
    look(where, ledger, topic.deliver, "EffectiveCost", print)
    before = topic.stands()
    (tmp_path / "bill/2024-09.csv").write_bytes(b"Colour\r\nred\r\n")
    lines: list[str] = []
    assert not look(where, ledger, topic.deliver, "EffectiveCost", lines.append)
    assert len(lines) == 1 and "2024-09.csv: not sent:" in lines[0] and "not a FOCUS bill" in lines[0]
    assert topic.stands() == before
    export.deliver(few[:3])
    assert look(where, ledger, topic.deliver, "EffectiveCost", lines.append)
    assert topic.stands() == in_directory(where) and len(topic.stands()) == 3


def test_of_two_exports_of_a_charge_the_later_one_counts_whichever_was_sent_first(tmp_path, rows):
    exports = [Export("aws_overwrite", writer(tmp_path / f"bill/{name}"), list(rows[0])) for name in "ab"]
    topic, ledger, where = Topic(), Ledger(None, ABOUT), place(str(tmp_path / "bill"))
    for hour, (number, cost) in enumerate(((0, "1"), (1, "2"), (1, "3"), (0, "4"), (0, "4"), (1, "5"))):
        exports[number].deliver([row | {"EffectiveCost": cost} for row in rows[:3]], hour=hour)
        look(where, ledger, topic.deliver, "EffectiveCost", print)
        # A bounded run sees that the two say different things.
        assert [of[:2] for of in topic.stands().values()] == [of[:2] for of in in_directory(where).values()]
        assert {of[0] for of in topic.stands().values()} == {cost}


def test_a_scope_that_is_deleted_is_no_delivery(tmp_path, rows):
    """Old months expire in a bucket; what they cost stays."""
    topic, ledger, where = Topic(), Ledger(None, ABOUT), place(str(tmp_path / "bill"))
    Export("file", writer(tmp_path / "bill"), list(rows[0])).deliver(rows[:5])
    look(where, ledger, topic.deliver, "EffectiveCost", print)
    (tmp_path / "bill/2024-09.csv").unlink()
    look(where, ledger, topic.deliver, "EffectiveCost", print)
    assert len(topic.records) == 5


def test_rows_that_cannot_be_used_are_sent_once_for_the_job_to_reject(tmp_path, rows):
    topic, ledger, where = Topic(), Ledger(None, ABOUT), place(str(tmp_path / "bill"))
    export = Export("file", writer(tmp_path / "bill"), list(rows[0]))
    for _ in range(2):
        export.deliver([rows[0], rows[1] | {"EffectiveCost": "n/a"}])
        look(where, ledger, topic.deliver, "EffectiveCost", print)
    assert len(topic.records) == 2
    kinds = [collect_charge_record(record, "")[0] for record in topic.records]
    assert sorted(kinds) == ["charge", "reject"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_charge_is_final_once_the_provider_says_that_its_hour_is_complete(tmp_path, rows, layout):
    """Exactly the charges are sent again whose hours became complete, though no file of the bill changed."""
    few = [row | {"BillingPeriodStart": "2024-09-01 00:00:00"} for row in rows[::9]]
    export = Export(layout, writer(tmp_path / "bill"), list(rows[0]))
    topic, ledger, where = Topic(), Ledger(tmp_path / "state", ABOUT), place(str(tmp_path / "bill"))
    export.deliver(few)
    was = len(few)
    for day in (1, 11, 20, 31):
        moment = datetime(2024, 9, 1, tzinfo=UTC).timestamp() + (day - 1) * 86_400
        export.say("recency/recency-1234", recency(datetime.fromtimestamp(moment, UTC)))
        before = len(topic.records)
        assert look(where, ledger, topic.deliver, "EffectiveCost", print)
        assert topic.stands() == in_directory(where)
        assert total(topic.stands()) == sum(Decimal(row["EffectiveCost"]) for row in few)
        incomplete = sum(of[3] for of in topic.stands().values())
        ends = [datetime.fromisoformat(row["ChargePeriodEnd"]).replace(tzinfo=UTC).timestamp() for row in few]
        assert incomplete == sum(end > moment for end in ends)
        if day > 1:
            assert len(topic.records) - before == 2 * (was - incomplete) > 0
        was = incomplete
    assert was == 0 and not any(of[2] for of in topic.stands().values())


@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout not in ("aws_overwrite", "file")])
def test_under_append_a_later_delivery_adds_and_takes_no_place(tmp_path, rows, layout):
    """The same row twice is two charges, and what was delivered is not sent again."""
    export = Export(layout, writer(tmp_path / "bill"), list(rows[0]))
    topic, ledger, where = Topic(), Ledger(tmp_path / "state", ABOUT), place(str(tmp_path / "bill"))
    export.say("dataset_instance", {"DatasetInstance": [{"DatasetInstanceId": "1", "DeliveryHandling": "Append"}]})
    less = rows[5] | {"EffectiveCost": "-0.25"}
    delivered, sent = [], []
    for part in (rows[:10], [*rows[10:15], less], [less, rows[0]]):
        export.deliver(part)
        delivered += part
        assert look(where, ledger, topic.deliver, "EffectiveCost", print)
        assert topic.stands() == in_directory(where) and len(topic.stands()) == len(delivered)
        assert total(topic.stands()) == sum(Decimal(row["EffectiveCost"]) for row in delivered)
        assert not any(of[2] for of in topic.stands().values())
        sent.append(len(topic.records))
    assert sent[:2] == [10, 16]
    random.Random(3).shuffle(topic.records)
    assert topic.stands() == in_directory(where)


def test_identical_rows_are_sent_as_copies(tmp_path, rows):
    topic, ledger, where = Topic(), Ledger(None, ABOUT), place(str(tmp_path / "bill"))
    export = Export("aws_create_new", writer(tmp_path / "bill"), list(rows[0]))
    export.deliver([rows[0]] * 3 + [correction(rows[1], "1")] * 2)
    look(where, ledger, topic.deliver, "EffectiveCost", print)
    assert sorted(json.loads(record).get("x_CopyNumber", 1) for record in topic.records) == [1, 1, 2, 2, 3]
    assert topic.stands() == in_directory(where)
    export.deliver([rows[0]])
    look(where, ledger, topic.deliver, "EffectiveCost", print)
    assert topic.stands() == in_directory(where) and len(topic.stands()) == 1


def test_a_state_is_of_one_bill_and_in_use_by_one_program(tmp_path):
    ledger = Ledger(tmp_path / "state", ABOUT)
    with pytest.raises(JobError, match="can't be used as state"):
        Ledger(tmp_path / "state", ABOUT)
    ledger.close()
    with pytest.raises(UsageError, match="is of /bills broker:9092 EffectiveCost, not of /others"):
        Ledger(tmp_path / "state", ["/others"])
    (tmp_path / "text").write_text("no database at all, and longer than a header is" * 9)
    with pytest.raises(JobError, match="can't be used as state"):
        Ledger(tmp_path / "text", ABOUT)


@pytest.mark.parametrize(
    ("arguments", "status", "part"),
    [
        ([], 2, "--from"),
        (["--from", "x", "--to", "postgresql://h/d"], 2, "must be kafka://HOST:PORT"),
        (["--from", "x", "--to", "kafka://h:1", "--every", "soon"], 2, "--every soon"),
        (["--from", "x", "--to", "kafka://h:1", "--set", "cost.column=Cost"], 2, "must be one of EffectiveCost"),
        (["--from", "x", "--to", "kafka://h:1", "--set", "kafka.sasl.plain.password=x"], 2, "a secret"),
        (["--from", "ftp://x", "--to", "kafka://127.0.0.1:1", "--once"], 1, "ftp:// is not known"),
        (["--from", "x", "--to", "kafka://127.0.0.1:1", "--set", "kafka.bootstrap.timeout.ms=200"], 1, "no broker"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_in_one_line(capsys, arguments, status, part):
    assert bill.main(arguments) == status
    told = capsys.readouterr().err
    assert told.startswith("bill: ") and told.count("\n") == 1 and part in told


def test_settings_and_secrets():
    settings = load(
        ["--from", "s3://b", "--to", "kafka://h:1,i:2", "--every", "2h", "--set", "kafka.sasl.mechanism=SCRAM-SHA-256"],
        {"KAFKA_USERNAME": "u", "KAFKA_PASSWORD": "hush"},
    )
    assert (settings.broker, settings.every_s) == ("h:1,i:2", 7200)
    assert settings.kafka["sasl_mechanism"] == "SCRAM-SHA-256" and settings.kafka["security_protocol"] == "SASL_SSL"
    assert "hush" not in repr(settings)


def test_a_watch_says_what_holds_once_and_goes_on(tmp_path, rows, monkeypatch, capsys):
    """A place that can't be listed, then is there."""
    topic, stop, looks = Topic(), threading.Event(), []

    def wait(seconds: float) -> bool:
        looks.append(seconds)
        if len(looks) == 2:
            Export("file", writer(tmp_path / "bill"), list(rows[0])).deliver(rows[:4])
        return len(looks) == 4

    monkeypatch.setattr(stop, "wait", wait)
    monkeypatch.setattr(bill, "_deliver_to", lambda settings: topic.deliver)
    arguments = ["--from", str(tmp_path / "bill"), "--to", "kafka://h:1", "--every", "30s"]
    assert bill.main(arguments, stop) == 0
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and "can't be listed" in lines[0] and "trying again in 30 s" in lines[0]
    assert lines[1] == "bill: 2024-09.csv: 4 records sent"
    assert looks == [30] * 4 and len(topic.records) == 4

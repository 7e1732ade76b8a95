"""A bill in an object store, as the providers write it there, by the bounded run and by python -m jobs.bill."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal

import boto3
import pytest
from moto.server import ThreadedMotoServer

from jobs import billing
from jobs.bill import look
from jobs.errors import JobError
from jobs.ledger import Ledger
from tests.bills import Export, recency, sample, snapshots
from tests.unit.test_bill import Topic, in_directory, stands, total
from udfs.pure import bills

BUCKET = "bills"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """Of an S3 server."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        yield "{}:{}".format(*server.get_host_and_port())
    finally:
        server.stop()


@pytest.fixture
def store(
    endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, Callable[[str, bytes, datetime], None]]]:
    """(URL of a prefix, what writes an object below it)."""
    for name, value in (
        ("AWS_ACCESS_KEY_ID", "key"),
        ("AWS_SECRET_ACCESS_KEY", "hush"),
        ("AWS_EC2_METADATA_DISABLED", "true"),
    ):
        monkeypatch.setenv(name, value)
    s3 = boto3.client("s3", endpoint_url=f"http://{endpoint}", region_name="us-east-1")
    s3.create_bucket(Bucket=BUCKET)

    def write(path: str, content: bytes, at: datetime) -> None:
        s3.put_object(Bucket=BUCKET, Key=f"cost/{path}", Body=content)

    yield f"s3://{BUCKET}/cost?endpoint_override={endpoint}&scheme=http&region=us-east-1", write
    for entry in s3.list_objects_v2(Bucket=BUCKET).get("Contents", ()):
        s3.delete_object(Bucket=BUCKET, Key=entry["Key"])
    s3.delete_bucket(Bucket=BUCKET)


@pytest.mark.parametrize("layout", ["aws_overwrite", "aws_create_new", "azure"])
def test_the_topic_is_the_bill_at_each_delivery(store, layout):
    """Its executions have colons in their names, its times are the store's."""
    url, write = store
    rows = sample()[::6]
    export = Export(layout, write, list(rows[0]))
    topic, ledger = Topic(), Ledger(None, [url])
    for what, month in snapshots(rows, hours=2):
        export.deliver(month)
        where = bills.place(url)
        look(where, ledger, topic.deliver, "EffectiveCost", print)
        assert topic.stands() == in_directory(where), what
        if what == "closed":
            assert total(topic.stands()) == sum(Decimal(row["EffectiveCost"]) for row in rows)
    # What a worker of the bounded run reads.
    texts = billing.find(url, "EffectiveCost")
    charges = [value for text in texts for _, _, value in bills.collect(text, "EffectiveCost")]
    assert stands(charges) == topic.stands()


def test_what_the_provider_says_is_complete_holds_in_both_runs(store):
    """Recency by the hour, then the billing period closed."""
    url, write = store
    rows = [row | {"InvoiceIssuerName": "Issuer"} for row in sample()[::6]]
    rows = [row | {"BillingPeriodStart": "2024-09-01 00:00:00"} for row in rows]
    export = Export("aws_create_new", write, list(rows[0]))
    topic, ledger = Topic(), Ledger(None, [url])
    header = "BillingPeriodStart,BillingPeriodStatus,InvoiceIssuerName,BillingPeriodLastUpdated\n"
    incomplete = []
    for number, (status, until) in enumerate([("Open", 1), ("Open", 20), ("Closed", 20)]):
        export.deliver(rows)
        export.say("recency/recency-1", recency(datetime(2024, 9, until, tzinfo=UTC)))
        period = f"2024-09-01T00:00:00Z,{status},issuer,2024-10-0{number + 1}T00:00:00Z\n"
        write("exports/billing_period/2024-09.csv", (header + period).encode(), datetime(2024, 10, 1, tzinfo=UTC))
        where = bills.place(url)
        assert look(where, ledger, topic.deliver, "EffectiveCost", print)
        texts = billing.find(url, "EffectiveCost")
        charges = [value for text in texts for _, _, value in bills.collect(text, "EffectiveCost")]
        assert stands(charges) == topic.stands()
        assert total(topic.stands()) == sum(Decimal(row["EffectiveCost"]) for row in rows)
        incomplete.append(sum(of[3] for of in topic.stands().values()))
    assert incomplete[0] == len(rows) > incomplete[1] > incomplete[2] == 0


def test_a_place_that_is_not_there_is_one_line(store):
    url, _ = store
    with pytest.raises(JobError, match="^s3://nowhere/cost: can't be listed: .*$"):
        billing.find(url.replace(BUCKET, "nowhere"), "EffectiveCost")

"""A bill in an object store, as the providers write it there, by the bounded run and by python -m jobs.bill."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from urllib.parse import quote
from urllib.request import Request, urlopen

import boto3
import pyarrow
import pyarrow.parquet
import pytest
from azure.storage.blob import BlobServiceClient
from moto.server import ThreadedMotoServer

from jobs import billing, doctor
from jobs.bill import look
from jobs.errors import JobError
from jobs.ledger import Ledger
from tests.bills import Export, recency, sample, snapshots, text_of
from tests.services import Azurite, azurite, google_storage
from tests.unit.test_bill import Topic, in_directory, stands, total
from udfs.pure import bills, blobs
from udfs.pure.focus import UnreadableBill

BUCKET = "bills"


@dataclass(frozen=True)
class Store:
    """url: of a prefix. write: an object below it. nowhere: the same prefix of a bucket that isn't there. Each as the
    user gives it."""

    url: str
    write: Callable[[str, bytes, datetime | None], None]
    nowhere: str


@pytest.fixture(scope="module")
def s3_endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        yield "{}:{}".format(*server.get_host_and_port())
    finally:
        server.stop()


@pytest.fixture(scope="module")
def google_endpoint() -> Iterator[str]:
    with google_storage() as server:
        yield f"127.0.0.1:{server.port}"


@pytest.fixture(scope="module")
def azure() -> Iterator[Azurite]:
    with azurite() as server:
        yield server


@pytest.fixture
def s3(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    for name, value in (
        ("AWS_ACCESS_KEY_ID", "key"),
        ("AWS_SECRET_ACCESS_KEY", "hush"),
        ("AWS_EC2_METADATA_DISABLED", "true"),
    ):
        monkeypatch.setenv(name, value)
    client = boto3.client("s3", endpoint_url=f"http://{s3_endpoint}", region_name="us-east-1")
    client.create_bucket(Bucket=BUCKET)

    def write(path: str, content: bytes, at: datetime | None = None) -> None:
        client.put_object(Bucket=BUCKET, Key=f"cost/{path}", Body=content)

    query = f"endpoint_override={s3_endpoint}&scheme=http&region=us-east-1"
    yield Store(f"s3://{BUCKET}/cost?{query}", write, f"s3://nowhere/cost?{query}")
    for entry in client.list_objects_v2(Bucket=BUCKET).get("Contents", ()):
        client.delete_object(Bucket=BUCKET, Key=entry["Key"])
    client.delete_bucket(Bucket=BUCKET)


@pytest.fixture
def google(google_endpoint: str) -> Iterator[Store]:
    server = f"http://{google_endpoint}"

    def write(path: str, content: bytes, at: datetime | None = None) -> None:
        name = quote(f"cost/{path}", safe="")
        to = f"{server}/upload/storage/v1/b/{BUCKET}/o?uploadType=media&name={name}"
        urlopen(Request(to, content, {"Content-Type": "text/plain"}, method="POST")).close()

    query = f"endpoint_override={google_endpoint}&scheme=http"
    yield Store(f"gs://anonymous@{BUCKET}/cost?{query}", write, f"gs://anonymous@nowhere/cost?{query}")
    urlopen(f"{server}/wipe?keep-buckets=true").close()


@pytest.fixture
def abfss(azure: Azurite, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setenv(blobs.KEY, azure.KEY)
    account = BlobServiceClient(f"{azure.url}/{azure.ACCOUNT}", credential=azure.KEY)
    container = account.create_container(BUCKET)

    def write(path: str, content: bytes, at: datetime | None = None) -> None:
        container.upload_blob(f"cost/{path}", content, overwrite=True)

    place = f"@{azure.ACCOUNT}.dfs.core.windows.net/cost?endpoint_override=127.0.0.1:{azure.port}&scheme=http"
    yield Store(f"abfss://{BUCKET}{place}", write, f"abfss://nowhere{place}")
    container.delete_container()
    account.close()


AZURE = pytest.param("abfss", marks=pytest.mark.node)


@pytest.fixture(params=["s3", "google", AZURE])
def store(request: pytest.FixtureRequest) -> Store:
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("layout", ["aws_overwrite", "aws_create_new", "azure", "google"])
def test_the_topic_is_the_bill_at_each_delivery(store, layout):
    """AWS's executions have colons in their names, and the times are the store's."""
    rows = sample()[::6]
    export = Export(layout, store.write, list(rows[0]))
    topic, ledger = Topic(), Ledger(None, [store.url])
    for what, month in snapshots(rows, hours=2):
        export.deliver(month)
        where = bills.place(store.url)
        look(where, ledger, topic.deliver, "EffectiveCost", print)
        assert topic.stands() == in_directory(where), what
        if what == "closed":
            assert total(topic.stands()) == sum(Decimal(row["EffectiveCost"]) for row in rows)
    # What a worker of the bounded run reads.
    texts = billing.find(store.url, "EffectiveCost").deliveries
    charges = [value for text in texts for _, _, value in bills.collect(text, "EffectiveCost")]
    assert stands(charges) == topic.stands()


def test_what_the_provider_says_is_complete_holds_in_both_runs(store):
    """Recency by the hour, then the billing period closed."""
    rows = [row | {"InvoiceIssuerName": "Issuer"} for row in sample()[::6]]
    rows = [row | {"BillingPeriodStart": "2024-09-01 00:00:00"} for row in rows]
    export = Export("aws_create_new", store.write, list(rows[0]))
    topic, ledger = Topic(), Ledger(None, [store.url])
    header = "BillingPeriodStart,BillingPeriodStatus,InvoiceIssuerName,BillingPeriodLastUpdated\n"
    incomplete = []
    for number, (status, until) in enumerate([("Open", 1), ("Open", 20), ("Closed", 20)]):
        export.deliver(rows)
        export.say("recency/recency-1", recency(datetime(2024, 9, until, tzinfo=UTC)))
        period = f"2024-09-01T00:00:00Z,{status},issuer,2024-10-0{number + 1}T00:00:00Z\n"
        store.write("exports/billing_period/2024-09.csv", (header + period).encode(), datetime(2024, 10, 1, tzinfo=UTC))
        where = bills.place(store.url)
        assert look(where, ledger, topic.deliver, "EffectiveCost", print)
        texts = billing.find(store.url, "EffectiveCost").deliveries
        charges = [value for text in texts for _, _, value in bills.collect(text, "EffectiveCost")]
        assert stands(charges) == topic.stands()
        assert total(topic.stands()) == sum(Decimal(row["EffectiveCost"]) for row in rows)
        incomplete.append(sum(of[3] for of in topic.stands().values()))
    assert incomplete[0] == len(rows) > incomplete[1] > incomplete[2] == 0


def test_parquet_is_read_in_parts(store, tmp_path):
    """Its footer first, by its place in the file."""
    rows = sample()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "bill.parquet", row_group_size=100)
    content = (tmp_path / "bill.parquet").read_bytes()
    store.write("one/bill one.parquet", content, None)
    where = bills.place(store.url)
    [delivery] = where.deliveries()[0]
    assert list(where.rows(delivery, "EffectiveCost")) == rows
    with where.open("one/bill one.parquet") as file:
        file.seek(-4, 2)
        assert (file.read(), file.tell()) == (b"PAR1", len(content))
        file.seek(2)
        assert file.read(7) == content[2:9]


def test_a_bucket_that_is_not_there_is_one_line(store):
    scheme, bucket = store.nowhere.split("/cost")[0].split("://")
    with pytest.raises(JobError, match=rf"^{scheme}://{bucket}/cost: can't be listed: [^\n{{}}]+$"):
        billing.find(store.nowhere, "EffectiveCost")


def test_a_prefix_with_nothing_below_it_is_one_line(store):
    with pytest.raises(JobError, match=r"^\w+://[^?]*/cost: can't be listed: [^\n{}]+$"):
        billing.find(store.url, "EffectiveCost")


def test_a_file_that_is_gone_is_named(store):
    store.write("bill.csv", b"ChargePeriodStart,ChargePeriodEnd,BillingCurrency,EffectiveCost\n", None)
    where = bills.place(store.url)
    [delivery] = where.deliveries()[0]
    gone = replace(delivery, files=("gone.csv",))
    assert list(where.rows(delivery, "EffectiveCost")) == []
    with pytest.raises(UnreadableBill, match=r"^\w+://[^?]*/cost/gone.csv: can't be read as FOCUS rows: [^\n]+$"):
        list(where.rows(gone, "EffectiveCost"))


# ---- wrong logins, no network ------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is tried again. A place is kept with its client."""
    monkeypatch.setattr(blobs, "_RETRY", {"retry_total": 0})
    monkeypatch.setattr(bills, "_GOOGLE_RETRY_S", 1)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    bills.place.cache_clear()
    yield
    bills.place.cache_clear()


@pytest.fixture
def deaf_port() -> Iterator[int]:
    """A port that nobody listens on: it is held, so that no other test's server takes it meanwhile."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@pytest.mark.parametrize(
    "url",
    [
        "s3://b/cost?region=us-east-1&",
        "gs://anonymous@b/cost?",
        "abfss://b@devstoreaccount1.dfs.core.windows.net/cost?",
    ],
)
def test_where_nobody_answers_the_command_says_so_and_lives(url, deaf_port, impatient, monkeypatch, capsys, tmp_path):
    """pyarrow's client of Azure ends the process."""
    monkeypatch.setenv(blobs.KEY, Azurite.KEY)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    address = f"{url}endpoint_override=127.0.0.1:{deaf_port}&scheme=http"
    assert doctor.main(["--input", str(tmp_path), "--bill", address]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"doctor: {url.partition('?')[0]}: can't be listed: ") and "onnect" in line
    assert "hush" not in line and Azurite.KEY not in line


def test_no_login_to_azure_is_one_line(deaf_port, impatient, monkeypatch):
    for name in (blobs.KEY, blobs.SAS_TOKEN):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "EnvironmentCredential")  # asks nobody else
    place = f"abfss://b@account.dfs.core.windows.net/cost?endpoint_override=127.0.0.1:{deaf_port}"
    with pytest.raises(JobError, match=rf"^[^\n]*: can't be listed: [^\n]*\(set {blobs.KEY} or .*\)$"):
        billing.find(place, "EffectiveCost")


@pytest.mark.node
def test_a_wrong_key_of_azure_is_one_line(abfss, monkeypatch, impatient):
    monkeypatch.setenv(blobs.KEY, Azurite.KEY.replace("E", "F"))
    with pytest.raises(JobError, match="^[^\n]*: can't be listed: Server failed to authenticate the request[^\n]*$"):
        billing.find(abfss.url, "EffectiveCost")
    monkeypatch.setenv(blobs.KEY, "no key")
    bills.place.cache_clear()
    with pytest.raises(JobError, match=f"^[^\n]*: can't be listed: [^\n]*{blobs.KEY}[^\n]*$"):
        billing.find(abfss.url, "EffectiveCost")


@pytest.mark.node
def test_what_changed_while_it_was_read_is_not_read(abfss):
    """The half of one delivery and the half of the next would be a bill that nobody sent."""
    size = (4 << 20) + 1000
    abfss.write("bill.csv", b"a" * size, None)
    with closing(bills.place(abfss.url).open("bill.csv")) as file:
        assert file.read(1) == b"a"
        abfss.write("bill.csv", b"b" * size, None)
        with pytest.raises(OSError, match="condition"):
            while file.read(1 << 20):
                pass


def test_wrong_google_credentials_are_one_line(google_endpoint, impatient, monkeypatch, tmp_path: Path):
    credentials = tmp_path / "login.json"
    credentials.write_text(json.dumps({"type": "service_account", "private_key": "no key"}))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(credentials))
    with pytest.raises(JobError, match=rf"^gs://{BUCKET}/cost: [^\n]*{credentials}[^\n]*$"):
        billing.find(f"gs://{BUCKET}/cost?endpoint_override={google_endpoint}&scheme=http", "EffectiveCost")


def test_half_of_a_delivery_is_none(store):
    """AWS overwrites the parts of a month, then the manifest: a run between the two reads neither."""
    rows = sample()[::6]
    export = Export("aws_overwrite", store.write, list(rows[0]))
    export.deliver(rows)
    assert len(billing.find(store.url, "EffectiveCost").deliveries) == 1
    time.sleep(1.1)  # a store tells whole seconds
    part = "exports/focus/data/BILLING_PERIOD=2024-09/focus-00001.csv"
    store.write(part, text_of(rows[:1], list(rows[0])), None)
    with pytest.raises(JobError, match=r"focus-Manifest.json: its delivery is not complete: .*00001.csv is newer"):
        billing.find(store.url, "EffectiveCost")
    export.deliver(rows)
    assert len(billing.find(store.url, "EffectiveCost").deliveries) == 1


def test_a_prefix_may_have_blanks(s3):
    s3.write("my bills/bill.csv", text_of(sample()[:3], list(sample()[0])), None)
    at = s3.url.replace("/cost?", "/cost/my bills?")
    [text] = billing.find(at, "EffectiveCost").deliveries
    assert len(list(bills.collect(text, "EffectiveCost"))) == 3


def test_wrong_aws_credentials_are_one_line(s3, s3_endpoint, monkeypatch, impatient):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    with pytest.raises(JobError, match=r"^s3://bills/cost: can't be listed: [^\n]+$"):
        billing.find(s3.url, "EffectiveCost")


@pytest.mark.parametrize(
    "url, why",
    [
        ("abfss://b/cost", "must be abfss://CONTAINER@ACCOUNT"),
        ("abfss://account@/cost", "must be abfss://CONTAINER@ACCOUNT"),
        ("abfss://a:c2VjcmV0@a.dfs.core.windows.net/cost", "the login in the environment"),
        ("abfss://b@a.dfs.core.windows.net/cost?account_key=c2VjcmV0", "account_key is not known"),
        ("wasbs://b@a.blob.core.windows.net/cost", "wasbs:// is not known"),
    ],
)
def test_a_url_that_names_no_place_is_one_line(url, why):
    with pytest.raises(bills.NoSuchPlace, match=why) as raised:
        bills.place(url)
    assert "\n" not in str(raised.value)

"""rates: what a unit costs before its own bill says so, which source tells it, and other currencies."""

from __future__ import annotations

from decimal import Decimal
from itertools import permutations

import orjson
import pytest

from jobs import config
from jobs.errors import UsageError
from udfs.pure.focus import collect_charge
from udfs.pure.rates import (
    BookPrice,
    Prices,
    capacity,
    load_exchange,
    load_price_book,
    offer,
    rate_card,
    unit_kind,
    usage_per_unit,
    windows_per_unit,
)
from udfs.pure.windows import HOUR_MS

START_MS = 1_726_696_800_000  # 2024-09-18 22:00 UTC
LATER = START_MS + 5 * HOUR_MS
GIB = 2**30


def charge(cost="0.4", unit="vCPU-Hours", sku="cpu", hour=0, exchange=None, **columns):
    row = {
        "ResourceId": "i-1", "SkuId": sku, "ServiceCategory": "Compute", "ChargeCategory": "Usage",
        "ChargePeriodStart": START_MS + hour * HOUR_MS,
        "ChargePeriodEnd": START_MS + (hour + 1) * HOUR_MS,
        "EffectiveCost": cost, "BillingCurrency": "USD", "ConsumedQuantity": "2",
        "ConsumedUnit": unit, "PricingQuantity": "2", "PricingUnit": unit, "ListUnitPrice": "0.25",
    }  # fmt: skip
    return collect_charge(row | columns, exchange=exchange)


def card_of(*charges, resources=1):
    """The card of these charges; the same in any order."""
    offers = [(resources, found[2]) for found in map(offer, charges) if found]
    cards = {rate_card(order) for order in list(permutations(offers))[:24]}
    [card] = cards
    return tuple(orjson.loads(card))


def rates(card, dimension="cpu", at_ms=LATER, skus=("cpu",), book=(), is_billed=True, resource="i-9"):
    return Prices(card, tuple(book)).rates(resource, dimension, at_ms, set(skus), is_billed)


# ---- units --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("unit", "dimension", "usage"),
    [
        ("vCPU-Hours", "cpu", 3600),
        ("OCPU Per Hour", "cpu", 3600),
        ("vCPU-Seconds", "cpu", 1),
        ("100 vCPU Minutes", "cpu", 6000),
        ("hour", "cpu", 3600),  # of a core
        ("GiB-Hours", "memory", GIB * 3600),
        ("Lambda-GB-Seconds", "memory", 10**9),
        ("Gigabyte Per Hour", "memory", 36 * 10**11),
        ("mebibyte seconds", "memory", 2**20),
        ("Operations", "io", 1),
        ("1,000,000 Operations", "io", 10**6),
        ("10K Requests", "io", 10**4),
        ("5 million requests", "io", 5 * 10**6),
        ("GB", "network", 10**9),
        ("1 TiB", "network", 2**40),
        ("Bytes", "network", 1),
        ("GB", "memory", 0),
        ("vCPU-Hours", "memory", 0),
        ("Months", "cpu", 0),
        ("", "io", 0),
    ],
)
def test_a_unit_of_the_bill_is_so_much_usage(unit, dimension, usage):
    assert usage_per_unit(unit, dimension) == usage


def test_an_hour_of_a_machine_is_two_windows():
    assert [windows_per_unit(unit) for unit in ("Hours", "1 Hour", "vCPU-Hours")] == [2, 2, 0]
    assert unit_kind("Instance-Hours") == "machine"


# ---- the card -----------------------------------------------------------------------------------


def test_a_rate_is_cost_by_unit_of_usage():
    [entry] = card_of(charge("0.36"))
    assert (entry["sku_id"], entry["currency"], entry["dimension"]) == ("cpu", "USD", "cpu")
    assert entry["rates"] == [[START_MS, "0.00005"]]  # 0.36 by two vCPU hours
    assert Decimal(entry["list"]) * 3600 == pytest.approx(Decimal("0.25"))


def test_a_machines_rate_is_of_one_machine_and_window():
    size = '{"CoreCount": 8, "MemorySize": 16}'
    cpu, memory = card_of(charge("0.8", "Hours", SkuPriceDetails=size))
    assert cpu["per"] == memory["per"] == "window"
    of_both = Decimal(cpu["rates"][0][1]) + Decimal(memory["rates"][0][1])
    assert round(of_both, 12) == Decimal("0.2")  # 0.8 for two machines and an hour


def test_a_machines_size_is_known_by_its_sku():
    size = '{"CoreCount": 8, "MemorySize": 16}'
    card = card_of(charge("0.8", "Hours", SkuPriceDetails=size), charge("0.8", "Hours", hour=1))
    assert [(e["dimension"], e["capacity"]) for e in card] == [("cpu", "14400"), ("memory", str(16 * GIB * 1800))]
    [licence] = {
        e["capacity"] for e in card_of(charge("1", "Hours", SkuPriceDetails=size, ChargeDescription="a licence"))
    }
    assert licence == "0"
    assert rates(card)["USD"]["capacity"] == "14400"
    more = card_of(charge("1", "Hours", sku="more", SkuPriceDetails=size, ChargeDescription="a licence"))
    assert rates(card + more, skus=("cpu", "more"))["USD"]["capacity"] == "14400"
    assert rates(more, skus=("more",))["USD"]["capacity"] is None
    unknown = card_of(charge("1", "Hours", sku="more"))
    assert rates(card + unknown, skus=("cpu", "more"))["USD"]["capacity"] is None
    # what an earlier release offered has no size
    sku, at_ms, text = offer(charge("0.8", "Hours", SkuPriceDetails=size))
    old = orjson.loads(text)
    old[4] = [price[:4] for price in old[4]]
    assert {e["capacity"] for e in orjson.loads(rate_card([(1, orjson.dumps(old).decode())]))} == {None}


def test_a_list_price_of_use_is_that_of_the_sku_or_of_the_book():
    size = '{"CoreCount": 8, "MemorySize": 16}'
    machines = card_of(charge("0.8", "Hours", SkuPriceDetails=size, ListUnitPrice="1"))

    def listed(card, skus=("cpu",), book=(), currency="USD"):
        found = Prices(card, tuple(book)).listed("i-9", "cpu", set(skus), currency)
        return found and round(found * 3600, 9)

    cpu_weight = Decimal(machines[0]["list"]) * 2  # of an hour of one machine
    assert listed(machines) == round(cpu_weight / 8, 9)
    assert listed(card_of(charge("0.36"))) == Decimal("0.25")
    assert listed(machines, skus=("another",)) is None
    assert listed(machines, currency="EUR") is None
    assert listed((), book=[BOOK], currency="EUR") == Decimal("0.036")
    assert listed((), book=[BOOK]) is None


def test_only_where_the_rate_changes_it_is_told():
    [entry] = card_of(*(charge(cost, hour=i) for i, cost in enumerate(("0.36", "0.36", "0.72"))))
    assert entry["rates"] == [[START_MS, "0.00005"], [START_MS + 2 * HOUR_MS, "0.0001"]]


def test_what_tells_no_rate_offers_none():
    for columns in (
        {"SkuId": ""},
        {"ChargeClass": "Correction"},
        {"ChargeCategory": "Credit"},
        {"EffectiveCost": "-1"},
        {"ResourceId": ""},
        {"ServiceCategory": "Storage", "ConsumedUnit": "GB-Months", "PricingUnit": "GB-Months"},
    ):
        assert offer(charge(**columns)) is None, columns


def test_the_pricing_quantity_helps_where_none_is_consumed():
    [entry] = card_of(charge("0.36", ConsumedQuantity=""))
    assert entry["rates"] == [[START_MS, "0.00005"]]
    [entry] = card_of(charge("0.36", ConsumedQuantity="", PricingQuantity="0"))
    assert entry["rates"] == [] and entry["list"]


def test_the_later_snapshot_of_an_hour_counts():
    first = charge("0.36", x_SnapshotTime="2024-09-19")
    second = charge("0.18", x_SnapshotTime="2024-09-20")
    assert max(offer(first)[2], offer(second)[2]) == offer(second)[2]


# ---- the order of sources -----------------------------------------------------------------------


def test_the_latest_earlier_rate_of_the_sku():
    card = card_of(charge("0.36"), charge("0.72", hour=3))
    for hours, cost, since in ((5, "0.0001", 3), (3, "0.00005", 0), (1, "0.00005", 0)):
        found = rates(card, at_ms=START_MS + hours * HOUR_MS)["USD"]
        assert (found["source"], found["cost_per_usage"]) == ("sku", cost)
        assert found["window_start"] == f"2024-09-{18 + (22 + since) // 24}T{(22 + since) % 24:02}:00:00Z"
        assert (found["sku_ids"], found["sku_known_by"]) == (["cpu"], "charges")


def test_before_any_bill_of_the_sku_its_list_price():
    found = rates(card_of(charge("0.36")), at_ms=START_MS)["USD"]
    assert found["source"] == "list_price" and found["window_start"] is None
    assert round(Decimal(found["cost_per_usage"]) * 3600, 9) == Decimal("0.25")


def test_the_skus_of_one_resource_are_added_up():
    card = card_of(charge("0.36"), charge("0.72", sku="extra"))
    assert rates(card, skus=("cpu", "extra"))["USD"]["cost_per_usage"] == "0.00015"


BOOK = BookPrice("cpu", "0.036", "vCPU-Hours", "EUR")


def test_else_the_price_book_and_a_guess_only_after_it():
    card = card_of(charge("0.36"))
    found = rates(card, skus=(), book=[BOOK], is_billed=False)["EUR"]
    assert (found["source"], found["cost_per_usage"]) == ("price_book", "0.00001")
    found = rates(card, skus=(), is_billed=False)["USD"]
    assert (found["source"], found["sku_known_by"]) == ("sku", "only")
    dearer = card_of(charge("0.36"), resources=2) + card_of(charge("0.72", sku="a"))
    found = rates(dearer, skus=(), is_billed=False)["USD"]
    assert (found["sku_ids"], found["sku_known_by"]) == (["cpu"], "most_charged")
    equal = card_of(charge("0.36"), charge("0.72", sku="a"))
    assert rates(equal, skus=(), is_billed=False)["USD"]["sku_ids"] == ["a"]


def test_what_a_billed_resource_is_not_charged_for_has_no_price():
    card = card_of(charge("0.36"), charge("3", "Operations", sku="io", ServiceCategory="Storage"))
    assert rates(card, skus=(), is_billed=True) == {}
    # nor is which queue's or disk's operations a new resource will pay for anybody's guess
    assert rates(card, "io", skus=(), is_billed=False) == {}
    assert rates(card, "io", skus=("io",))["USD"]["cost_per_usage"] == "1.5"


def test_the_most_specific_line_of_the_book_counts():
    def price(at, **columns):
        return BookPrice("cpu", at, "vCPU-Seconds", "USD", **columns)

    book = [
        price("1"),
        price("2", sku_id="cpu"),
        price("3", resource_id="i-*"),
        price("4", resource_id="i-9*"),
        price("5", resource_id="i-9"),
        price("6", resource_id="other"),
    ]

    def of(lines, **more):
        return rates((), book=lines, **more)["USD"]["cost_per_usage"]

    assert [of(book[:n]) for n in range(1, 7)] == ["1", "2", "3", "4", "5", "5"]
    assert of(book[:2], skus=("another",)) == of(book[:2], skus=()) == "1"


def test_a_line_of_the_book_may_say_which_sku_a_resource_is():
    line = BookPrice("cpu", "9", "vCPU-Hours", "USD", resource_id="i-*", sku_id="cpu")
    found = rates(card_of(charge("0.36")), skus=(), book=[line], is_billed=False)["USD"]
    assert (found["source"], found["sku_known_by"]) == ("sku", "price_book")
    assert rates((), skus=(), book=[line], is_billed=False)["USD"]["source"] == "price_book"


def test_currencies_are_not_added():
    card = card_of(charge("0.36"), charge("0.36", sku="x", BillingCurrency="EUR"))
    assert list(rates(card, skus=("cpu", "x"))) == ["USD"]


# ---- capacity -----------------------------------------------------------------------------------


def test_a_charge_pays_for_so_much_use():
    size = '{"CoreCount": 8, "MemorySize": "16 GiB"}'
    machine = charge("0.8", "Hours", SkuPriceDetails=size)
    assert capacity(machine) == {"cpu": 2 * 8 * 3600, "memory": 2 * 16 * GIB * 3600}
    assert capacity(charge()) == {"cpu": 2 * 3600}
    assert capacity(charge(ConsumedQuantity="-2", ChargeClass="Correction")) == {"cpu": -7200}
    for unknown in (
        charge("0.8", "Hours"),
        charge(ChargeDescription="Windows license"),
        charge(ChargeCategory="Credit"),
        charge(ConsumedQuantity="", PricingQuantity=""),
    ):
        assert capacity(unknown) == {}


# ---- files --------------------------------------------------------------------------------------


def test_an_exchange_rate_is_valid_from_its_date_on(tmp_path):
    path = tmp_path / "fx.csv"
    path.write_text(
        "from,to,rate,valid_from\nUSD,EUR,0.90,2024-09-01\nusd,eur,0.80,2024-09-19\n"
        "GBP,EUR,1.2,2024-09-01T12:00:00Z\nUSD,GBP,7,2024-01-01\n"
    )
    exchange = load_exchange(path, "EUR")
    day = 24 * HOUR_MS
    assert [exchange.rate("USD", START_MS + days * day) for days in (-30, 0, 1)] == [None, "0.9", "0.8"]
    assert [exchange.rate(code, START_MS) for code in ("EUR", "JPY", "GBP")] == [None, None, "1.2"]


def test_list_prices_are_converted_like_the_charge(tmp_path):
    (tmp_path / "fx.csv").write_text("from,to,rate,valid_from\nUSD,EUR,2,2024-09-01\n")
    [entry] = card_of(charge("0.36", exchange=load_exchange(tmp_path / "fx.csv", "EUR")))
    assert (entry["currency"], entry["rates"][0][1]) == ("EUR", "0.0001")
    assert round(Decimal(entry["list"]) * 3600, 9) == Decimal("0.5")


def test_a_price_book_is_read(tmp_path):
    path = tmp_path / "prices.csv"
    path.write_text(
        "dimension,unit_price,unit,billing_currency,resource_id\n"
        'cpu,0.0360,vCPU-Hours,usd,onprem-*\nio,0,"1,000 Operations",USD,\n'
    )
    cpu, io = load_price_book(path)
    assert cpu == BookPrice("cpu", "0.036", "vCPU-Hours", "USD", "onprem-*")
    assert (cpu.rate, io.rate) == (Decimal("0.00001"), 0)


def test_a_line_of_the_book_may_name_its_resource_as_the_bill_does(tmp_path):
    path = tmp_path / "prices.csv"
    path.write_text(
        "dimension,unit_price,unit,billing_currency,resource_id\n"
        "cpu,1,vCPU-Hours,USD,arn:aws:ec2:us-east-1:123456789012:instance/i-0abc\n"
    )
    [line] = load_price_book(path)
    assert line.match("i-0abc", ())


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("dimension,unit_price,unit\n", "no column billing_currency"),
        ("disk,1,GB,USD", "line 2: dimension 'disk' must be one of cpu, memory, io, network"),
        ("cpu,1,GB,USD", "line 2: unit 'GB' of cpu: use vCPU-Hours"),
        ("cpu,-1,vCPU-Hours,USD", "line 2: unit_price '-1' must be a number from 0"),
        ("cpu,x,vCPU-Hours,USD", "unit_price 'x'"),
        ("cpu,1,vCPU-Hours,Dollar", "billing_currency 'DOLLAR' is not a code of three letters"),
    ],
)
def test_a_line_of_the_book_that_cannot_be_used_is_named(tmp_path, lines, told):
    path = tmp_path / "prices.csv"
    header = "" if lines.startswith("dimension") else "dimension,unit_price,unit,billing_currency\n"
    path.write_text(header + lines)
    with pytest.raises(UsageError) as caught:
        config.load(["--input", str(tmp_path), "--output", str(tmp_path), "--set", f"prices={path}"])
    assert str(path) in str(caught.value) and told in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["billing.wait=soon"], "must be as 500 ms, 90 s, 90 min, 72 h or 3 d"),
        (["billing.wait=0 h"], "must be as 500 ms, 90 s, 90 min, 72 h or 3 d"),
        (["idle.policy=some"], "must be one of proportional, none, even"),
        (["currency.target=EUR"], "give both or none"),
        (["currency.target=EUR", "currency.rates={dir}/none.csv"], "can't be read"),
        (["currency.target=EUR", "currency.rates={dir}/fx.csv"], "no line has 'EUR' in column to"),
        (["currency.target=GBP", "currency.rates={dir}/fx.csv"], "line 3: USD has another rate"),
        (["currency.target=JPY", "currency.rates={dir}/fx.csv"], "valid_from 'May' is no ISO date"),
    ],
)
def test_settings_of_money_that_cannot_be_meant_are_told(tmp_path, settings, told):
    (tmp_path / "fx.csv").write_text(
        "from,to,rate,valid_from\nUSD,GBP,1,2024-01-01\nUSD,GBP,2,2024-01-01\nUSD,JPY,2,May\n"
    )
    argv = ["--input", str(tmp_path), "--output", str(tmp_path)]
    for pair in settings:
        argv += ["--set", pair.format(dir=tmp_path)]
    with pytest.raises(UsageError) as caught:
        config.load(argv)
    assert told in str(caught.value) and "\n" not in str(caught.value)


def test_settings_of_money(tmp_path):
    argv = ["--input", str(tmp_path), "--output", str(tmp_path)]
    assert config.load(argv).money == config.Money(72 * HOUR_MS, (), "proportional", None)
    more = ["--set", "billing.wait=3 d", "--set", "idle.policy=even"]
    assert config.load([*argv, *more]).money == config.Money(72 * HOUR_MS, (), "even", None)

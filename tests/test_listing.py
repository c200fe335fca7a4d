"""`sciflow list`: the public tables tell what they hold, for people and for programs."""

from __future__ import annotations

import json
from collections import ChainMap

import pytest

from sciflow import listing
from sciflow.config import SLOTS
from sciflow.errors import InputError
from tests.tiny import Place

TABLES = listing.tables()
LABELS = ("cost", "bias")


@pytest.mark.parametrize("table", TABLES)
def test_every_entry_says_what_it_costs_and_how_it_errs(table: str) -> None:
    for row in listing.rows(table):
        assert row["summary"].endswith("."), f"{table} {row['name']}: the first line is a sentence"
        if table == "figures":
            continue
        assert row.get("exactness") or row.get("order"), f"{table} {row['name']}: Exactness: or Order:"
        for label in (*LABELS, *(("target",) if table == "posteriors" else ())):
            assert row.get(label), f"{table} {row['name']}: {label.capitalize()}:"


def test_every_table_that_a_run_file_may_name_is_listed() -> None:
    listed = [table for table in TABLES.values()]
    for protocol, table in SLOTS.items():
        for part in table.maps if isinstance(table, ChainMap) else [table]:
            assert part in listed, f"sciflow list does not know the table of {protocol.__name__}"


@pytest.mark.parametrize("table", TABLES)
def test_a_table_is_printed_with_every_name(table: str, place: Place) -> None:
    shown, told = place.sciflow("list", table), place.sciflow("list", table, "--json")
    assert (shown.status, told.status) == (0, 0)
    rows = json.loads(told.text)
    assert [row["name"] for row in rows] == list(TABLES[table])
    words = shown.text.split()
    for row in rows:
        assert row["name"] in words


def test_the_tables_themselves_are_listed(place: Place) -> None:
    outcome = place.sciflow("list", "--json")
    assert outcome.status == 0
    assert {row["name"]: row["entries"].split(", ") for row in json.loads(outcome.text)} == {
        name: list(table) for name, table in TABLES.items()
    }


def test_an_unknown_table_is_refused_with_a_hint(place: Place) -> None:
    with pytest.raises(InputError, match="there is no table 'solver', only"):
        listing.rows("solver")
    outcome = place.sciflow("list", "solver")
    assert outcome.status == 2
    assert outcome.text.endswith("Did you mean 'solvers'?")

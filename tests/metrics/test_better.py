"""Which way is better stands beside every metric, and ranks as it says."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest

from sciflow.domains import DOMAINS
from sciflow.domains.protocol import better, question
from sciflow.errors import InputError
from sciflow.metrics import BETTER, METRICS, PARTICLE_METRICS
from sciflow.metrics.better import LESS, MORE, directions, known, shortfall, words
from sciflow.random import Stream


def test_every_shared_metric_says_which_way_is_better() -> None:
    assert set(BETTER) == {*METRICS, *PARTICLE_METRICS}


@pytest.mark.parametrize("name", METRICS)
def test_the_rows_that_are_ranked_are_those_that_a_metric_gives(name: str) -> None:
    truth, samples = Stream(1).uniform(6, (1, 5, 5)), Stream(2).uniform(6, (4, 1, 5, 5))
    assert set(BETTER[name]) == (set() if name == "sbc" else set(METRICS[name](truth, samples)))


@pytest.mark.parametrize("domain", DOMAINS)
def test_every_domain_ranks_and_says_of_each_metric_whether_it_does(domain: str) -> None:
    module: Any = question(domain, "evaluate")
    tables: Mapping[str, Any] = {**BETTER, **getattr(module, "BETTER", {})}
    assert set(module.METRICS) <= set(tables), "say {} of a metric that is not ranked"
    ranked = [row for name in module.METRICS for row in tables[name]]
    assert set(ranked) <= set(better(domain)) and any(better(domain)[row] in (LESS, MORE) for row in ranked)


def test_a_direction_is_less_more_or_a_number() -> None:
    assert directions({"a": {"a": LESS, "b": 0.9}}, {"c": {"c": MORE}}) == {"a": "less", "b": "0.9", "c": "more"}
    assert directions({"a": {"a": LESS}}, {"a": {"other": 0}}) == {"other": "0"}, "the later table replaces the entry"
    for wrong in ("lower", math.nan, math.inf, ""):
        with pytest.raises(InputError, match=r"BETTER\['a'\]\['b'\] must be 'less', 'more' or the finite number"):
            directions({"a": {"b": wrong}})


def test_what_a_foreign_table_says_is_a_direction_or_nothing() -> None:
    assert [known(text) for text in ("less", "0.9", "<b>", "", "nan", "-inf")] == ["less", "0.9", "", "", "", ""]
    assert [words(text) for text in ("more", "0.9", "<b>")] == [
        "more is better",
        "nearer to 0.9 is better",
        "not ranked",
    ]


def test_the_shortfall_is_least_for_the_best() -> None:
    values = [0.2, 0.7, 1.0]
    assert [min(values, key=lambda v, way=way: shortfall(v, way)) for way in ("less", "more", "0.75")] == [
        0.2,
        1.0,
        0.7,
    ]
    mean = sum(values) / 3  # 0.633: below 0.75, so that each counts by how far it is below
    assert sum(shortfall(v, "0.75", mean) for v in values) / 3 == pytest.approx(0.75 - mean, abs=1e-15)  # one rounding

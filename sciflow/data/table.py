"""metrics.csv as `evaluate` writes it: one line for each sampler and metric, each number with its standard error."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from sciflow.errors import InputError

WORDS = ("posterior", "metric", "unit", "note")  # columns that are no numbers


def read_rows(table: Path) -> list[dict[str, Any]]:
    """metrics.csv with numbers as numbers; `better` is empty in a table that was written before it had this column.

    Raises:
        InputError: the table is missing or not one of ours.
    """
    try:
        with table.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if lacking := {*WORDS} - {*(reader.fieldnames or ())}:
                raise KeyError(*sorted(lacking))
            return [{**row, **_numbers(row), "better": row.get("better") or ""} for row in reader]
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise InputError(f"{table} is no metrics table ({error}). Run `sciflow evaluate` again.") from error


def _numbers(row: dict[str, Any]) -> dict[str, float]:
    return {"value": float(row["value"]), "stderr": float(row["stderr"]), "n": int(row["n"])}

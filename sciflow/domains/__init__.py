"""Domains: thin plug-ins that answer five questions. Adding one = one folder, one line here, one run file."""

from __future__ import annotations

import importlib

DOMAINS: dict[str, str] = {
    "analytic": "sciflow.domains.analytic",
    "imaging": "sciflow.domains.imaging",
}

DATASETS: dict[str, type] = {
    kind: entry
    for package in DOMAINS.values()
    for kind, entry in importlib.import_module(f"{package}.simulate").DATASETS.items()
}

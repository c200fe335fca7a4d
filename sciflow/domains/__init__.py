"""Domains: thin plug-ins that answer five questions. Adding one = one folder, one line here, one run file."""

from __future__ import annotations

import importlib

DOMAINS: dict[str, str] = {
    "analytic": "problems whose posterior is known in closed form",
    "imaging": "images, and what was measured of them",
    "molecules": "potentials, their Boltzmann laws, and models that sample and simulate them",
    "pde": "fields that obey an equation, and what sensors saw of them",
}

DATASETS: dict[str, type] = {
    kind: entry
    for name in DOMAINS
    for kind, entry in importlib.import_module(f"sciflow.domains.{name}.simulate").DATASETS.items()
}

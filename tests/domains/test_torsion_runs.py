"""Runs that ask for torsions reach their reports: the ladder of the repository, and a molecule of the user's own."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from sciflow.catalogue import leaves
from sciflow.domains.molecules.systems import OpenMMSystem
from sciflow.runs import STAGES, resolve
from tests.tiny import MOLECULES, ROOT, Place, change

RUN, LEARNED = (ROOT / "workflows" / "runs" / f"alanine-{name}.yaml" for name in ("dipeptide", "diffusion"))


def rows_of(results: Path) -> dict[tuple[str, str], dict[str, str]]:
    with (results / "metrics.csv").open(newline="") as file:
        return {(row["posterior"], row["metric"]): row for row in csv.DictReader(file)}


@pytest.mark.slow
def test_the_smoke_size_of_the_learned_model_reaches_its_report(place: Place) -> None:
    """Hardly trained. A network that does not know a molecule from its mirror image draws both alike, even so."""
    shares = {}
    for run in leaves(resolve(LEARNED, smoke=True)):
        sees_volumes = run.content["train"]["network"]["signed_volume"]
        few = {} if sees_volumes else {"evaluate.metrics": ["stereochemistry"], "report.figures": ["loss_curve"]}
        results = place.build(change(run.content, few), f"volumes-{sees_volumes}")
        rows = rows_of(results)
        wanted = {"share_cis"} if few else {"collective_js", "collective_js_z", "energy_w2_z", "share_cis"}
        assert wanted <= {metric for _, metric in rows}
        assert float(rows["held-out frames", "share_d_form"]["value"]) == 0
        shares[sees_volumes] = float(rows["draws", "share_d_form"]["value"])
        report = (results / "report.html").read_text()
        assert "of the draws of draws have a residue of the D form" in report
        assert report.count("data:image/png") == (1 if few else len(run.content["report"]["figures"]))
    assert set(shares) == {False, True}
    assert abs(shares[False] - 0.5) < 4 * np.sqrt(0.25 / (2 * 64))  # s.e. of two repeats of 64 draws


@pytest.mark.slow
def test_the_smoke_size_of_the_run_reaches_its_report(place: Place) -> None:
    for stage in STAGES:
        outcome = place.sciflow(stage, RUN, "--smoke")
        assert outcome.status == 0, f"{stage}: {outcome.text}"
    results = place.results("alanine-dipeptide-smoke")
    rows = rows_of(results)
    for metric in ("ess", "khat", "overlap_min", "log_partition"):
        assert np.isfinite(float(rows["MBAR", metric]["value"])), metric
    assert float(rows["hottest, reweighted", "khat"]["value"]) > 0.7  # 300 K is far from 900 K
    # three ladders' worth of frames and 64 particles: far from good, and still one number for the same ratio
    assert abs(float(rows["annealed SMC", "log_partition_z"]["value"])) < 6
    assert {"collective_js", "energy_w2_z"} <= {metric for _, metric in rows}
    report = (results / "report.html").read_text()
    assert report.count("data:image/png") == 7  # as many as the run file asks for
    for words in ("Frames of the data: drift", "exchange with probability", "MBAR over all temperatures", "kJ/mol"):
        assert words in report
    assert "DO NOT hold" in report  # eight frames cannot


def test_torsions_of_your_own_molecule_are_counted_without_replicas(own: OpenMMSystem, place: Place) -> None:
    collective = {
        "torsions": {
            "phi": ["ACE1-C", "ALA2-N", "ALA2-CA", "ALA2-C"],
            "psi": ["ALA2-N", "ALA2-CA", "ALA2-C", "NME3-N"],
        },
        "basins": {"high": {"psi": [60, -120]}, "low": {"psi": [-120, 60]}},
    }
    dataset = {
        "kind": "langevin", "molecule": {"kind": "openmm_system", "pdb": own.pdb, "system": own.system},
        "n_chains": 64, "n_frames": 4, "every": 5, "warm_up": 20, "collective": collective,
    }  # fmt: skip
    results = place.build(change(MOLECULES, {"dataset": dataset}))
    rows = rows_of(results)
    assert ("held-out frames", "free_energy_low") in rows and not [name for name, _ in rows if name == "MBAR"]
    with xr.open_dataset(results / "data.nc") as data, xr.open_dataset(results / "metrics.nc") as arrays:
        assert data["collective"].attrs["units"] == "°" and data["variable"].to_numpy().tolist() == ["phi", "psi"]
        gap = data["collective"].sel(variable="phi").to_numpy() - data["phi of ALA2"].to_numpy()
        assert np.abs((gap + 180) % 360 - 180).max() < 1e-6
        assert arrays["collective_pmf"].attrs["units"] == "kJ/mol" and arrays["surface"].shape == (36, 36)
    assert "free energy of low above high" in (results / "report.html").read_text()
    dataset["collective"] = {"torsions": {"phi": ["ACE1-C", "ALA2-N", "ALA2-CA", "ALA2-CX"]}}
    outcome = place.sciflow("check", place.write(change(MOLECULES, {"dataset": dataset}), "wrong"))
    assert outcome.status == 2 and "there is no atom 'ALA2-CX'" in outcome.text and "ALA2-C" in outcome.text

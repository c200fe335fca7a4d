"""A network that was trained elsewhere goes through all stages, as the page says; its faults are said first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
import yaml
from torch import nn

from sciflow import config
from sciflow.diffusion.model import load
from sciflow.networks import NETWORKS
from tests.test_docs import ROOT, captioned
from tests.tiny import ANALYTIC, Place, change, restored_tables

PAGE = captioned(ROOT / "docs" / "imaging.md")
MINE: dict[str, Any] = yaml.safe_load(PAGE["mine.yaml"])
SMALL = change(MINE, {"sample.times.n_steps": 12, "sample.n_samples": 8, "dataset.n_observations": 4})
N_STEPS, BATCH = 200, 128


def taught(images: np.ndarray, width: int) -> nn.Module:
    """The network of the page after a short training in plain torch, from images between −1 and 1."""
    torch.manual_seed(0)
    module = NETWORKS["my_denoiser"](width).build(tuple(images.shape[1:]))
    plain = type(module).__mro__[1].forward  # told a step, as whoever trained it did
    rows = 2 * torch.as_tensor(images, dtype=torch.float32) - 1
    kept = (1 - torch.linspace(1e-4, 0.02, 1000)).cumprod(0)
    optimiser = torch.optim.Adam(module.parameters(), 3e-3)
    for _ in range(N_STEPS):
        z, step = rows[torch.randint(len(rows), (BATCH,))], torch.randint(1000, (BATCH,))
        alpha, sigma = (root[step].sqrt()[:, None, None, None] for root in (kept, 1 - kept))
        noise = torch.randn_like(z)
        loss = (plain(module, alpha * z + sigma * noise, step) - (alpha * noise - sigma * z)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return module


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """Of the network of the page, trained on digits; the table of networks is left as it was."""
    from sklearn.datasets import load_digits

    plugin = tmp_path_factory.mktemp("page") / "my_denoiser.py"
    plugin.write_text(PAGE["my_denoiser.py"], encoding="utf-8")
    images = (load_digits().images[:, None] / 16).astype(np.float32)
    with restored_tables():
        config.load_plugins([plugin])
        return taught(images, MINE["train"]["network"]["width"]).state_dict()


@pytest.fixture
def ready(place: Place, weights: dict[str, torch.Tensor]) -> Place:
    (place.folder / "my_denoiser.py").write_text(PAGE["my_denoiser.py"], encoding="utf-8")
    torch.save(weights, place.folder / "weights.pt")
    return place


def test_the_run_of_the_page_goes_through_all_stages(ready: Place) -> None:
    assert "in order" in ready.sciflow("check", ready.write(MINE)).text
    results = ready.build(SMALL)
    facts = json.loads((results / "model.pt.provenance.json").read_text())
    assert set(facts["denoising"]) == {"0.1", "0.3", "1", "3", "10"}
    assert facts["denoising"]["1"] < 0.7, "after 200 steps it should know more of digits than their mean"
    with xr.open_dataset(results / "samples.nc") as drawn:
        assert drawn["samples"].shape == (1, 4, 8, 1, 8, 8) and bool(np.isfinite(drawn["samples"]).all())
    with xr.open_dataset(results / "data.nc") as data, xr.open_dataset(results / "samples.nc") as drawn:
        error = float(np.sqrt(((drawn["samples"].mean("member") - data["truth"]) ** 2).mean()))
        spread = float(data["data"].std())
    assert error < 0.7 * spread, f"means of draws err by {error:.3g}; knowing nothing of the pixels is {spread:.3g}"
    assert (results / "report.html").stat().st_size > 10_000
    np.savez(ready.folder / "scan.npz", image=np.where(np.eye(8) > 0, np.nan, 0.5)[None])
    assert ready.sciflow("apply", "run.yaml", "scan.npz").status == 0


def test_another_process_reads_the_model_with_the_plugin_alone(ready: Place) -> None:
    """And in both precisions it is one function."""
    results = ready.build(SMALL, until="train")
    model = load(results / "model.pt")
    x, t = torch.zeros(2, 1, 8, 8), 0.5
    single = model(x, t)
    model.module.double()
    # 3 convolutions of 32 channels in float32: sums of 288 terms, each rounded to 6e-8
    assert torch.allclose(model(x.double(), t), single.double(), rtol=0, atol=1e-4)
    (ready.folder / "empty.py").write_text("")
    outcome = ready.sciflow("check", ready.write({**SMALL, "plugins": ["my_denoiser.py", "empty.py"]}, "again"))
    assert outcome.status == 0
    del NETWORKS["my_denoiser"]
    with pytest.raises(ValueError, match="load the plugin that defines its network"):
        load(results / "model.pt")


def test_double_precision_is_asked_of_the_network_too(ready: Place) -> None:
    results = ready.build(change(SMALL, {"sample.precision": "float64", "dataset.n_observations": 1}), until="sample")
    with xr.open_dataset(results / "samples.nc") as drawn:
        assert drawn["samples"].dtype == np.float64


MISREAD: dict[str, tuple[dict[str, Any], str]] = {
    "noise": ({"train.predicts": "noise"}, "With `predicts: v, told: log_sigma` it is "),
    "units": ({"train.offset": 0.0, "train.scale": 255.0}, "Check train.schedule, and that (data − offset)/scale is "),
    "sizes": (
        {"train.network.width": 16},
        "it has in other shapes level.0.weight (32, 1), not (16, 1), level.0.bias (32,), not (16,)",
    ),
    "no weights": ({"train.path": None}, "MyDenoiser.build((1, 8, 8)) draws level.0.weight, level.0.bias, "),
    "another network": ({"train.network": {"kind": "mlp"}}, "holds weights of another network than train.network"),
}


def test_what_is_misread_is_refused_before_sampling(ready: Place, caplog: pytest.LogCaptureFixture) -> None:
    ready.build(SMALL, until="dataset")
    for how, (changes, said) in MISREAD.items():
        outcome = ready.sciflow("train", ready.write(change(SMALL, changes)))
        assert outcome.status == 2 and said in outcome.text, f"{how}: {outcome.text}"
    assert not ready.results().joinpath("model.pt").exists()
    caplog.clear()
    outcome = ready.sciflow("train", ready.write(change(SMALL, {"train.told": "sigma"})))
    assert outcome.status == 0, "it still denoises, though worse"
    assert "With `predicts: v, told: log_sigma` it is " in caplog.text


class Hostile:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return Path.touch, (Path("owned"),)


FILES: dict[str, tuple[Any, str]] = {
    "code": (Hostile(), "cannot be read as weights without running code"),
    "a module": (nn.Linear(2, 2), "cannot be read as weights without running code"),
    "a list": ([torch.zeros(2)], "holds a list, not weights by name."),
    "a checkpoint": (
        {"epoch": 3, "model": {"a": torch.zeros(1)}},
        "holds 'epoch' (int), 'model' (dict), not weights by ",
    ),
    "nothing": ({}, "is empty, not weights by name alone."),
}


def test_files_that_are_no_weights_are_refused(ready: Place) -> None:
    ready.build(SMALL, until="dataset")
    for what, (content, said) in FILES.items():
        torch.save(content, ready.folder / "weights.pt")
        outcome = ready.sciflow("train", "run.yaml")
        assert outcome.status == 2 and said in outcome.text, f"{what}: {outcome.text}"
    assert not (ready.folder / "owned").exists()
    (ready.folder / "weights.pt").write_bytes(b"PK\x03\x04 cut short")
    assert "cannot be read as weights" in ready.sciflow("train", "run.yaml").text


def test_missing_files_kinds_and_keys_are_said_by_check(ready: Place) -> None:
    for changes, said in (
        ({"train.path": "nowhere.pt"}, "there is no file 'nowhere.pt'"),
        ({"train.path": ""}, "train.path is empty."),
        ({"train.network.kind": "my_denoisers"}, "Did you mean 'my_denoiser'?"),
        ({"train.network.depth": 3}, "train.network.depth"),
        ({"train.predicts": "epsilon"}, "train.predicts must be"),
        ({"train.scale": 0.0}, "train.scale must be greater than 0"),
        ({"plugins": ["nowhere.py"]}, "there is no file 'nowhere.py'"),
    ):
        outcome = ready.sciflow("check", ready.write(change(MINE, changes)))
        assert outcome.status == 2 and said in outcome.text, outcome.text
    torch.save({}, ready.folder / "weights.safetensors")
    outcome = ready.sciflow("check", ready.write(change(MINE, {"train.path": "weights.safetensors"})))
    assert outcome.status == 2 and "Convert it: torch.save(safetensors.torch.load_file(" in outcome.text


def test_a_check_of_the_data_tries_the_denoiser(ready: Place) -> None:
    """As `train` will, on the same noise, and without a file."""
    assert ready.sciflow("check", "--data", ready.write(MINE)).status == 0
    misread = ready.write(change(MINE, {"train.predicts": "noise"}))
    outcome = ready.sciflow("check", "--data", misread)
    assert outcome.status == 2 and outcome.text.startswith(
        "error: run.yaml: the network's mean squared error on held-out"
    )
    assert not ready.results().exists()
    assert ready.sciflow("dataset", misread).status == 0
    said = outcome.text.removeprefix("error: run.yaml: ")
    assert said in ready.sciflow("train", misread).text


EXACT = '''
from dataclasses import dataclass
import torch
from torch import nn
from sciflow.diffusion import GaussianMixture, MixtureDenoiser
from sciflow.diffusion.schedule import EDM
from sciflow.networks import NETWORKS


class Exact(nn.Module):
    """D(x, sigma) of a mixture that is read with the weights."""

    def __init__(self, n, d):
        super().__init__()
        for name, shape in (("weights", (n,)), ("means", (n, d)), ("covariances", (n, d, d))):
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))

    def forward(self, x, sigma):
        law = GaussianMixture(self.weights.to(x), self.means.to(x), self.covariances.to(x))
        schedule = EDM()
        return MixtureDenoiser(law, schedule)(x, schedule.time(-sigma.log()))


@dataclass(frozen=True)
class Components:
    n: int = 16

    def build(self, shape):
        return Exact(self.n, *shape)


NETWORKS["exact"] = Components
'''


def test_the_exact_denoiser_as_ones_own_finds_the_evidence_of_the_built_in(place: Place) -> None:
    """Both from run files, against the closed form that the data set brings along."""
    (place.folder / "exact.py").write_text(EXACT)
    posteriors = {"SMC": {"kind": "twisted_smc", "n_particles": 512, "twist": "jacobian"}}
    sample = {"sample.posteriors": posteriors, "sample.times.n_steps": 40, "dataset.modes_per_axis": 4}
    built_in = change(ANALYTIC, {**sample, "train": {"kind": "closed_form", "schedule": {"kind": "edm"}}})
    results = place.build(built_in, "builtin", until="sample")
    law = load(results / "model.pt").mixture
    parts = {name: getattr(law, name) for name in ("weights", "means", "covariances")}
    torch.save(parts, place.folder / "exact.pt")
    train = {"kind": "own", "network": {"kind": "exact", "n": len(law.weights)}, "path": "exact.pt"}
    theirs = place.build({**change(built_in, {"train": train}), "plugins": ["exact.py"]}, "theirs", until="sample")
    with xr.open_dataset(results / "samples.nc") as a, xr.open_dataset(theirs / "samples.nc") as b:
        for i in range(a.sizes["observation"]):
            pair = [one.isel(posterior=0, observation=i) for one in (a, b)]
            evidence, stderr = ([float(one[name]) for one in pair] for name in ("log_evidence", "log_evidence_stderr"))
            # two independent estimates: 4 standard errors of their difference
            assert abs(evidence[0] - evidence[1]) < 4 * float(np.hypot(*stderr)), i
            assert max(stderr) < 0.2, "an error bar that hides everything"


def test_every_key_of_the_page_is_one_of_the_training() -> None:
    known = {name for name, *_ in config.fields(config.SLOTS[config.Training]["own"])}
    assert known == set(MINE["train"]) - {"kind"}

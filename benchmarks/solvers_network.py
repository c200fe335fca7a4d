"""The trained network of the solver benchmark: the U-Net of a run, exported so that every library calls the same one.

States are in units of the standard deviation of its data, where σ from 80 to 0.002 lies within what it was trained on.
"""

from __future__ import annotations

import io
from pathlib import Path

import torch
import xarray
from rows import Row
from solvers_cases import SIGMA_MAX, Counting, denoiser, sliced_w2
from solvers_ours import run
from torch import Tensor, nn

from sciflow.diffusion.model import load
from sciflow.diffusion.network import NetworkDenoiser
from sciflow.solvers import DDIM, Auto

NAME = "digits U-Net"
FEW, MANY = 10, 100  # calls of auto and of DDIM that should give draws of equal quality
WITHIN = 1.05  # "reaches": 5 % is less than the standard error of either distance
N_RESAMPLES = 200


class InUnits(nn.Module):
    """E[x₁ | x₁ + σ x₀] in units of the data's standard deviation."""

    def __init__(self, model: NetworkDenoiser) -> None:
        super().__init__()
        self.module, self.centre = model.module, model.mean / model.std

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        root = (1 + sigma**2).sqrt()
        scaled = (x - self.centre) / root
        return self.centre + scaled / root + sigma / root * self.module(scaled, sigma.log().expand(len(x)))


def numbers(path: Path, n: int) -> dict[str, Tensor]:
    """The network for batches of n states, and the digits of the writers that it has not seen."""
    model = load(path)
    assert isinstance(model, NetworkDenoiser), f"{path} holds no network"
    program, buffer = InUnits(model).eval(), io.BytesIO()
    example = torch.zeros(n, *model.shape), torch.tensor(1.0)
    with torch.no_grad():
        torch.export.save(torch.export.export(program, example), buffer)
    digits = {part: told / model.std for part, told in parts(path.with_name("data.nc")).items()}
    shape = torch.tensor([n, *model.shape])
    return {"program": torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8), "shape": shape} | digits


def parts(path: Path) -> dict[str, Tensor]:
    """The digits it was trained on, and those by other writers, one row each."""
    with xarray.open_dataset(path) as data:
        rows = torch.from_numpy(data["data"].values).double().flatten(1)
        split = data["split"].values
    return {"seen": rows[torch.from_numpy(split == "train")], "held out": rows[torch.from_numpy(split == "test")]}


def claims(path: Path) -> list[Row]:
    """Sliced W2 to the digits by other writers: of few calls of `auto` over many of DDIM, and of true digits."""
    told = numbers(path, len(parts(path.with_name("data.nc"))["held out"]))
    held, seen, draw = told["held out"], told["seen"], torch.Generator().manual_seed(7)
    x = SIGMA_MAX * torch.randn(held.shape, generator=draw, dtype=torch.float64)
    clouds, function = {"true digits": seen[torch.randperm(len(seen), generator=draw)[: len(held)]]}, denoiser(told)
    with torch.no_grad():
        for name, solver, calls in (("auto", Auto(), FEW), ("DDIM", DDIM(), FEW), ("DDIM", DDIM(), MANY)):
            clouds[f"{name} at {calls} calls"] = run(name, lambda n, s=solver: s)(Counting(function), x, calls)
    every = torch.arange(len(held)).expand(1, 2, -1)
    chosen = torch.cat([every, torch.randint(len(held), (N_RESAMPLES, 2, len(held)), generator=draw)])
    values = {k: torch.tensor([sliced_w2(v[i], held[j]) for i, j in chosen]) for k, v in clouds.items()}
    claim = f"{NAME}: sliced W2 to digits by other writers"
    found = [Row(f"{claim}, {k}", float(v[0]), float(v[1:].std())) for k, v in values.items()]
    ratios = values[f"auto at {FEW} calls"] / values[f"DDIM at {MANY} calls"]
    ratio, stderr = float(ratios[0]), float(ratios[1:].std())
    holds = ratio <= WITHIN if abs(ratio - WITHIN) > 2 * stderr else None
    return [*found, Row(f"{claim}, auto at {FEW} calls over DDIM at {MANY}", ratio, stderr, WITHIN, holds)]

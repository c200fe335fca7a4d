"""What a control claims of its drift, and what a kernel ratio claims of its kernels, by automatic differentiation."""

from __future__ import annotations

import pytest
import torch
from target_paths import Curved, divergence, likelihood, log_gamma, mixture, paths, potential_in_time, skewed
from torch import Tensor
from torch.distributions import Normal

from sciflow.diffusion.mixture import MixtureDenoiser
from sciflow.diffusion.schedule import EDM, Cosine
from sciflow.diffusion.times import LogSNR
from sciflow.inverse import AFDPS
from sciflow.inverse.marginal import Ensemble
from sciflow.random import Stream
from sciflow.steering.control import Basis, Control, Fitted
from sciflow.steering.marginal import MarginalModel, marginal
from sciflow.steering.sight import Level, Sight, View, view
from sciflow.steering.target import TargetPath

BASES: list[tuple[Basis, ...]] = [
    ("position",),
    ("affine",),
    ("score",),
    ("gradient",),
    ("affine", "score", "gradient"),
]


class Bent(Curved):
    """`Curved` with a gradient that can be differentiated again."""

    def gradient(self, x: Tensor, t: float) -> Tensor:
        with torch.enable_grad():
            state = x if x.requires_grad else x.detach().clone().requires_grad_()
            return torch.autograd.grad(self(state, t).sum(), state, create_graph=True)[0]


def problem(d: int, seed: int) -> tuple[TargetPath, Level, Tensor, Tensor]:
    """Two random mixtures and a curved reward; a level; particles in y = x/α; a centre that is none of theirs."""
    schedule = Cosine()
    experts = tuple(MixtureDenoiser(mixture(number, d), schedule) for number in (seed, seed + 10))
    path = TargetPath(experts, (1.4, -0.3), Bent(skewed, schedule))
    y = (1.5 * Stream(seed).normal(5, (d,), dtype=torch.float64)).requires_grad_()
    return path, Level.of(path, 0.55), y, torch.linspace(-0.5, 1, d, dtype=torch.float64)


def slopes(path: TargetPath, at: Level, y: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
    """∇_y log p_i of each expert, ∇_y r, and ∇_y log γ, all by autograd of the closed forms."""
    x, clock = at.alpha * y, torch.tensor(at.t, dtype=torch.float64)
    values = [expert.log_prob(x, at.t) for expert in path.experts]
    values += [potential_in_time(path, x, clock), log_gamma(path, x, clock)]
    *scores, pull, total = (torch.autograd.grad(value.sum(), y, create_graph=True)[0] for value in values)
    return scores, pull, total


def drifts(basis: tuple[Basis, ...], path: TargetPath, at: Level, y: Tensor, centre: Tensor) -> list[Tensor]:
    """c_j per unit of λ, as the table of `Control` says, in its order."""
    d, u = y.shape[1], at.ratio
    scores, pull, _ = slopes(path, at, y)
    moved, eye = y - centre, torch.eye(d, dtype=torch.float64)
    table = {
        "position": [moved],
        "affine": [moved[:, a, None] * eye[b] for a in range(d) for b in range(d)]
        + [u * eye[b] + 0 * y for b in range(d)],
        "score": [u**2 * score for score in scores],
        "gradient": [u**2 * pull],
    }
    return [c for name in basis for c in table[name]]


def seen(path: TargetPath, at: Level, y: Tensor) -> View:
    """What the sampler sees, with exact traces."""
    return view(Sight(path, True, True, 0).look(y, at, Stream(0)), at, path.betas(at.t))


@pytest.mark.parametrize("basis", BASES, ids="+".join)
@pytest.mark.parametrize(("d", "seed"), [(1, 3), (2, 1), (3, 5), (5, 2)])
def test_features_are_the_price_of_the_drifts(d: int, seed: int, basis: tuple[Basis, ...]) -> None:
    """∇·c_j + c_j·F for F = ∇log γ and for the scores alone; float64 autograd of numbers up to 10²: 1e-8."""
    path, at, y, centre = problem(d, seed)
    scores, _, total = slopes(path, at, y)
    mixed = sum(beta * score for beta, score in zip((1.4, -0.3), scores, strict=True))
    control, found = Control(basis, probes=0), seen(path, at, y)
    for force, given in ((total, found.force), (mixed, -found.mixed)):
        wanted = [divergence(c, y) + (c * force).sum(1) for c in drifts(basis, path, at, y, centre)]
        features = control.features(found, centre, given)
        assert torch.allclose(features, torch.stack(wanted, 1), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("basis", BASES, ids="+".join)
@pytest.mark.parametrize(("d", "seed"), [(1, 3), (2, 1), (3, 5), (5, 2)])
def test_the_drift_is_the_one_that_is_paid_for(d: int, seed: int, basis: tuple[Basis, ...]) -> None:
    """Σ θ_j c_j, whose own divergence and product with ∇log γ by autograd are the features times θ."""
    path, at, y, centre = problem(d, seed)
    control, found = Control(basis, probes=0), seen(path, at, y)
    each = drifts(basis, path, at, y, centre)
    theta = Stream(8).normal(len(each), dtype=torch.float64)
    drift = control.drift(found, Fitted(theta, centre))
    assert torch.allclose(drift, sum(number * c for number, c in zip(theta, each, strict=True)), rtol=1e-8, atol=1e-8)
    price = divergence(drift, y) + (drift * found.force).sum(1) / at.ratio
    assert torch.allclose(control.features(found, centre, found.force) @ theta, price, rtol=1e-8, atol=1e-8)


def test_afdps_pays_for_its_drift_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rate of log γ along ẋ + ½V²(∇log p + 2∇r) with noise V, by autograd, is R + its control's feature."""
    options: dict[str, object] = {}

    def recorded(path: TargetPath, times: Tensor, **given: object):
        options.update(given)
        return marginal(path, times, **given)

    monkeypatch.setattr("sciflow.inverse.marginal.marginal", recorded)
    prior, strength, t = MixtureDenoiser(mixture(1, 3), EDM()), 1.3, 0.6
    AFDPS(ensemble=Ensemble(32, noise=strength))(prior, likelihood(3), LogSNR(2, 5.0, 0.5)(EDM()), 32, Stream(0))
    control = options["control"]
    assert isinstance(control, Control) and control.fixed == (strength**2,) and options["order"] == 1

    schedule = EDM()
    path = TargetPath((prior,), (1.0,), Bent(skewed, schedule))
    x = (1.5 * Stream(4).normal(6, (3,), dtype=torch.float64)).requires_grad_()
    clock = torch.tensor(t, dtype=torch.float64, requires_grad=True)
    alpha, sigma = float(schedule.alpha(t)), float(schedule.sigma(t))
    grow = float(schedule.alpha_rate(t)) / alpha
    rise = grow - float(schedule.sigma_rate(t)) / sigma
    half = sigma**2 * rise  # ½ g²
    score = torch.autograd.grad(prior.log_prob(x, t).sum(), x, create_graph=True)[0]
    pull = torch.autograd.grad(potential_in_time(path, x, clock).sum(), x, create_graph=True)[0]
    force = score + pull
    drift = grow * x + half * score + strength**2 * half * (score + 2 * pull)
    each = [torch.autograd.grad(log_gamma(path, row[None], clock)[0], clock, retain_graph=True)[0] for row in x]
    langevin = strength**2 * half * (divergence(force, x) + (force**2).sum(1))
    wanted = torch.stack(each) + divergence(drift, x) + (drift * force).sum(1) - langevin

    at = Level.of(path, t)
    found = view(Sight(path, False, True, 0).look(x / alpha, at, Stream(0)), at, path.betas(t))
    turned = [
        torch.autograd.grad(potential_in_time(path, row[None], clock)[0], clock, retain_graph=True)[0] for row in x
    ]
    uncontrolled = path.rate(x, t) + torch.stack(turned) + (path.drift(x, t) * pull).sum(1)
    features = control.features(found, torch.zeros(3).double(), found.force)
    assert torch.allclose(uncontrolled + rise * features[:, 0] * strength**2, wanted, rtol=1e-8, atol=1e-8)


# Kernel ratios ----------------------------------------------------------------------------------------------------


class Known:
    """Densities and their gradients in y = x/α at one level, by autograd of closed forms."""

    def __init__(self, path: TargetPath, at: Level, y: Tensor) -> None:
        d, x, clock = y.shape[1], at.alpha * y, torch.tensor(at.t, dtype=torch.float64)
        densities = [expert.log_prob(x, at.t) + d * torch.tensor(at.alpha).double().log() for expert in path.experts]
        self.log_densities = torch.stack(densities)
        self.scores = torch.stack([torch.autograd.grad(value.sum(), y, retain_graph=True)[0] for value in densities])
        self.potential, self.pull = torch.zeros(len(y), dtype=torch.float64), torch.zeros_like(y)
        if path.potential is not None:
            self.potential = potential_in_time(path, x, clock)
            self.pull = torch.autograd.grad(self.potential.sum(), y)[0]


@pytest.mark.parametrize("strength", [0.6, 1.0, 1.7])
@pytest.mark.parametrize("name", ["annealed", "geometric", "product", "moving", "reward", "likelihood", "all"])
@pytest.mark.parametrize("d", [1, 2, 5])
def test_kernel_ratios_are_ratios_of_gaussians(d: int, name: str, strength: float) -> None:
    """Σ β log B/F + Δr + log L − log m of one step, each kernel a `Normal`, each score by autograd: 1e-8.

    Over h = u_a² − u_b² all have the variance V² h, and the means

        B_i(y'|y): y + ½(1 + V²) h ∇log p_i(y)          F_i(y|y'): y' − ½(1 − V²) h ∇log p_i(y')
        m(y'|y): the DDIM step + ½ V² h ∇log γ(y)       L(y|y'): y' − ½ h σ(y') + ½ V² h ∇log γ(y')
    """
    path, times = paths(EDM(), d)[name], LogSNR(6, ratio_max=4.0, ratio_min=0.2)(EDM())
    model = MarginalModel(path, tuple(times.tolist()), strength, weights="kernel_ratio")  # any powers, law or not
    state, _ = model.initial(8, Stream(3))
    state, _, _ = model.step(0, state, Stream(1))
    moved = {name: value.clone() for name, value in state.items()}  # a move takes place in the memory that it is given
    after, log_weight, _ = model.step(1, moved, Stream(2))
    a, b = model.levels[1], model.levels[2]
    h, turned = a.ratio**2 - b.ratio**2, path.betas(b.t) - path.betas(a.t)
    y, z = (part["x"].detach().clone().requires_grad_() for part in (state, after))
    here, there = Known(path, a, y), Known(path, b, z)

    def log_density(value: Tensor, mean: Tensor) -> Tensor:
        return Normal(mean, strength * h**0.5).log_prob(value).sum(1)

    mixed = path.betas(a.t) @ here.scores.transpose(0, 1)  # Σ β_i ∇log p_i
    ahead = path.betas(b.t) @ there.scores.transpose(0, 1)
    move = y + (a.ratio - b.ratio) * a.ratio * mixed + 0.5 * strength**2 * h * (mixed + here.pull)
    reverse = z - 0.5 * h * ahead + 0.5 * strength**2 * h * (ahead + there.pull)
    wanted = there.potential - here.potential + log_density(y, reverse) - log_density(z, move)
    for i, beta in enumerate(path.betas(b.t).tolist()):
        backward = y + 0.5 * (1 + strength**2) * h * here.scores[i]
        forward = z - 0.5 * (1 - strength**2) * h * there.scores[i]
        wanted = wanted + beta * (log_density(z, backward) - log_density(y, forward))
        wanted = wanted + float(turned[i]) * here.log_densities[i]
    assert torch.allclose(log_weight, wanted.detach(), rtol=1e-8, atol=1e-8)

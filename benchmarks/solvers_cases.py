"""The problems of the solver benchmark, written once so that every library solves the same ones.

No library is imported here but torch and NumPy: states are in the VE frame, x = x₁ + σ x₀, a denoiser is a function of
(x, σ), and each library's adapter only passes its own idea of time and scale on.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

SIGMA_MAX, SIGMA_MIN, RHO = 80.0, 0.002, 7.0
BUDGETS = (5, 6, 8, 10, 16, 20, 32, 64)
N_COMPONENTS = 8
N_DIRECTIONS = 64  # of a sliced distance
N_EXACT = 600  # steps of RK4 in log σ through a network
REPORTED = {"mixture d=2": 2, "mixture d=16": 16, "mixture d=64": 64, "digits d=64": 64, "gaussian d=16": 16}
OTHER = {"mixture d=3": 3, "mixture d=8": 8, "mixture d=32": 32, "blurred digits d=64": 64, "gaussian d=8": 8}
OTHER |= {"half of the digits d=64": 64, "coarse digits d=16": 16, "breast cancer d=30": 30, "wine d=13": 13}
"""What rules are chosen on: other seeds, dimensions, widths and data than what is reported."""
WIDTHS = {"digits": 0.05, "blurred": 0.15, "half": 0.08, "coarse": 0.1, "breast": 0.1, "wine": 0.05}
"""First word of the name of an empirical law, and the width of the kernel around each of its points."""

Function = Callable[[Tensor, float], Tensor]
Numbers = Mapping[str, Tensor]


def noise_levels(n_steps: int) -> Tensor:
    """n_steps + 1 decreasing levels, equidistant in σ^{1/ρ} (Karras et al. 2022, eq. 5), float64."""
    ends = torch.tensor([SIGMA_MAX, SIGMA_MIN], dtype=torch.float64) ** (1 / RHO)
    return torch.linspace(float(ends[0]), float(ends[1]), n_steps + 1, dtype=torch.float64) ** RHO


def law(name: str, dimension: int, seed: int) -> dict[str, Tensor]:
    """The numbers of a law: weights, means, eigenvalues and eigenvectors of a mixture, or points and their width."""
    draw = torch.Generator().manual_seed(seed)
    first = name.split()[0]
    if first in WIDTHS:
        return {"points": points(first), "width": torch.tensor(WIDTHS[first])}
    k = 1 if "gaussian" in name else N_COMPONENTS
    normal = {"generator": draw, "dtype": torch.float64}
    weights = 0.5 + torch.rand(k, **normal)
    vectors, _ = torch.linalg.qr(torch.randn(k, dimension, dimension, **normal))
    spreads = 0.1 * 5 ** torch.rand(k, dimension, **normal)  # standard deviations from 0.1 to 0.5
    means = torch.randn(k, dimension, **normal)
    return {"weights": weights / weights.sum(), "means": means, "values": spreads**2, "vectors": vectors}


def points(kind: str) -> Tensor:
    """Real data, one row each: grey levels of digits from −1 to 1, or standardised columns of a table."""
    from sklearn import datasets

    if kind in ("breast", "wine"):
        table = datasets.load_wine() if kind == "wine" else datasets.load_breast_cancer()
        columns = torch.from_numpy(table.data).double()
        return (columns - columns.mean(0)) / columns.std(0)
    images = torch.from_numpy(datasets.load_digits().images).double() / 8 - 1
    if kind == "coarse":
        images = images.reshape(-1, 4, 2, 4, 2).mean((2, 4))
    return images[: len(images) // 2 if kind == "half" else None].flatten(1)


def denoiser(numbers: Numbers) -> Function:
    """E[x₁ | x] in closed form, float64; or what a network makes of it in its float32."""
    if "program" in numbers:
        return _network(numbers)
    return _empirical(numbers) if "points" in numbers else _mixture(numbers)


def _network(numbers: Numbers) -> Function:
    """The exported program, which takes a whole batch and no other."""
    program = torch.export.load(io.BytesIO(numbers["program"].numpy().tobytes())).module()

    def function(x: Tensor, sigma: float) -> Tensor:
        batch = x.to(torch.float32).reshape(numbers["shape"].tolist())
        return program(batch, torch.tensor(sigma, dtype=torch.float32)).flatten(1).to(x.dtype)

    return function


def _mixture(numbers: Numbers) -> Function:
    """Σ_k r_k (m_k + C_k (C_k + σ² I)⁻¹ (x − m_k)), in the eigenbases of the C_k."""
    means, values, vectors = numbers["means"], numbers["values"], numbers["vectors"]
    k, d = means.shape
    log_weights, together = numbers["weights"].log(), vectors.transpose(0, 1).reshape(d, k * d)
    offsets, back = torch.einsum("kd,kde->ke", means, vectors), vectors.transpose(1, 2).reshape(k * d, d)

    def function(x: Tensor, sigma: float) -> Tensor:
        rotated = (x @ together).reshape(len(x), k, d) - offsets
        variances = values + sigma**2
        logits = log_weights - 0.5 * (rotated.square() / variances + variances.log()).sum(-1)
        r = logits.softmax(-1)
        return r @ means + (r[..., None] * (values / variances) * rotated).flatten(1) @ back

    return function


def _empirical(numbers: Numbers) -> Function:
    """Σ_i r_i (σ² x_i + s² x)/(σ² + s²), the points centred so that ‖x − x_i‖² keeps its digits."""
    centre, squared_width = numbers["points"].mean(0), float(numbers["width"]) ** 2
    points = numbers["points"] - centre
    squares = 0.5 * points.square().sum(1)

    def function(x: Tensor, sigma: float) -> Tensor:
        variance = sigma**2 + squared_width
        mean = torch.addmm(-squares / variance, x - centre, points.T / variance).softmax(1) @ points + centre
        return (sigma**2 * mean + squared_width * x) / variance

    return function


def start(numbers: Numbers, n: int, seed: int) -> Tensor:
    """n exact draws at the first noise level."""
    draw = torch.Generator().manual_seed(seed)
    normal = {"generator": draw, "dtype": torch.float64}
    if "program" in numbers:
        data = torch.randn(n, numbers["held out"].shape[1], **normal)
    elif "points" in numbers:
        points = numbers["points"]
        data = points[torch.randint(len(points), (n,), generator=draw)]
        data = data + float(numbers["width"]) * torch.randn(data.shape, **normal)
    else:
        k = torch.multinomial(numbers["weights"], n, replacement=True, generator=draw)
        white = torch.randn(n, numbers["means"].shape[1], **normal)
        data = numbers["means"][k] + torch.einsum(
            "nde,ne->nd", numbers["vectors"][k], numbers["values"].sqrt()[k] * white
        )
    return data + SIGMA_MAX * torch.randn(data.shape, **normal)


def exact(numbers: Numbers, x: Tensor) -> Tensor:
    """The probability flow from x to the last level: in closed form for a Gaussian, else by DOP853 to about 1e-9.

    In s = log σ it reads dx/ds = x − D. Through a network in float32 an adaptive method would chase rounding errors:
    RK4 it is.
    """
    if "program" in numbers:
        return runge_kutta(denoiser(numbers), x, N_EXACT)
    if len(numbers.get("means", ())) == 1:
        values, vectors, mean = numbers["values"][0], numbers["vectors"][0], numbers["means"][0]
        stretch = ((values + SIGMA_MIN**2) / (values + SIGMA_MAX**2)).sqrt()
        return mean + ((x - mean) @ vectors * stretch) @ vectors.T
    from scipy.integrate import solve_ivp

    function = denoiser(numbers)

    def rate(s: float, flat: np.ndarray) -> np.ndarray:
        state = torch.from_numpy(flat.reshape(x.shape))
        return (state - function(state, math.exp(s))).numpy().ravel()

    span = math.log(SIGMA_MAX), math.log(SIGMA_MIN)
    rows = [solve_ivp(rate, span, part.numpy().ravel(), "DOP853", rtol=1e-9, atol=1e-10).y[:, -1] for part in (x,)]
    return torch.from_numpy(np.concatenate(rows).reshape(x.shape))


def runge_kutta(function: Function, x: Tensor, n_steps: int) -> Tensor:
    """RK4 at equal steps of log σ."""
    s, end = math.log(SIGMA_MAX), math.log(SIGMA_MIN)
    h = (end - s) / n_steps
    with torch.no_grad():
        for k in range(n_steps):
            first, middle, last = (math.exp(s + (k + part) * h) for part in (0, 0.5, 1))
            k1 = x - function(x, first)
            k2 = (x + h / 2 * k1) - function(x + h / 2 * k1, middle)
            k3 = (x + h / 2 * k2) - function(x + h / 2 * k2, middle)
            k4 = (x + h * k3) - function(x + h * k3, last)
            x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return x


def sliced_w2(x: Tensor, y: Tensor) -> float:
    """The distance between two clouds of equally many points, averaged over fixed directions."""
    directions = torch.randn(x.shape[1], N_DIRECTIONS, generator=torch.Generator().manual_seed(0), dtype=x.dtype)
    directions = directions / directions.norm(dim=0)
    return float(((x @ directions).sort(0).values - (y @ directions).sort(0).values).square().mean().sqrt())


def modes(numbers: Numbers, x: Tensor) -> Tensor:
    """Which component or point each state belongs to; for a network, the nearest digit that it was trained on."""
    known = numbers.get("points", numbers.get("seen"))
    if known is not None:
        return torch.cdist(x, known).argmin(1)
    rotated = torch.einsum("nkd,kde->nke", x[:, None] - numbers["means"], numbers["vectors"])
    squared = (rotated.square() / numbers["values"] + numbers["values"].log()).sum(-1)
    return (numbers["weights"].log() - 0.5 * squared).argmax(1)


class Counting:
    """A denoiser that counts its calls."""

    def __init__(self, function: Function) -> None:
        self.function, self.calls = function, 0

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        self.calls += 1
        return self.function(x, sigma)

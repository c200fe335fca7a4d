"""A time grid made of two power rules, one inside the other, that ends while there is noise left."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sciflow.diffusion.schedule import Schedule
from sciflow.diffusion.times import Karras, Ratio, Steps


@dataclass(frozen=True)
class KarrasPower:
    """A power rule in time between the first and the k-th node of a Karras grid, for very few steps.

        t_a, t_b: nodes 0 and k of a Karras grid of M steps with ρ₁;
        s_i^{1/ρ₂} equidistant from s_a to s_b,   s = 1 − t

    Leaving out the last nodes trades a bias of the order of the noise at t_b for fewer steps; the posterior `guided`
    returns the denoised value at t_b. The constants are tuned on images by the authors, not derived.

    Exactness: both ends of the Karras grid are clipped to what the schedule reaches.
    Cost: n_steps steps.
    Bias: the last state keeps the noise of node k: O(u_k); the denoised value there is smoother than the data.
    Args:
        n_steps: number of steps.
        ratio_max: u at the start, in data standard deviations.
        ratio_min: u at the end of the whole Karras grid, in data standard deviations.
        n_nodes: M, steps of the Karras grid; 8 for 5 or 6 steps, 12 for 8.
        rho: ρ₁ of the Karras grid; 5 for 5 or 6 steps, 7 for 8.
        last: k, the node where the grid ends; 6 for 5 or 6 steps, 8 or 9 for 8.
        power: ρ₂ of the rule in time.
    Raises:
        ValueError: a last node that is none.
    Source: Li (2025), Hyperparameters are all you need, in our time and noise levels.
    """

    n_steps: Steps = 6
    ratio_max: Ratio = 80.0
    ratio_min: Ratio = 0.002
    n_nodes: Steps = 8
    rho: Ratio = 5.0
    last: Steps = 6
    power: Ratio = 1.2

    def __post_init__(self) -> None:
        if self.last > self.n_nodes:
            raise ValueError(f"last must name one of the {self.n_nodes} steps of the Karras grid, got {self.last}.")

    def __call__(self, schedule: Schedule) -> Tensor:
        outer = Karras(self.n_nodes, self.ratio_max, self.ratio_min, self.rho)(schedule)
        start, stop = ((1 - float(outer[k])) ** (1 / self.power) for k in (0, self.last))
        inner = 1 - torch.linspace(start, stop, self.n_steps + 1, dtype=torch.float64) ** self.power
        inner[0], inner[-1] = outer[0], outer[self.last]
        return inner

"""The evidence and its uncertainty: from independent islands, and from the genealogy of each."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

from torch import Tensor


@dataclass(frozen=True)
class Evidence:
    """Ẑ of R independent islands, each with the error that its own genealogy states.

        Ẑ = Σ_r Ẑ_r/R,   Var[Ẑ]/Z² from the islands: Σ_r (Ẑ_r/Ẑ − 1)²/(R (R − 1)), from genealogies: Σ_r (s_r Ẑ_r/Ẑ)²/R²

    Exactness: E[Ẑ] = Z; the variance from islands is unbiased, that from genealogies see `Genealogy`.
    Cost: none.
    Bias: E[log Ẑ] ≈ log Z − Var/2, which the intervals take into account.
    Args:
        log_values: log Ẑ_r, float64, (R,).
        stderrs: standard error of each from its own run, (R,).
    """

    log_values: Tensor
    stderrs: Tensor

    @property
    def log_value(self) -> float:
        """log Ẑ."""
        return float(self.log_values.logsumexp(0)) - math.log(len(self.log_values))

    @property
    def _shares(self) -> Tensor:
        """Ẑ_r/(R Ẑ), which sum to one."""
        return self.log_values.softmax(0)

    @property
    def stderr(self) -> float:
        """Of log Ẑ, from the genealogies."""
        return float((self._shares * self.stderrs).square().sum().sqrt())

    @property
    def stderr_islands(self) -> float:
        """Of log Ẑ, from the spread of the islands; NaN for a single one."""
        n = len(self.log_values)
        return math.sqrt(n / (n - 1) * float((self._shares - 1 / n).square().sum())) if n > 1 else math.nan

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """A confidence interval of log Z, from the genealogy of the run.

            log Ẑ + s²/2 ± z s

        Bias: too narrow once few families are left, as `Genealogy` says.
        """
        half = NormalDist().inv_cdf(0.5 + level / 2) * self.stderr
        centre = self.log_value + self.stderr**2 / 2
        return centre - half, centre + half

    def interval_islands(self, level: float = 0.95) -> tuple[float, float]:
        """A confidence interval of log Z, from the islands alone; NaN for a single one.

            m + v/2 ± t √(v/R + v²/(2 (R − 1))),   m, v: mean and variance of log Ẑ_r,  t: Student's with R − 1

        Exactness: for log Ẑ_r normal with mean log Z − v/2, the limit of many particles and steps.
        Source: Cox's method for the mean of a log-normal variable, in Land (1972); Bérard, Del Moral and Doucet (2014),
            A lognormal central limit theorem for particle approximations of normalizing constants.
        """
        from scipy.special import stdtrit  # half a second, and only here

        n = len(self.log_values)
        if n < 2:
            return math.nan, math.nan
        mean, v = float(self.log_values.mean()), float(self.log_values.var())
        half = float(stdtrit(n - 1, 0.5 + level / 2)) * math.sqrt(v / n + v**2 / (2 * (n - 1)))
        return mean + v / 2 - half, mean + v / 2 + half

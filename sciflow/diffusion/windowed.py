"""A prior of whole trajectories, made of a denoiser that has only seen short windows of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sciflow.diffusion.denoiser import Denoiser
from sciflow.diffusion.schedule import Schedule
from sciflow.errors import InputError
from sciflow.random import Stream
from sciflow.types import Time

ROUNDING = 100.0  # of sums of as many numbers as a window has, in units of the last digit


@dataclass(frozen=True)
class WindowedDenoiser:
    """The denoiser of a chain of any length, from one of windows of 2k + 1 consecutive states.

        D_i(x, t) = E[x₁ at time i | x_t at times c − k … c + k],   c = min(max(i, k), n_times − 1 − k)

    Each state is answered for by the window that has it in its middle, the first and last k by the windows at the ends.
    All windows have one law: that of a stationary chain, whose length is chosen after training.

    Where the window has a `covariance(x, t)`, so has the chain: that of a Markov chain of order k, of which each state
    depends on the last k as in the window in whose middle these k + 1 are. It is a covariance, with variances that are
    those of windows, whatever the windows say; and the right one where they are right, as a Markov chain of which noisy
    states are known is still one.

    Exactness: exact for n_times = 2k + 1, and for independent states. A noisy Markov chain is not Markov, and what lies
        outside of the window would tell more: for u = σ/α → 0 the error is O(u^{2k+2}) for chains of order 1.
    Cost: n_times − 2k window calls; a covariance O(k (n_times d)²) besides, for states of d numbers.
    Bias: too little is known at middle noise. Squared error in excess of the exact denoiser's, over that, of fifteen
        states x_{i+1} = 0.9 x_i + √0.19 w_i, for k = 1 … 5: at u = 1, 28, 8.1, 2.4, 0.7 and 0.18 %; at u = 0.3, 1.9,
        0.09, 0.004 % and less; at u = 3, 25, 14, 7.7, 4.0 and 1.8 %. Its Jacobian is not quite symmetric: take windows
        with a covariance for `MomentMatching`, where they are small.
    Args:
        window: denoiser of 2k + 1 states, of shape (2k + 1, *state), or flattened.
        n_times: states of the chain, at least 2k + 1.
        state: shape of one state; null takes that of the window less its first axis.
    Raises:
        InputError: windows of an even number of states or longer than the chain, or no window of states of that shape.
    Source: Rozet and Louppe (2023), Score-based data assimilation, section 3.1 and algorithm 2; the covariance:
        Dempster (1972), Covariance selection, for a band.
    """

    window: Denoiser
    n_times: int
    state: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        whole = tuple(self.window.shape)
        width, rest = divmod(math.prod(whole), self.size)
        if rest or width % 2 == 0:
            raise InputError(
                f"windows must hold an odd number of states, got windows of shape {whole} and states of shape "
                f"{self.shape[1:]}. Give 2k + 1 states to a window, and the shape of one as `state` if it is flattened."
            )
        if self.n_times < width:
            raise InputError(
                f"a chain of {self.n_times} states is shorter than its windows of {width}. Give n_times ≥ {width}."
            )

    @property
    def schedule(self) -> Schedule:
        return self.window.schedule

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.n_times, *(self.window.shape[1:] if self.state is None else self.state))

    @property
    def size(self) -> int:
        """d, numbers of one state."""
        return math.prod(self.shape[1:])

    @property
    def width(self) -> int:
        """2k + 1."""
        return math.prod(self.window.shape) // self.size

    @property
    def reach(self) -> int:
        """k, states on either side of the middle of a window."""
        return self.width // 2

    def initial(self, t: float, n: int, stream: Stream, dtype: torch.dtype = torch.float32) -> Tensor:
        """Windows side by side, each drawn by itself: the law of x_t but for what the data add from one to the next."""
        starts = range(0, self.n_times, self.width)
        drawn = [self.window.initial(t, n, stream.child("window", j), dtype) for j in starts]
        return torch.cat([one.reshape(n, self.width, *self.shape[1:]) for one in drawn], 1)[:, : self.n_times]

    def windows(self, x: Tensor, t: Time) -> tuple[Tensor, Time]:
        """All windows of chains (n, *shape), one after another (n (n_times − 2k), *window.shape), and their times."""
        found = x.unfold(1, self.width, 1).movedim(-1, 2).reshape(-1, *self.window.shape)
        each = len(found) // len(x)
        return found, t.repeat_interleave(each) if isinstance(t, Tensor) and t.ndim else t

    def __call__(self, x: Tensor, t: Time) -> Tensor:
        k = self.reach
        found = self.window(*self.windows(x, t)).reshape(len(x), -1, self.width, *self.shape[1:])
        return torch.cat([found[:, 0, :k], found[:, :, k], found[:, -1, k + 1 :]], 1)

    def __getattr__(self, name: str) -> Any:
        """`covariance`, where the window has one."""
        if name != "covariance":
            raise AttributeError(f"{type(self).__name__} has no {name!r}")
        of_window: Callable[[Tensor, Time], Tensor] = self.window.covariance  # type: ignore[attr-defined]

        def covariance(x: Tensor, t: Time) -> Tensor:
            found = of_window(*self.windows(x, t)).unflatten(0, (len(x), -1))
            return self._joined(found.double(), ROUNDING * torch.finfo(found.dtype).eps).to(x.dtype)

        return covariance

    def _joined(self, of_windows: Tensor, ridge: float) -> Tensor:
        """The covariance J of the chain from those of its windows (n, n_times − 2k, (2k + 1) d, (2k + 1) d), float64.

            J_{new, :} = C_ns L⁻ᵀ M⁻¹ J_{past, :},   C_ss = L Lᵀ,  J_ss = M Mᵀ,   J_nn = C_nn

        With windows that agree M = L, and this is the regression C_ns C_ss⁻¹ on the last k states s; where they do not,
        the whitened past keeps what is passed on bounded. Factors are of covariances widened by `ridge` of their mean
        variance, since they may be singular.
        """
        d, k = self.size, self.reach
        joined = of_windows.new_zeros(len(of_windows), self.n_times * d, self.n_times * d)
        for j in range(self.n_times - k):
            first = min(max(j - k // 2, 0), self.n_times - self.width)
            inside = slice((j - first) * d, (j - first + k + 1) * d)
            own = of_windows[:, first, inside, inside]
            end, past, new = (j + k) * d, slice(j * d, (j + k) * d), slice((j + k) * d, (j + k + 1) * d)
            if j == 0:
                joined[:, : end + d, : end + d] = own
                continue
            within, before = (_factor(one, ridge) for one in (own[:, : k * d, : k * d], joined[:, past, past]))
            gain = torch.linalg.solve_triangular(within, own[:, : k * d, k * d :], upper=False)
            white = torch.linalg.solve_triangular(before, joined[:, past, :end], upper=False)
            joined[:, new, :end] = gain.mT @ white
            joined[:, :end, new] = joined[:, new, :end].mT
            joined[:, new, new] = own[:, k * d :, k * d :]
        return 0.5 * (joined + joined.mT)


def _factor(covariance: Tensor, ridge: float) -> Tensor:
    """Cholesky's factor of a covariance (n, m, m), widened."""
    m = covariance.shape[-1]
    width = ridge * covariance.diagonal(dim1=1, dim2=2).sum(1) / max(m, 1) + torch.finfo(covariance.dtype).tiny ** 0.5
    eye = torch.eye(m, dtype=covariance.dtype, device=covariance.device)
    return torch.linalg.cholesky(covariance + width[:, None, None] * eye)

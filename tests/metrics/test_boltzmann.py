"""Distances of samples of a Boltzmann law: closed forms, their floors, and what the floors make of perfect samples."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.spatial.distance import jensenshannon

from sciflow.errors import InputError
from sciflow.metrics.boltzmann import cell_masses, free_energy_difference, js_divergence, pmf_error, w2_1d
from sciflow.metrics.floor import floor
from sciflow.random import Stream


def law(n: int, seed: int = 0) -> torch.Tensor:
    return Stream(seed).uniform(n, dtype=torch.float64).softmax(0)


def test_js_is_that_of_scipy_squared_and_bounded() -> None:
    p, q = law(50, 0), law(50, 1)
    q[:10] = 0
    q /= q.sum()
    assert js_divergence(p, q) == pytest.approx(float(jensenshannon(p, q)) ** 2, abs=1e-14)
    assert js_divergence(p, p) == 0 and js_divergence(p, q) == pytest.approx(js_divergence(q, p), abs=1e-15)
    apart = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    assert js_divergence(*apart) == pytest.approx(math.log(2), abs=1e-15)


def test_pmf_error_of_two_cells_by_hand() -> None:
    p, q = torch.tensor([0.5, 0.5, 0.0, 0.0]), torch.tensor([0.25, 0.5, 0.25, 0.0])
    empty = 1e-6
    by_hand = 0.375 * math.log(2) ** 2 + 0.5 * (empty + 0.25) * math.log(empty / 0.25) ** 2
    assert pmf_error(p, q) == pytest.approx(by_hand, abs=1e-6)  # p and q are float32
    assert pmf_error(p, p) == 0


def test_cells_hold_every_sample_once_and_the_last_those_outside() -> None:
    edges = [torch.linspace(0, 1, 5), torch.linspace(-1, 1, 3)]
    x = torch.tensor([[0.1, -0.5], [0.9, 0.5], [0.26, 0.0], [1.0, 0.0], [-0.1, 0.0], [math.nan, 0.0]])
    mass = cell_masses(x, edges)
    assert mass.sum() == 1 and mass[-1] == 0.5  # an upper edge belongs to the next cell
    assert mass[0] == mass[7] == mass[3] == 1 / 6
    with pytest.raises(InputError, match="grid of 2 axes"):
        cell_masses(x[:, :1], edges)


def test_w2_of_shifted_and_scaled_normals() -> None:
    z = torch.distributions.Normal(0.0, 1.0).icdf((torch.arange(4000, dtype=torch.float64) + 0.5) / 4000)
    # W2² = shift² + (ratio − 1)² for one normal law and its image
    assert w2_1d(z, 1.5 * z + 0.3) == pytest.approx(math.hypot(0.3, 0.5 * float(z.std())), abs=1e-3)
    halves = torch.cat([z, z + 5])
    weights = torch.cat([torch.zeros(4000), torch.full((4000,), -math.inf)])
    assert w2_1d(z, halves, weights) == pytest.approx(0, abs=1e-5)  # levels that differ by rounding, over jumps of 5


def test_the_free_energy_of_independent_samples_has_the_error_of_a_binomial() -> None:
    share, n = 0.2, 4000
    basins = (Stream(2).uniform(n) < share).long()
    found = free_energy_difference(basins, Stream(3), n_bootstrap=400)
    exact, stderr = math.log((1 - share) / share), 1 / math.sqrt(n * share * (1 - share))
    assert abs(found.value - exact) < 4 * stderr
    assert found.stderr == pytest.approx(stderr, rel=4 / math.sqrt(2 * 400))  # of a standard deviation of 400 numbers


def test_blocks_see_the_memory_of_a_chain() -> None:
    """Each of 200 independent draws stands 20 times in a row: the error is that of 200."""
    basins = (Stream(4).uniform(200) < 0.5).long().repeat_interleave(20)
    naive, blocked = (free_energy_difference(basins, Stream(5), block=block, n_bootstrap=400) for block in (1, 40))
    assert naive.value == blocked.value
    # √20 = 4.5; 100 blocks know their standard deviation to 7 %, and the two bootstraps to 4 % each
    assert blocked.stderr / naive.stderr == pytest.approx(math.sqrt(20), rel=4 * 0.09)
    alone = free_energy_difference(torch.zeros(100, dtype=torch.int64), Stream(0))
    assert math.isnan(alone.value) and math.isinf(alone.stderr)
    with pytest.raises(InputError, match="at least two blocks"):
        free_energy_difference(basins, Stream(0), block=3000)


def test_the_floor_of_the_js_divergence_is_that_of_counting_and_perfect_samples_have_z_of_one() -> None:
    cells, n, edges = 100, 20_000, [torch.linspace(0, 1, 101, dtype=torch.float64)]
    flat = torch.cat([torch.full((cells,), 1 / cells, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)])

    def distance(seed: int) -> float:
        return js_divergence(flat, cell_masses(Stream(seed).uniform(n, (1,), dtype=torch.float64), edges))

    noise = floor([distance(seed) for seed in range(40)])
    expected = (cells - 1) / (8 * n)  # a eighth of χ²/n
    # 40 sets, each with the relative deviation √(2/99) of χ² with 99 degrees; O(1/(n p)) = 0.5 % besides
    assert noise.mean == pytest.approx(expected, rel=4 * math.sqrt(2 / 99 / 40) + 0.005)
    z = torch.tensor([noise.z(distance(seed)) for seed in range(100, 140)])
    assert abs(float(z.mean())) < 4 * math.sqrt(2 / 40)  # two means of forty
    assert 0.6 < float(z.std()) < 1.6  # a ratio of two standard deviations of forty: 1 ± 0.16, four sigma
    with pytest.raises(InputError, match="at least 5 sets"):
        floor([1.0] * 4)

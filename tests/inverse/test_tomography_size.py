"""How much memory the matrix of a scanner may take, against the entries that it has."""

from __future__ import annotations

import pytest

from sciflow.errors import InputError
from sciflow.inverse import FanBeam, ParallelBeam
from sciflow.inverse.tomography import BYTES, most_entries, system_matrix

LODOPAB = ParallelBeam(1000, 513, spacing=0.997944, first_angle=0.09, pixel_size=0.0584343)
SCANNERS = {
    "LoDoPaB-CT, every 40th view": (ParallelBeam(25, 513, 0.997944, first_angle=0.09), (362, 362), 1.02),
    "a wide detector": (ParallelBeam(30, 200), (40, 60), 1.1),  # two of its views run along the axes
    "views along the axes": (ParallelBeam(4, spacing=0.5), (24, 24), 2.0),  # what runs along one counts twice
    "a fan": (FanBeam(40), (64, 64), 1.06),
    "an arc, far away": (FanBeam(17, detector="arc", source_distance=4.0), (33, 20), 1.11),
}


@pytest.mark.parametrize("name", SCANNERS)
def test_the_bound_holds_and_is_near(name: str) -> None:
    """Three pixels too many for a ray at most, of hundreds: the share stands beside each scanner."""
    scanner, grid, share = SCANNERS[name]
    entries = system_matrix(scanner, grid).matrix.nnz
    assert entries <= most_entries(scanner, grid) <= share * entries


def test_the_geometry_of_lodopab_fits() -> None:
    """1.67e8 entries of 40 bytes: a pixel is met by 4/π/spacing rays of a view, in the mean over directions."""
    bound = most_entries(LODOPAB, (362, 362))
    expected = 1000 * 362**2 * 4 / 3.141593 / 0.997944
    assert expected < bound < 1.02 * expected
    assert bound * BYTES < 8e9
    LODOPAB.on((1, 362, 362))
    with pytest.raises(InputError, match=r"1500 views on \(362, 362\) pixels may take 10.1 GB, the limit is 8 GB"):
        ParallelBeam(1500, 513, 0.997944).on((1, 362, 362))

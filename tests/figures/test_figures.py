"""Every figure draws what it is given, names what it shows with units, cuts no text off and leaves no global state."""

from __future__ import annotations

import subprocess
import sys
from functools import partial

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from sciflow.errors import InputError
from sciflow.figures import FIGURES, panels, style
from sciflow.types import facts

GRID = np.linspace(-4, 4, 201)
LOG_DENSITY = -0.5 * (GRID[:, None] ** 2 + GRID[None] ** 2)
RNG = np.random.default_rng(0)
LEVELS = np.linspace(0.05, 0.95, 19)
COSTS = np.array([64, 256, 1024])


def pictures() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    truth = RNG.random((3, 1, 6, 4))
    observation = np.where(RNG.random(truth.shape) < 0.5, np.nan, truth)
    return truth, observation, RNG.random((3, 5, 1, 6, 4))


SIZES = np.array([100, 60, 45, 90, 40, 80.0])
PARENTS = np.array([100, 100, 51, 100, 47, 100])

CALLS = {
    "posterior_gallery": partial(FIGURES["posterior_gallery"], *pictures(), unit="HU"),
    "calibration": partial(FIGURES["calibration"], LEVELS, {"exact": (LEVELS, 0.02 + 0 * LEVELS)}),
    "rank_histogram": partial(FIGURES["rank_histogram"], np.linspace(0, 1, 11), np.ones(10), 0.1 * np.ones(10)),
    "rank_functions": partial(
        FIGURES["rank_functions"], LEVELS, {"mean": LEVELS + 0.02, "distance": LEVELS**2}, LEVELS - 0.1, LEVELS + 0.1
    ),
    "loss_curve": partial(FIGURES["loss_curve"], range(300), np.exp(-LEVELS.repeat(16))[:300], [0, 299], [1, 0.4]),
    "sampler_comparison": partial(
        FIGURES["sampler_comparison"],
        {"SMC": (COSTS, 1 / COSTS, 0.1 / COSTS), "DPS": (100, 0.02, 0.004)},
        floor=(COSTS, 0.5 / COSTS, 0.1 / COSTS),
    ),
    "track": partial(FIGURES["track"], LEVELS, LEVELS, LEVELS, 0.1 + 0 * LEVELS, LEVELS + 0.05, unit="K"),
    "spread_and_error": partial(FIGURES["spread_and_error"], LEVELS, {"EnKF": (LEVELS, 0.9 * LEVELS)}),
    "field_band": partial(FIGURES["field_band"], LEVELS, RNG.normal(size=(8, 19)), truth=LEVELS, unit="K"),
    "sweep_map": partial(
        FIGURES["sweep_map"],
        *([0.5, 1.0, 2.0], [0.1, 0.2], [[-1.0, 0.0, 3.0], [2.0, -400.0, np.nan]], np.full((2, 3), 0.2)),
        names=("width", "sigma"),
        truth=(1.0, 0.2),
        is_difference=True,
        best=(0, 2),
        goal="higher is better",
    ),
    "category_dots": partial(
        FIGURES["category_dots"],
        {"DPS": ([0, 1], [0.5, 2.0], [0.1, np.nan]), "SMC": ([1], [30.0], [1.0])},
        ["karras", "a long name of a setting"],
        is_log=True,
        right=1.0,
        goal="nearer to 1 is better",
    ),
    "error_and_cost": partial(
        FIGURES["error_and_cost"],
        {"DPS": [(5, 0.5, 0.1, "5"), (20, 0.3, 0.1, "20")], "SMC": [(50, 0.1, 0.01, "20")]},
        *([5, 20, 50], [0.5, 0.3, 0.1]),
        quantity="sliced W2",
        unit="nm",
    ),
    "posterior_scatter": partial(
        FIGURES["posterior_scatter"],
        RNG.normal(size=(50, 2)),
        *(GRID, GRID, LOG_DENSITY),
        log_weights=RNG.normal(size=50),
        truth=(0, 0),
        unit="nm",
    ),
    "mean_force_profile": partial(
        FIGURES["mean_force_profile"], LEVELS, {"flow": (4 * LEVELS, 0.1 + 0 * LEVELS)}, exact=4 * LEVELS
    ),
    "distance_bars": partial(FIGURES["distance_bars"], {"flow": (0.3, 0.02), "one": (0.1, np.nan)}, (0.08, 0.01)),
    "score_by_lead": partial(
        FIGURES["score_by_lead"],
        LEVELS,
        {"a": (LEVELS, 0.1 * LEVELS), "b": (LEVELS, LEVELS)},
        reference="b",
        goal=(0.9, 1.1),
    ),
    "spectra": partial(FIGURES["spectra"], {"a": LEVELS[::-1], "b": LEVELS[::-1] ** 2}, LEVELS[::-1], unit="m/s"),
    "space_time": partial(FIGURES["space_time"], LEVELS, COSTS, RNG.normal(size=(3, 19)), unit="m/s"),
    "ramachandran": partial(
        FIGURES["ramachandran"],
        np.where(GRID[::6, None] > 0, np.inf, GRID[::6, None] ** 2 + GRID[None, ::6] ** 2),
        dots=60 * RNG.normal(size=(50, 2)),
        basins={"β": ((-180, 0), (60, -120)), "left": ((0, 180), (-180, 180))},
    ),
    "estimates": partial(
        FIGURES["estimates"], {"MBAR": (1.0, 0.2), "counted": (1.3, np.nan), "flow": (np.nan, np.inf)}
    ),
    "overlap_matrix": partial(FIGURES["overlap_matrix"], np.eye(3), names=("300 K", "400 K", "500 K")),
    "ensemble_traces": partial(FIGURES["ensemble_traces"], SIZES, PARENTS, -np.arange(6.0)),
    "diagnostic_traces": partial(
        FIGURES["diagnostic_traces"],
        {"acceptance": [np.nan, 0.5, 0.6]},
        {f"score {j}": [np.nan, -j, j / 2] for j in range(1, 9)},
    ),
}


def words(ax: Axes) -> list[Text]:
    """Every title, label, note and legend entry of the figure that is shown; tick labels left out."""
    found = []
    for part in ax.figure.findobj(Axes):
        legend = part.get_legend()
        found += [*part.texts, *(legend.get_texts() if legend else ()), part.title, part._left_title]
        found += [part.xaxis.label, part.yaxis.label] if part.axison else []
    return [text for text in found if text.get_text().strip()]


def test_every_row_of_the_table_is_called_here():
    assert set(CALLS) == set(FIGURES)


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_titled_and_no_text_is_cut_off(name):
    ax = CALLS[name]()
    canvas = FigureCanvasAgg(ax.figure)
    canvas.draw()
    assert ax.get_title(loc="left")
    frame = ax.figure.bbox
    for text in words(ax):
        box = text.get_window_extent(canvas.get_renderer())
        is_inside = box.x0 >= 0 and box.y0 >= 0 and box.x1 <= frame.x1 and box.y1 <= frame.y1
        assert is_inside, f"{text.get_text()!r} at {box} leaves the figure {frame}"


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_draws_into_the_axes_it_is_given(name):
    left, right = panels(2)
    assert CALLS[name](ax=right) is right
    assert not left.has_data() and right.has_data()


@pytest.mark.parametrize("name", [name for name in FIGURES if name != "posterior_gallery"])
def test_both_axes_are_labelled(name):
    ax = CALLS[name]()
    assert ax.get_xlabel() and ax.get_ylabel()


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_states_its_facts(name):
    assert {"summary", "exactness", "cost", "bias"} <= set(facts(FIGURES[name]))


def test_traces_show_shares_of_the_particles_and_where_parents_were_lost():
    ax = CALLS["ensemble_traces"]()
    sizes, parents = ax.lines
    assert sizes.get_ydata() == pytest.approx(SIZES / 100)
    assert parents.get_xdata().tolist() == [2, 4] and parents.get_ydata() == pytest.approx([0.51, 0.47])
    assert len(FIGURES["ensemble_traces"](SIZES, PARENTS).figure.axes) == 1  # no evidence, no second axis
    both = FIGURES["ensemble_traces"](SIZES, PARENTS, -np.arange(6.0), errors=(0.12, 0.34))
    assert any("log Ẑ = -5.00 ± 0.12 (genealogy), ± 0.34 (islands)" in text.get_text() for text in words(both))
    one = FIGURES["ensemble_traces"](SIZES, PARENTS, -np.arange(6.0), errors=(1.0, np.nan))  # one family is left
    assert any("log Ẑ = -5.00 ± 1 at least (genealogy)" in text.get_text() for text in words(one))


def test_the_largest_coefficients_are_drawn_and_the_others_counted():
    ax = CALLS["diagnostic_traces"]()
    left, right = ax.figure.axes
    assert left.lines[0].get_ydata() == pytest.approx([np.nan, 0.5, 0.6], nan_ok=True)
    assert [line.get_ydata()[1] for line in right.lines] == [-3, -4, -5, -6, -7, -8]
    named = [text.get_text() for text in ax.get_legend().get_texts()]
    assert named == ["acceptance", *(f"score {j}" for j in range(3, 9))]
    assert any("2 smaller coefficients are not shown" in text.get_text() for text in words(ax))
    assert len(FIGURES["diagnostic_traces"]({"acceptance": [0.5]}).figure.axes) == 1  # no control, no second axis


def test_a_bar_is_as_long_as_its_distance_and_the_band_is_the_floor():
    ax = CALLS["distance_bars"]()
    bars = [patch for patch in ax.patches if patch.get_zorder() == 2]
    assert [bar.get_width() for bar in bars] == [0.3, 0.1]
    band = next(patch for patch in ax.patches if patch.get_zorder() == 0)
    assert band.get_extents().transformed(ax.transData.inverted()).xmin == pytest.approx(0.08 - 2 * 0.01)


def test_distances_that_are_all_zero_have_an_axis():
    ax = FIGURES["distance_bars"]({"flow": (0.0, 0.0)}, (0.0, 0.0))
    assert ax.get_xlim()[0] == 0 and ax.get_xlim()[1] > 0


def test_a_basin_that_leads_through_the_end_of_the_circle_has_two_boxes():
    ax = CALLS["ramachandran"]()
    boxes = sorted((patch.get_x(), patch.get_y(), patch.get_width(), patch.get_height()) for patch in ax.patches)
    assert boxes == [(-180, -180, 180, 60), (-180, 60, 180, 120), (0, -180, 180, 360)]
    shown = np.ma.filled(ax.images[0].get_array(), np.nan)
    assert shown.shape == (34, 34) and bool(np.isnan(shown[:, -1]).all())  # the first torsion runs to the right


def test_a_basin_of_a_distance_is_drawn_as_far_as_the_distance_is_shown():
    ranges, basins = ((-180.0, 180.0), (0.1, 0.8)), {"open": ((150, -150), (0.3, 5.0)), "far": ((0, 90), (1.0, 2.0))}
    ax = FIGURES["ramachandran"](np.zeros((36, 36)), ranges=ranges, units=("°", "nm"), basins=basins, names=("φ", "d"))
    boxes = sorted((patch.get_x(), patch.get_y(), patch.get_width(), patch.get_height()) for patch in ax.patches)
    assert boxes == [(-180, 0.3, 30, 0.5), (150, 0.3, 30, 0.5)]  # what lies beyond is no box
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("φ [°]", "d [nm]") and ax.get_ylim() == (0.1, 0.8)


def test_an_estimate_that_is_not_known_says_so():
    ax = CALLS["estimates"]()
    said = [text.get_text() for text in ax.texts if "not known" in text.get_text()]
    assert said == ["error not known", "not known: a basin is empty"]  # of a dot without a bar, and of no dot
    assert [label.get_text() for label in ax.get_yticklabels()] == ["MBAR", "counted", "flow"]


def test_units_stand_on_the_labels():
    assert style.label("density", "kg m-3") == "density [kg m-3]"
    assert style.label("ratio", "1") == "ratio"
    assert "[nm]" in CALLS["posterior_scatter"]().get_xlabel()
    assert any("[HU]" in text.get_text() for text in words(CALLS["posterior_gallery"]()))


def test_the_gallery_hatches_missing_pixels_and_keeps_the_shape_of_a_picture():
    ax = CALLS["posterior_gallery"]()
    hatched = [patch for patch in ax.findobj(Rectangle) if patch.get_hatch()]
    assert len(hatched) == 3  # one observation in each of three rows
    assert hatched[0].get_height() / hatched[0].get_width() == pytest.approx(6 / 4)
    assert len(ax.images) == 3 * (4 + 4)  # truth, observed, mean, standard deviation and four draws


def test_the_gallery_works_without_truth_and_with_one_draw():
    _, observation, samples = pictures()
    ax = FIGURES["posterior_gallery"](None, observation, samples[:, :1])
    assert "truth" not in {text.get_text() for text in ax.texts}
    assert len(ax.images) == 3 * 4


def test_the_gallery_refuses_events_that_are_no_pictures():
    with pytest.raises(InputError, match=r"needs pictures .* got events of shape \(7,\)"):
        FIGURES["posterior_gallery"](np.zeros((3, 7)), None, np.zeros((3, 4, 7)))


def test_the_bars_are_the_densities_and_one_observation_without_error_is_drawn():
    density = np.linspace(0.5, 1.5, 10)
    ax = FIGURES["rank_histogram"](np.linspace(0, 1, 11), density, np.full(10, np.nan))
    assert [bar.get_height() for bar in ax.containers[0]] == pytest.approx(density)


def test_the_contours_hold_their_share_of_a_gaussian():
    """The p-content disc of a standard normal in the plane has radius √(−2 ln(1 − p))."""
    ax = CALLS["posterior_scatter"]()
    regions = ax.collections[0]
    outer = regions.get_paths()[0].vertices
    radius = np.sqrt(-2 * np.log(1 - 0.99))
    assert np.linalg.norm(outer, axis=1).max() == pytest.approx(radius, abs=0.04)  # one cell of the grid


def test_dots_off_the_map_are_counted():
    ax = FIGURES["posterior_scatter"]([[0, 0], [9, 0]], GRID, GRID, LOG_DENSITY)
    assert any("50.0% of dots off the map" in text.get_text() for text in words(ax))


def test_the_truth_is_named_where_it_lies_and_nowhere_else():
    """A star in a legend inside the map would pass for a second truth."""
    ax = CALLS["posterior_scatter"]()
    assert ax.get_legend() is None
    [named] = [text for text in ax.texts if text.get_text() == "truth"]
    assert named.xy == pytest.approx((0, 0))


def test_costs_that_stand_close_share_a_tick():
    ax = FIGURES["sampler_comparison"]({"a": (COSTS, COSTS, COSTS), "b": (1000, 1, 1)})
    assert [label.get_text() for label in ax.get_xticklabels()] == ["64", "256", "1000"]


def test_a_sampler_keeps_its_colour_where_others_are_not_shown():
    whole, part = ({name: (1, 1, 0.1) for name in names} for names in ("abc", "bc"))
    first, second = (FIGURES["sampler_comparison"](curves, order="abc") for curves in (whole, part))
    looks = [{text.get_label(): text.lines[0].get_color() for text in ax.containers} for ax in (first, second)]
    assert looks[1] == {name: looks[0][name] for name in "bc"} and len(set(looks[0].values())) == 3


def test_curves_beyond_the_palette_still_differ():
    looks = {(style.colour(k), style.marker(k)) for k in range(20)}
    assert len(looks) == 20


def test_no_figure_touches_pyplot():
    code = "import sys, sciflow.figures; sys.exit('matplotlib.pyplot' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

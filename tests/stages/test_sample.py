"""sample: draws depend on the seed, their posterior's name and the observation, and on nothing else."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from sciflow import journal, progress
from sciflow.data.store import read_provenance, write_provenance
from tests.tiny import ANALYTIC, IMAGING, Place, change

FAULTS = str(Path(__file__).with_name("faults.py"))
POSTERIORS: dict[str, Any] = IMAGING["sample"]["posteriors"]
FAULTY = {"kind": "guided", "guidance": {"kind": "faulty"}, "solver": {"kind": "heun"}}
CALLS = 2 * 3 + 1 + 1  # guidance calls per observation: a Heun run of three steps, one for the start, one for the end
SAMPLES = "results/imaging/samples.nc"


def drawn(place: Place, file: str = SAMPLES) -> xr.Dataset:
    with xr.open_dataset(place.folder / file) as opened:
        return opened.load()


def sampled(place: Place, posteriors: dict[str, Any], *options: str) -> xr.Dataset:
    """The samples of the run `imaging` with these posteriors."""
    place.write(change(IMAGING, {"sample.posteriors": posteriors}), "imaging")
    outcome = place.sciflow("sample", "imaging.yaml", *options)
    assert outcome.status == 0, outcome.text
    return drawn(place)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_shards_give_the_bytes_of_one_process(count: int, copied: Place) -> None:
    """Also more shards than observations: some are empty."""
    before = (copied.folder / SAMPLES).read_bytes()
    parts = [f"parts/{index}.nc" for index in range(1, count + 1)]
    for index, part in enumerate(parts, start=1):
        call = ("sample", "imaging.yaml", "--shard", f"{index}/{count}", "--out", part)
        assert copied.sciflow(*call).status == 0
    spent = [read_provenance(copied.folder / part) for part in parts]
    outcome = copied.sciflow("sample", "imaging.yaml", "--gather", *reversed(parts), "--out", SAMPLES)
    assert outcome.status == 0, outcome.text
    whole = read_provenance(copied.folder / SAMPLES)
    assert whole["seconds"] == max(one["seconds"] for one in spent)  # they may run side by side
    assert whole["cpu_seconds"] == pytest.approx(sum(one["cpu_seconds"] for one in spent), abs=1e-2)  # rounded to ms
    assert (copied.folder / SAMPLES).read_bytes() == before


def test_the_journal_tells_of_the_steps_of_an_observation(copied: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that takes an hour is not silent until its end."""
    monkeypatch.setattr(progress, "TELL_EVERY", 0.0)
    assert copied.sciflow("sample", "imaging.yaml").status == 0
    told = [line for line in journal.read(copied.results("imaging") / ".state/sample" / journal.FILE) if "part" in line]
    first = [line["part"] for line in told if line["done"] == 0]
    assert first == sorted(set(first)) and len(first) >= 2, "one line for each step but the last"
    assert {line["done"] for line in told} == set(range(6)), "of three observations for two posteriors"
    assert all("ess" in line for line in told if line["done"] > 0)


def test_the_cost_of_shards_on_devices_is_told_by_the_whole(copied: Place) -> None:
    """Joining runs on a processor: seconds are added up, memory is the largest, the device is that of the shards."""
    devices = [
        {"gpu_seconds": 10.5, "peak_gpu_memory_mb": 700.0, "ranks": 2, "device": "card A"},
        {"gpu_seconds": 20.25, "peak_gpu_memory_mb": 900.0, "ranks": 2, "device": "card B"},
    ]
    for index, facts in enumerate(devices, start=1):
        part = f"{index}.nc"
        assert copied.sciflow("sample", "imaging.yaml", "--shard", f"{index}/2", "--out", part).status == 0
        write_provenance(copied.folder / part, {**read_provenance(copied.folder / part), **facts})
    assert copied.sciflow("sample", "imaging.yaml", "--gather", "1.nc", "2.nc").status == 0
    told = read_provenance(copied.folder / SAMPLES)
    whole = {"gpu_seconds": 30.75, "peak_gpu_memory_mb": 900.0, "ranks": 2, "device": "card A, card B"}
    assert {key: told[key] for key in whole} == whole


@pytest.mark.parametrize(
    ("shards", "message"),
    [
        (["1/2"], "the files hold the shards ['1/2'], not each of 1 once."),
        (["1/2", "1/2"], "the files hold the shards ['1/2', '1/2'], not each of 2 once."),
        (["1/3", "2/3"], "the files hold the shards ['1/3', '2/3'], not each of 2 once."),
        ([], "--gather and the shards to join go together"),
    ],
)
def test_missing_and_repeated_shards_are_refused(shards: list[str], message: str, copied: Place) -> None:
    parts = [f"part{number}.nc" for number, _ in enumerate(shards)]
    for shard, part in zip(shards, parts, strict=True):
        assert copied.sciflow("sample", "imaging.yaml", "--shard", shard, "--out", part).status == 0
    before = (copied.folder / SAMPLES).read_bytes()
    outcome = copied.sciflow("sample", "imaging.yaml", "--gather", *parts)
    assert outcome.status == 2
    assert message in outcome.text
    assert (copied.folder / SAMPLES).read_bytes() == before


def test_shards_of_another_section_are_refused(copied: Place) -> None:
    for index, n_steps in ((1, 3), (2, 4)):
        copied.write(change(IMAGING, {"sample.times.n_steps": n_steps}), "imaging")
        out = f"part{index}.nc"
        assert copied.sciflow("sample", "imaging.yaml", "--shard", f"{index}/2", "--out", out).status == 0
    outcome = copied.sciflow("sample", "imaging.yaml", "--gather", "part1.nc", "part2.nc")
    assert outcome.status == 2
    assert "part2.nc belongs to another run, section or input than part1.nc." in outcome.text


def test_a_searched_grid_is_kept_and_every_shard_finds_it(copied: Place) -> None:
    search = {"kind": "dynamic_programming", "n_candidates": 12, "n_samples": 4}
    copied.write(change(IMAGING, {"sample.search": search}), "imaging")
    assert copied.sciflow("sample", "imaging.yaml").status == 0
    whole = drawn(copied)
    for index in (1, 2):
        part = f"part{index}.nc"
        assert copied.sciflow("sample", "imaging.yaml", "--shard", f"{index}/2", "--out", part).status == 0
    assert copied.sciflow("sample", "imaging.yaml", "--gather", "part1.nc", "part2.nc").status == 0
    joined = drawn(copied)
    xr.testing.assert_identical(joined, whole)
    grid = joined.attrs["searched_times"]
    assert len(grid) == 4 and bool((np.diff(grid) > 0).all())


@pytest.mark.parametrize("shard", ["0/2", "3/2", "a", "1/0", "1.5/2", "-1/2"])
def test_a_shard_that_is_none_is_refused(shard: str, built: Place) -> None:
    outcome = built.sciflow("sample", "imaging.yaml", f"--shard={shard}")
    assert outcome.status == 2
    assert f"--shard must be i/n with 1 ≤ i ≤ n, got {shard!r}." in outcome.text


def test_a_posterior_does_not_depend_on_its_neighbours(copied: Place) -> None:
    """Not on their number, their order, nor on what they are."""
    before = drawn(copied)["samples"]
    names = list(POSTERIORS)
    alone = sampled(copied, {names[1]: POSTERIORS[names[1]]})["samples"]
    among = sampled(copied, {"new": {"kind": "twisted_smc", "n_particles": 8}, **dict(reversed(POSTERIORS.items()))})
    np.testing.assert_array_equal(alone.sel(posterior=names[1]), before.sel(posterior=names[1]))
    for name in names:
        np.testing.assert_array_equal(among["samples"].sel(posterior=name), before.sel(posterior=name))
    assert among["posterior"].to_numpy().tolist() == ["new", *reversed(names)]
    renamed = sampled(copied, {"other": POSTERIORS[names[1]]})["samples"]
    assert not np.array_equal(renamed.sel(posterior="other"), before.sel(posterior=names[1]))


def test_the_first_draws_are_those_of_a_longer_run(copied: Place) -> None:
    copied.write(change(IMAGING, {"sample.n_samples": 6}), "imaging")
    before = drawn(copied)["samples"]
    assert copied.sciflow("sample", "imaging.yaml").status == 0
    np.testing.assert_array_equal(drawn(copied)["samples"][:, :, :4], before)


@pytest.mark.parametrize("tile", [3, 64])
def test_calls_of_the_network_are_counted_per_draw_whatever_the_tile(tile: int, copied: Place) -> None:
    """Of four draws a tile of 64 is filled with 60 rows that are nobody's."""
    copied.write(change(IMAGING, {"sample.tile": tile}), "imaging")
    assert copied.sciflow("sample", "imaging.yaml").status == 0
    nfe = drawn(copied)["nfe"]
    assert (nfe.sel(posterior="stochastic") == CALLS + 1).all()  # the start asks the prior, too
    assert (nfe.sel(posterior="PiGDM") == 3 + 2 + 1).all()


def interrupted(place: Place, at: int, posteriors: dict[str, Any]) -> None:
    """Sample until the given guidance call, where SIGTERM comes."""
    place.write({**change(IMAGING, {"sample.posteriors": posteriors}), "plugins": [FAULTS]}, "imaging")
    (place.folder / "plan").write_text(f"guidance {at} term")
    outcome = place.sciflow("sample", "imaging.yaml")
    assert outcome.status == 75, outcome.text
    assert "Run the same command again to continue" in outcome.text


def test_a_terminated_run_continues_to_the_same_bytes(copied: Place) -> None:
    """Also when the posteriors change places in between, which is the same section in other words."""
    posteriors = {"a": FAULTY, "b": {**FAULTY, "solver": {"kind": "euler"}}}
    values = {**change(IMAGING, {"sample.posteriors": posteriors}), "plugins": [FAULTS]}
    for stage in ("dataset", "train", "sample"):  # a plugin is part of the source of every stage
        assert copied.sciflow(stage, copied.write(values, "imaging")).status == 0
    unbroken = drawn(copied)
    (copied.folder / SAMPLES).unlink()
    copied.forget("imaging")
    interrupted(copied, CALLS + 3, posteriors)  # in the middle of the second observation
    assert not (copied.folder / SAMPLES).exists()
    (state,) = copied.results("imaging").glob(".state/sample/*/")
    assert len(list(state.iterdir())) == 1, "one observation was finished"
    copied.write(
        {**values, "sample": {**values["sample"], "posteriors": dict(reversed(posteriors.items()))}}, "imaging"
    )
    outcome = copied.sciflow("sample", "imaging.yaml")
    assert outcome.status == 0, outcome.text
    for name in posteriors:
        np.testing.assert_array_equal(
            drawn(copied)["samples"].sel(posterior=name), unbroken["samples"].sel(posterior=name)
        )


@pytest.mark.parametrize("damage", ["bit", "part", "text"])
def test_a_draw_that_the_disk_damaged_is_drawn_again(
    damage: str, copied: Place, caplog: pytest.LogCaptureFixture
) -> None:
    posteriors = {"a": FAULTY}
    values = {**change(IMAGING, {"sample.posteriors": posteriors}), "plugins": [FAULTS]}
    for stage in ("dataset", "train", "sample"):
        assert copied.sciflow(stage, copied.write(values, "imaging")).status == 0
    unbroken = drawn(copied)
    interrupted(copied, CALLS + 3, posteriors)
    (kept,) = copied.results("imaging").glob(".state/sample/*/*.pt")
    content = bytearray(kept.read_bytes())
    content[len(content) // 2] ^= 1
    kept.write_bytes({"bit": bytes(content), "part": bytes(content[:900]), "text": b"no draw"}[damage])
    outcome = copied.sciflow("sample", "imaging.yaml")
    assert outcome.status == 0, outcome.text
    assert f"{kept.name}: " in caplog.text and "observation 0 of 'a' is drawn again" in caplog.text
    xr.testing.assert_identical(drawn(copied), unbroken)


def test_out_of_time_says_what_to_do(copied: Place) -> None:
    before = (copied.folder / SAMPLES).read_bytes()
    outcome = copied.sciflow("sample", "imaging.yaml", "--time-limit", "1e-9")
    assert outcome.status == 75
    assert outcome.text.startswith("out of time: run imaging, sample: stopped at observation 0 of 'PiGDM'")
    assert "if not one observation fits, raise resources.sample.runtime." in outcome.text
    assert (copied.folder / SAMPLES).read_bytes() == before


def test_a_draw_that_is_not_finite_is_named_and_not_tried_again(copied: Place) -> None:
    posteriors = {"good": POSTERIORS["stochastic"], "my sampler": FAULTY}
    copied.write({**change(IMAGING, {"sample.posteriors": posteriors}), "plugins": [FAULTS]}, "imaging")
    (copied.folder / "plan").write_text(f"guidance {CALLS + 4} nan")
    before = (copied.folder / SAMPLES).read_bytes()
    outcome = copied.sciflow("sample", "imaging.yaml")
    assert outcome.status == 1
    start = (
        "error: run imaging, sample: posterior 'my sampler', observation 1: FaultyGuidance: 4 of 4 draws are not finite"
    )
    assert outcome.text.startswith(start)
    assert "from t = 0." in outcome.text and "on, in step 2 of 3." in outcome.text
    assert (copied.folder / SAMPLES).read_bytes() == before
    again = copied.sciflow("sample", "imaging.yaml")
    assert again.status == 2
    assert "draws are not finite" in again.text and "This is a recorded failure" in again.text


SAMPLER = '''
from dataclasses import dataclass

from sciflow.inverse import POSTERIORS
from sciflow.particles.particles import Particles


@dataclass(frozen=True)
class Broken:
    """Draws that are not finite, and are not noticed by the sampler itself."""

    def __call__(self, prior, likelihood, times, n, stream, on_step=None):
        x = prior.initial(float(times[0]), n, stream, likelihood.observation.dtype)
        x[0] = float("inf")
        return Particles.equal(x)


POSTERIORS["broken"] = Broken
'''


def test_draws_of_any_sampler_are_looked_at(copied: Place) -> None:
    (copied.folder / "broken.py").write_text(SAMPLER)
    values = change(IMAGING, {"sample.posteriors": {"mine": {"kind": "broken"}}})
    copied.write({**values, "plugins": ["broken.py"]}, "imaging")
    outcome = copied.sciflow("sample", "imaging.yaml")
    assert outcome.status == 1
    assert "posterior 'mine', observation 0: 1 of 4 draws are NaN or infinite." in outcome.text


@pytest.mark.parametrize(
    ("operator", "message"),
    [
        ({"kind": "downsampling"}, "the observation has 32 measurements, but Downsampling makes 16 of events of shape"),
        ({"kind": "dense", "n_measurements": 32}, "dense needs the parameter 'matrix'."),
    ],
)
def test_an_operator_that_does_not_fit_is_refused_before_sampling(operator: dict, message: str, copied: Place) -> None:
    copied.write(change(IMAGING, {"sample.likelihood.operator": operator}), "imaging")
    before = copied.files()
    outcome = copied.sciflow("sample", "imaging.yaml")
    assert outcome.status == 2
    assert message in outcome.text
    assert copied.files() == before


def test_a_network_can_be_sampled_in_double_precision(place: Place) -> None:
    network = {"kind": "network", "network": {"kind": "mlp", "width": 8, "depth": 1}}
    values = change(ANALYTIC, {"train": {**network, "optimisation": {"n_steps": 2, "batch_size": 8}}})
    results = place.build(values, until="sample")
    assert drawn(place, "results/run/samples.nc")["samples"].dtype == np.float64
    assert (results / "model.pt").stat().st_size < 100_000


def test_what_samplers_say_of_their_steps_is_kept_and_shown(place: Place) -> None:
    """Acceptance and control coefficients of each step, NaN where a sampler has none; the same bytes in shards."""
    posteriors = {
        "guided": {"kind": "guided"},
        "tempered": {"kind": "tempered", "n_particles": 32},
        "tilted": {"kind": "tilted", "ensemble": {"n_particles": 64}},
    }
    folder = place.build(change(ANALYTIC, {"sample.posteriors": posteriors}))
    with xr.open_dataset(folder / "samples.nc") as opened:
        found = opened.load()
    acceptance = found["acceptance_trace"].transpose("posterior", "observation", "smc_step")
    assert acceptance.sel(posterior="guided").isnull().all()
    for name, i in itertools.product(("tempered", "tilted"), (0, 1)):
        shares, sizes = (found[trace].sel(posterior=name)[i].values for trace in ("acceptance_trace", "ess_trace"))
        n_steps = int(np.isfinite(sizes).sum()) - 1
        assert np.isnan(shares[0]) and np.isnan(shares[n_steps + 1 :]).all() and n_steps > 1
        own = shares[1 : n_steps + 1]
        assert ((own > 0) & (own <= 1)).all() and own[-1] > 0.2  # a broken move accepts none
    control = found["control_score_trace"]
    assert control.dims == ("posterior", "observation", "smc_step")
    assert control.notnull().sum("smc_step").sel(posterior="tilted").values.tolist() == [n_steps] * 2
    assert control.sel(posterior=["guided", "tempered"]).isnull().all()
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert "coefficients of the control drift" in text and "distinct ones each resampling kept" in text
    before, run = (folder / "samples.nc").read_bytes(), f"{folder.name}.yaml"
    for index in (1, 2):
        assert place.sciflow("sample", run, "--shard", f"{index}/2", "--out", f"{index}.nc").status == 0
    assert place.sciflow("sample", run, "--gather", "2.nc", "1.nc").status == 0
    assert (folder / "samples.nc").read_bytes() == before

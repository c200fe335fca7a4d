"""train: it stops for time, signals and bad numbers without losing anything, and continues to the same bits."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pytest
import torch

from sciflow.data.store import read_provenance
from sciflow.memory import RETRY_VARIABLE
from sciflow.training.checkpoint import load
from tests.tiny import ANALYTIC, IMAGING, ROOT, Place, change

FAULTS = str(Path(__file__).with_name("faults.py"))
FAULTY: dict[str, Any] = {
    **change(IMAGING, {"train.loss": {"kind": "faulty"}, "train.optimisation.checkpoint_every": 0}),
    "plugins": [FAULTS],
}


@pytest.fixture
def straight(built: Place) -> bytes:
    """The model of the run that nothing interrupted."""
    return (built.results("imaging") / "model.pt").read_bytes()


@pytest.fixture
def prepared(place: Place, built: Place) -> Place:
    """The data of the run `imaging`, not trained on yet."""
    file = place.results("imaging") / "data.nc"
    file.parent.mkdir(parents=True)
    file.write_bytes((built.results("imaging") / "data.nc").read_bytes())
    place.write(IMAGING, "imaging")
    return place


def done(place: Place, name: str = "imaging") -> int:
    """Steps in the checkpoint."""
    (checkpoint,) = place.results(name).glob(".state/train/*/checkpoint.pt")
    content = torch.load(checkpoint, weights_only=True)
    assert all(weight.isfinite().all() for weight in content["model"].values())
    return len(content["history"]["loss"])


def test_out_of_time_saves_and_continues_to_the_same_bits(prepared: Place, straight: bytes) -> None:
    """A limit that is over at once: every call does one step."""
    for step in range(1, 6):
        outcome = prepared.sciflow("train", "imaging.yaml", "--time-limit", "1e-9")
        assert outcome.status == 75
        assert outcome.text.startswith(f"out of time: run imaging, train: training stopped after step {step} of 6 ")
        assert "Run the same command again to continue." in outcome.text
        assert done(prepared) == step
    assert prepared.sciflow("train", "imaging.yaml", "--time-limit", "1e-9").status == 0
    assert (prepared.results("imaging") / "model.pt").read_bytes() == straight
    kept = {path.name for path in prepared.results("imaging").glob(".state/train/*/*")}
    assert kept == {"model.pt", "model.pt.provenance.json"}, "the state of a finished stage is kept"


def test_a_finished_model_that_is_deleted_is_put_back(
    prepared: Place, straight: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """As Snakemake does when the time of a job is over between the end of a stage and its own; and no damaged one."""
    model = prepared.results("imaging") / "model.pt"
    facts = model.with_name("model.pt.provenance.json")
    assert prepared.sciflow("train", "imaging.yaml").status == 0
    told = facts.read_bytes()
    model.unlink()
    facts.unlink()
    caplog.set_level("INFO")
    assert prepared.sciflow("train", "imaging.yaml").status == 0
    assert "model.pt is put back" in caplog.text
    assert (model.read_bytes(), facts.read_bytes()) == (straight, told)
    with model.open("r+b") as file:
        file.seek(1000)
        file.write(b"damaged")
    model.unlink()
    assert prepared.sciflow("train", "imaging.yaml").status == 0
    assert "model.pt is made again" in caplog.text
    assert model.read_bytes() == straight


def test_a_terminated_run_saves_and_continues_to_the_same_bits(prepared: Place) -> None:
    def trained(plan: str) -> tuple[int, bytes]:
        (prepared.folder / "plan").write_text(plan)
        status = prepared.sciflow("train", "imaging.yaml").status
        model = prepared.results("imaging") / "model.pt"
        return status, model.read_bytes() if status == 0 else b""

    prepared.write(FAULTY, "imaging")
    status, unbroken = trained("")
    assert status == 0
    (prepared.results("imaging") / "model.pt").unlink()
    prepared.forget("imaging")
    assert trained("loss 3 term") == (75, b"")
    assert done(prepared) == 3
    assert trained("") == (0, unbroken)


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        ("loss 3 nan", "training step 3 of 6: the loss is nan, the norm of its gradient nan."),
        ("loss 5 nan", "validation after training step 3 of 6: the loss is nan."),  # which follows step 3 at once
    ],
)
def test_a_loss_that_is_not_finite_stops_with_step_and_run(plan: str, said: str, prepared: Place) -> None:
    """The last good checkpoint stays, and the next attempt says the same without training."""
    prepared.write(FAULTY, "imaging")
    (prepared.folder / "plan").write_text(plan)
    outcome = prepared.sciflow("train", "imaging.yaml")
    assert outcome.status == 1
    assert outcome.text.startswith(f"error: run imaging, train: {said} The last good checkpoint is kept")
    assert done(prepared) == 2
    assert not (prepared.results("imaging") / "model.pt").exists()
    again = prepared.sciflow("train", "imaging.yaml")
    assert again.status == 2
    assert said in again.text
    assert "This is a recorded failure: nothing it depends on has changed since." in again.text


def test_a_recorded_failure_can_be_forgotten(prepared: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared.write(FAULTY, "imaging")
    (prepared.folder / "plan").write_text("loss 2 nan")
    assert prepared.sciflow("train", "imaging.yaml").status == 1
    monkeypatch.setenv(RETRY_VARIABLE, "1")
    assert prepared.sciflow("train", "imaging.yaml").status == 0


def test_a_learning_rate_beyond_reason_is_named(prepared: Place) -> None:
    extreme = {"train.optimisation.learning_rate": 1e30, "train.optimisation.gradient_clip": 1e30}
    prepared.write(change(IMAGING, extreme), "imaging")
    outcome = prepared.sciflow("train", "imaging.yaml")
    assert outcome.status == 1
    assert "error: run imaging, train: training step " in outcome.text
    assert "lower learning_rate" in outcome.text


def test_a_changed_section_never_resumes_old_weights(prepared: Place) -> None:
    assert prepared.sciflow("train", "imaging.yaml", "--time-limit", "1e-9").status == 75
    prepared.write(change(IMAGING, {"train.optimisation.learning_rate": 1e-4}), "imaging")
    assert prepared.sciflow("train", "imaging.yaml", "--time-limit", "1e-9").status == 75
    assert done(prepared) == 1, "it went on from the weights of another learning rate"


def test_two_processes_never_train_the_same_model(prepared: Place) -> None:
    state = prepared.results("imaging") / ".state" / "train"
    state.mkdir(parents=True)
    with filelock.FileLock(state / "lock"):
        outcome = prepared.sciflow("train", "imaging.yaml")
    assert outcome.status == 2
    assert "is in use by another process. Wait for it to end" in outcome.text
    assert prepared.sciflow("train", "imaging.yaml").status == 0, "that is no failure to be remembered"


def test_a_network_that_does_not_fit_the_data_is_refused(place: Place) -> None:
    place.build(change(ANALYTIC, {"train": {"kind": "network"}}), until="dataset")
    outcome = place.sciflow("train", "run.yaml")
    assert outcome.status == 2
    assert "a U-Net with 4 channel(s) needs events of shape (channel, y, x) or (channel, x), got (4,)." in outcome.text


def test_data_that_do_not_vary_are_refused(place: Place) -> None:
    np.savez(place.folder / "flat.npz", images=np.ones((20, 8, 8)))
    flat = {"kind": "file", "path": "flat.npz", "n_observations": 1}
    place.build(change(IMAGING, {"dataset": flat}), until="dataset")
    outcome = place.sciflow("train", "run.yaml")
    assert outcome.status == 2
    assert "the training data have standard deviation 0.0. Give data that vary." in outcome.text


def test_a_model_of_other_events_is_refused(place: Place, built: Place) -> None:
    (place.folder / "mine.pt").write_bytes((built.results("imaging") / "model.pt").read_bytes())
    place.build(change(ANALYTIC, {"train": {"kind": "checkpoint", "path": "mine.pt"}}), until="dataset")
    outcome = place.sciflow("train", "run.yaml")
    assert outcome.status == 2
    said = "train.path mine.pt is a model of events of shape (1, 8, 8), but the data have (4,)."
    assert said in outcome.text


def test_a_model_of_ones_own_is_taken_over_weight_for_weight(place: Place, built: Place) -> None:
    mine = place.folder / "mine.pt"
    mine.write_bytes((built.results("imaging") / "model.pt").read_bytes())
    values = change(IMAGING, {"seed": 5, "train": {"kind": "checkpoint", "path": "mine.pt"}})
    results = place.build(values, until="sample")
    old, new = (torch.load(file, weights_only=True) for file in (mine, results / "model.pt"))
    assert old["weights"].keys() == new["weights"].keys()
    assert all(torch.equal(old["weights"][name], new["weights"][name]) for name in old["weights"])
    assert old["history"] == new["history"] and old["header"] != new["header"]


def test_a_model_of_a_schedule_that_is_not_known_is_refused_with_the_reason(place: Place, built: Place) -> None:
    stored = torch.load(built.results("imaging") / "model.pt", weights_only=True)
    stored["schedule"]["kind"] = "mine"
    torch.save(stored, place.folder / "mine.pt")
    place.build(change(IMAGING, {"train": {"kind": "checkpoint", "path": "mine.pt"}}), until="dataset")
    outcome = place.sciflow("train", "run.yaml")
    assert outcome.status == 2
    assert "mine.pt: its schedule 'mine' is not known, only ['cosine', 'edm'," in outcome.text
    assert "Load the plugin that defines it." in outcome.text


@pytest.mark.slow
def test_several_ranks_train_one_model(prepared: Place) -> None:
    """Every rank ends well, one of them writes, and together they do what a single process does."""
    prepared.write(change(IMAGING, {"train.network.dropout": 0.0}), "imaging")  # masks are drawn per rank
    assert prepared.sciflow("train", "imaging.yaml", "--out", "single/model.pt").status == 0
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    call = [*launch, "-m", "sciflow.cli", "train", "imaging.yaml", "--out", "ranks/model.pt"]
    ranked = subprocess.run(call, cwd=prepared.folder, capture_output=True, text=True, timeout=250)
    assert ranked.returncode == 0, ranked.stderr
    single, joint = (torch.load(prepared.folder / name / "model.pt", weights_only=True) for name in ("single", "ranks"))
    losses = (torch.tensor(model["history"]["loss"]) for model in (single, joint))
    torch.testing.assert_close(*losses, rtol=1e-4, atol=0)  # float32 sums in another order, through six steps


@pytest.mark.slow
def test_ranks_of_one_node_follow_a_single_process(built: Place, tmp_path: Path) -> None:
    """The command starts itself once for each rank; one of them writes, and tells the cost of all."""
    place = Place(built.copy(tmp_path / "copy"))
    changed = change(IMAGING, {"train.network.dropout": 0.0})
    place.write({**changed, "resources": {"train": {"ranks": 2}}}, "imaging")
    call = [sys.executable, "-m", "sciflow.cli", "train", "imaging.yaml"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        call, cwd=place.folder, env=environment, capture_output=True, text=True, timeout=250, check=False
    )
    assert done.returncode == 0, done.stderr
    model = place.results("imaging") / "model.pt"
    together, facts = load(model, "model")["history"], read_provenance(model)
    assert facts["ranks"] == 2 and "2 ranks work together" in done.stderr
    place.write(changed, "imaging")
    assert place.sciflow("train", "imaging.yaml").status == 0
    alone = load(model, "model")["history"]
    # the ranks' sums are added in another order, 1e-7 relative, which six steps of Adam may raise a hundredfold
    assert together["loss"] == pytest.approx(alone["loss"], rel=1e-5)
    assert together["validation"] == pytest.approx(alone["validation"], rel=1e-5)


def test_ranks_must_fit_the_devices(place: Place) -> None:
    file = place.write({**IMAGING, "resources": {"train": {"gpu": 2, "ranks": 3}}})
    outcome = place.sciflow("check", file)
    assert outcome.status == 2 and "ranks is 3, with gpu 2 it must be 0 or 2: a device for each." in outcome.text


def test_a_mixture_is_fitted_and_its_posterior_drawn_without_a_network_call(place: Place) -> None:
    mixture = {"kind": "mixture", "n_components": 2, "n_directions": 12, "n_iterations": 3, "symmetries": True}
    values = change(IMAGING, {"train": mixture, "sample.posteriors": {"exact": {"kind": "conjugate"}}})
    results = place.build(values)
    facts = read_provenance(results / "model.pt")
    # 1286 digits learned from and eight times as many after symmetries: a fit this small cannot be far from held-out
    # digits, of which each has a log-density of about 64 log(1/0.2)
    assert abs(facts["log_density_train"] - facts["log_density_validation"]) < 8
    assert facts["log_density_validation"] > 0
    assert read_provenance(results / "samples.nc")["posterior_rows"] == {"exact": 0}
    assert load(results / "model.pt", "model")["basis"].shape == (64, 12)

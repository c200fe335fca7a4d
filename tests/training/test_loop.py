"""What the loop promises besides resuming: limits, failures, accumulation, precision, validation."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from sciflow.errors import InputError, NonFiniteError
from sciflow.random import Stream
from sciflow.training import Optimisation, fit
from sciflow.types import facts


def weights(fitted) -> torch.Tensor:
    return torch.cat([p.flatten() for p in fitted.module.parameters()])


def test_it_learns(problem):
    fitted = problem.change(n_steps=400, learning_rate=3e-3, validate_every=100, ema_decay=0.99).fit()
    assert (fitted.stopped, len(fitted.history.loss)) == ("n_steps", 400)
    assert list(fitted.history.validation) == [100, 200, 300, 400]
    assert not fitted.module.training
    # the best denoiser of a standard normal knows u only through x + u z: its error averages E[u^2 / (1 + u^2)] = 1/2
    # over log u ~ N(0, 1), by symmetry; the zero function errs by 1. Of the 0.5 between them, 80 % must be learned.
    # Validation on 100 rows has standard error sqrt(2 / 200) * 1/2 = 0.05 at most: 4 of them are added.
    assert fitted.history.validation[400] < 0.5 + 0.1 + 0.2
    assert fitted.history.validation[400] < fitted.history.validation[100]


def test_default_generator_is_left_alone(problem):
    problem = replace(problem.change(n_steps=3), dropout=0.5)
    module, seen = problem.module(), []

    def loss(module, batch, stream, step, first):
        seen.append(torch.get_rng_state())
        return problem.loss(module, batch, stream, step, first)

    torch.manual_seed(1)
    state = torch.get_rng_state()
    fit(module, loss, problem.rows("train"), None, problem.options, Stream(0), progress=None)
    assert torch.equal(torch.get_rng_state(), state)
    assert len({tuple(s.tolist()) for s in seen}) == 3  # and every step has its own dropout masks


def test_accumulation_changes_rounding_only(problem):
    whole = problem.fit()
    for pieces in (3, 5, 1000):
        parts = problem.change(accumulate=pieces).fit()
        # sums of 24 float32 rows in another order differ by some 1e-7; Adam's division by the root of its second
        # moment can raise that a hundredfold for weights whose gradient nearly vanishes
        assert parts.history.loss == pytest.approx(whole.history.loss, rel=1e-5)
        torch.testing.assert_close(weights(parts), weights(whole), rtol=0, atol=1e-5)


def test_noise_of_a_step_does_not_depend_on_accumulation(problem):
    drawn = {}

    def loss(module, batch, stream, step, first):
        if stream.purpose[-1] == "noise" and step == 2:
            drawn.setdefault(pieces, []).append(stream.normal(len(batch), (2,), step=step, first=first))
        return problem.loss(module, batch, stream, step, first)

    for pieces in (1, 4):
        problem.change(accumulate=pieces, n_steps=3).fit(loss=loss)
    assert len(drawn[4]) == 4
    assert torch.equal(torch.cat(drawn[1]), torch.cat(drawn[4]))


def test_bfloat16_trains_float32_weights(problem):
    single, half = problem.fit(), problem.change(precision="bfloat16").fit()
    assert weights(half).dtype == torch.float32
    assert not torch.equal(weights(half), weights(single))
    # bfloat16 keeps 8 bits, a relative 2^-9 per product; a loss averages 48 numbers made of a few such products
    torch.testing.assert_close(torch.tensor(half.history.loss), torch.tensor(single.history.loss), rtol=0.02, atol=0)


def test_validation_uses_averaged_weights_and_the_same_noise_whatever_the_batch(problem):
    fitted = problem.fit()
    still = problem.change(learning_rate=1e-30, weight_decay=0).fit()
    assert len(set(still.history.validation.values())) == 1
    again = problem.change(batch_size=7, learning_rate=1e-30, weight_decay=0).fit()
    # float32 sums of 100 rows cut into other pieces
    assert again.history.validation[10] == pytest.approx(still.history.validation[10], rel=1e-6)
    assert fitted.history.validation[10] != still.history.validation[10]


def test_empty_validation_is_skipped(problem):
    assert problem.fit(validation=torch.zeros(0, 2)).history.validation == {}


def test_data_smaller_than_the_batch(problem):
    assert len(replace(problem, n_rows=5).fit().history.loss) == 30


def test_anything_that_row_numbers_can_index_is_data(problem):
    class Lazy:
        def __len__(self):
            return 100

        def __getitem__(self, rows):
            return problem.rows("train")[rows]

    assert problem.fit(train=Lazy()).history == problem.fit().history


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_non_finite_loss_names_the_step_and_keeps_the_checkpoint(problem, checkpoint, bad):
    def loss(module, batch, stream, step, first):
        losses = problem.loss(module, batch, stream, step, first)
        return losses * bad if step == 12 and stream.purpose[-1] == "noise" else losses

    with pytest.raises(NonFiniteError, match="training step 13 of 30: the loss is"):
        problem.fit(checkpoint, loss=loss)
    state = checkpoint.load()
    assert len(state["history"]["loss"]) == 12
    assert all(torch.isfinite(tensor).all() for tensor in state["model"].values())
    assert problem.fit(checkpoint).history == problem.fit().history


def test_non_finite_gradient_stops_before_the_step(problem, checkpoint):
    def loss(module, batch, stream, step, first):
        losses = problem.loss(module, batch, stream, step, first)
        return losses + (0 * losses).sqrt() if step == 4 else losses

    with pytest.raises(NonFiniteError, match=r"training step 5 of 30: the loss is .* the norm of its gradient nan"):
        problem.fit(checkpoint, loss=loss)
    assert len(checkpoint.load()["history"]["loss"]) == 4


def test_non_finite_weights_are_not_saved(problem, checkpoint):
    with pytest.raises(NonFiniteError, match="step 1 of 30 left weights"):
        problem.change(learning_rate=1e37, warm_up=0).fit(checkpoint)
    assert checkpoint.load() is None


def test_non_finite_validation(problem):
    with pytest.raises(NonFiniteError, match="validation after training step 10 of 30"):
        problem.fit(validation=torch.full((3, 2), torch.nan))


def test_time_budget_counts_as_finished(problem, checkpoint):
    problem = problem.change(time_budget=1e-9)
    first = problem.fit(checkpoint)
    assert (first.stopped, len(first.history.loss), list(first.history.validation)) == ("time_budget", 1, [1])
    again = problem.fit(checkpoint)
    assert (again.stopped, again.history) == ("time_budget", first.history)
    assert torch.equal(weights(again), weights(first))
    assert again.seconds >= checkpoint.load()["seconds"] > 0


def test_patience_counts_as_finished(problem):
    def constant(*arguments):
        return problem.loss(*arguments) * 0 + 1

    fitted = problem.change(patience=2, validate_every=5).fit(loss=constant)
    assert (fitted.stopped, list(fitted.history.validation)) == ("patience", [5, 10, 15])
    improving = problem.change(patience=1, learning_rate=3e-3).fit()
    assert improving.stopped == "n_steps"


def test_learning_rate_rises_and_falls():
    rates = [Optimisation(n_steps=100, warm_up=10, learning_rate=2.0).rate(step) for step in range(100)]
    assert rates[:10] == pytest.approx([0.2 * (n + 1) for n in range(10)], rel=1e-12)  # float64 roundings
    assert rates[55] == pytest.approx(1.0, rel=1e-12)  # half-way down
    assert 0 < rates[99] < 0.002 and rates[10:] == sorted(rates[10:], reverse=True)
    assert Optimisation(n_steps=1, warm_up=50).rate(0) == Optimisation().learning_rate


def test_gradient_is_clipped(problem):
    free, clipped = problem.change(gradient_clip=None).fit(), problem.change(gradient_clip=1e-12).fit()
    assert torch.isfinite(weights(free)).all()
    # Adam divides by a gradient of at most 1e-12 plus its epsilon 1e-8: 30 steps of 1e-3 * 1e-4 move a weight < 3e-6,
    # and weight decay by 30 * 1e-3 * 1e-4 of its size, 3e-6 again
    start = torch.cat([p.flatten() for p in problem.module().parameters()])
    assert (weights(clipped) - start).abs().max() < 6e-6 < (weights(free) - start).abs().max()


@pytest.mark.parametrize("learning_rate", [0.03, 0.1])
def test_soap_sees_through_a_rotation(learning_rate):
    """Directions that one coordinate cannot tell apart, of curvatures 1 to 1e-4: Adam's are the coordinates, SOAP's
    the eigenvectors."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(8, 8, generator=generator)).Q for _ in range(2))
    target = torch.randn(8, 8, generator=generator)

    def reached(optimiser):
        options = Optimisation(n_steps=300, optimiser=optimiser, learning_rate=learning_rate, weight_decay=0.0)
        weight = torch.nn.Parameter(torch.zeros(8, 8))
        moves = options.build([weight])
        for step in range(options.n_steps):
            moves.param_groups[0]["lr"] = options.rate(step)
            moves.zero_grad()
            away = left.T @ (weight - target) @ right
            loss = (torch.logspace(0, -2, 8)[:, None] * torch.logspace(0, -2, 8) * away**2).sum()
            loss.backward()
            moves.step()
        return loss.item()

    assert reached("soap") < 0.02 * reached("adamw")  # no noise, and rates at which both have come far


def test_bad_input(problem):
    with pytest.raises(InputError, match="at least one row"):
        problem.fit(train=torch.zeros(0, 2))
    with pytest.raises(ValueError, match=r"one number per row, 24, got shape \(\)"):
        problem.fit(loss=lambda *arguments: problem.loss(*arguments).mean())


@pytest.mark.parametrize(
    "option",
    [{"n_steps": 0}, {"batch_size": 0}, {"learning_rate": 0}, {"ema_decay": 1}, {"precision": "float16"},
     {"optimiser": "sgd"}, {"accumulate": 0}, {"checkpoint_every": -1}, {"patience": 0}, {"time_budget": 0},
     {"gradient_clip": 0}],
    ids=str,
)  # fmt: skip
def test_options_have_ranges(option):
    with pytest.raises(ValidationError):
        TypeAdapter(Optimisation).validate_python(option)


def test_options_are_documented():
    assert {"summary", "exactness", "cost", "bias", "source"} <= facts(Optimisation).keys()

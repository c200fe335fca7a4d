"""Every row has its turn, and a step does not depend on those before it."""

from __future__ import annotations

import torch

from sciflow.random import Stream
from sciflow.training.batches import batch_rows

STREAM = Stream(seed=3, purpose=("shuffle",))


def test_epochs_are_laid_end_to_end():
    steps = [batch_rows(10, 4, step, STREAM) for step in range(5)]
    order = torch.cat(steps)
    assert {len(rows) for rows in steps} == {4}
    assert sorted(order[:10].tolist()) == sorted(order[10:].tolist()) == list(range(10))
    assert order[:10].tolist() != order[10:].tolist() != list(range(10))


def test_a_step_does_not_depend_on_the_steps_before():
    later = batch_rows(10, 4, 7, STREAM)
    for step in (0, 100, 6):
        batch_rows(10, 4, step, STREAM)
    assert torch.equal(batch_rows(10, 4, 7, STREAM), later)
    assert not torch.equal(batch_rows(10, 4, 7, Stream(seed=4, purpose=("shuffle",))), later)


def test_a_set_smaller_than_the_batch_is_repeated():
    rows = batch_rows(3, 8, 0, STREAM)
    assert torch.bincount(rows, minlength=3).tolist() in ([3, 3, 2], [3, 2, 3], [2, 3, 3])
    assert torch.bincount(torch.cat([batch_rows(3, 8, step, STREAM) for step in range(3)])).tolist() == [8, 8, 8]
    assert batch_rows(1, 2, 5, STREAM).tolist() == [0, 0]

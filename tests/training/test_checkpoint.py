"""A checkpoint is whole, or it is refused by name; reading one never runs code."""

from __future__ import annotations

import errno
import os
import zipfile

import pytest
import torch

from sciflow.errors import InputError
from sciflow.training import Checkpoint
from sciflow.training.checkpoint import load, save

CONTENT = {"weights": {"a": torch.arange(5000.0)}, "history": [0.5, 0.25], "validation": {10: 1.5}, "seed": (1, "x")}


def test_round_trip_and_equal_bytes(tmp_path):
    save(tmp_path / "a.pt", CONTENT, "model")
    save(tmp_path / "another-name.pt", CONTENT, "model")
    found = load(tmp_path / "a.pt", "model")
    assert torch.equal(found["weights"].pop("a"), CONTENT["weights"]["a"])
    assert found == {"weights": {}, "history": [0.5, 0.25], "validation": {10: 1.5}, "seed": (1, "x")}
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "another-name.pt").read_bytes()


def test_no_checkpoint_is_none_and_nothing_else_is_left(checkpoint):
    assert checkpoint.load() is None
    checkpoint.save(CONTENT)
    checkpoint.save({"step": 2})
    assert checkpoint.load() == {"step": 2}
    assert os.listdir(checkpoint.path.parent) == [checkpoint.path.name]


@pytest.mark.parametrize("kept", [0, 1, 100, 0.5, -1])
def test_truncated(checkpoint, kept):
    checkpoint.save(CONTENT)
    whole = checkpoint.path.read_bytes()
    checkpoint.path.write_bytes(whole[: int(kept * len(whole)) if isinstance(kept, float) else kept])
    with pytest.raises(InputError, match=r"training\.pt.*cannot be read as a training checkpoint"):
        checkpoint.load()


def test_one_flipped_bit_in_a_weight(checkpoint):
    checkpoint.save(CONTENT)
    damaged = bytearray(checkpoint.path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    checkpoint.path.write_bytes(damaged)
    with pytest.raises(InputError, match=r"training\.pt.*damaged"):
        checkpoint.load()


class Foreign:
    """Pickles as a call of `os.mkdir`: a reader that runs code leaves a folder behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_code_in_a_file_is_not_run(tmp_path):
    torch.save({"sciflow": "model", "x": Foreign(tmp_path / "ran")}, tmp_path / "a.pt")
    with pytest.raises(InputError, match=r"a\.pt: cannot be read as a model"):
        load(tmp_path / "a.pt", "model")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b".", b"\x80\x02.", b"\x80\x02h\x00.", b"cbuiltins\neval\n.", b"(R.", b"\xff"])
def test_a_pickle_that_says_nothing_sensible_is_refused(tmp_path, content):
    save(tmp_path / "a.pt", CONTENT, "model")
    with zipfile.ZipFile(tmp_path / "a.pt") as whole, zipfile.ZipFile(tmp_path / "b.pt", "w") as made:
        for part in whole.namelist():
            made.writestr(part, content if part.endswith("data.pkl") else whole.read(part))
    with pytest.raises(InputError, match=r"b\.pt: cannot be read as a model"):
        load(tmp_path / "b.pt", "model")


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ESTALE, "Stale file handle"), RuntimeError("[enforce] can't allocate memory"), MemoryError()],
)
def test_what_may_pass_is_not_taken_for_damage(checkpoint, error, monkeypatch):
    """Whoever is told to delete a file that is whole loses what is good."""
    checkpoint.save(CONTENT)

    def fail(*arguments, **options):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(torch, "load", fail)
        with pytest.raises(type(error)) as caught:
            checkpoint.load()
    assert caught.value is error
    assert checkpoint.load().keys() == CONTENT.keys()


def test_other_files_are_refused(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "theirs.pt")
    save(tmp_path / "model.pt", CONTENT, "model")
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(InputError, match=r"theirs\.pt: is not a sciflow training checkpoint"):
        Checkpoint(tmp_path / "theirs.pt").load()
    with pytest.raises(InputError, match=r"model\.pt: is not a sciflow training checkpoint"):
        Checkpoint(tmp_path / "model.pt").load()
    with pytest.raises(InputError, match=r"text\.pt: cannot be read"):
        Checkpoint(tmp_path / "text.pt").load()
    with pytest.raises(InputError, match=r"absent\.pt: cannot be read as a model"):
        load(tmp_path / "absent.pt", "model")


def test_a_failed_save_keeps_the_old_one(checkpoint):
    checkpoint.save({"step": 1})
    with pytest.raises(Exception, match="pickle"):
        checkpoint.save({"step": 2, "bad": lambda: None})
    assert checkpoint.load() == {"step": 1}
    assert os.listdir(checkpoint.path.parent) == [checkpoint.path.name]

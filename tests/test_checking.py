"""The check before any job: who is asked, what is remembered, what is said."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sciflow import checking
from sciflow.checking import check, covering
from sciflow.errors import InputError
from sciflow.runs import Run
from tests.pipeline.conftest import ROOT, SCHEMA

WRONG = "import sys; print('a: wrong\\nb: wrong', file=sys.stderr); sys.exit(2)"
UNABLE = "raise SystemExit(3)"


def run(**values: object) -> Run:
    return Run("toy", "toy", Path("toy.yaml"), {"name": "toy", "domain": "toy", **values})


def answers(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "PROGRAM", program)


def test_what_was_accepted_is_not_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers("", monkeypatch)
    check([run(seed=1), run(seed=2)], SCHEMA, tmp_path)
    answers(WRONG, monkeypatch)
    check([run(seed=1)], SCHEMA, tmp_path)
    check([run(seed=2)], SCHEMA, tmp_path)
    with pytest.raises(InputError, match="a: wrong\nb: wrong"):
        check([run(seed=1), run(seed=3)], SCHEMA, tmp_path)
    with pytest.raises(InputError, match="wrong"):
        check([run(seed=1)], {**SCHEMA, "title": "changed"}, tmp_path)
    with pytest.raises(InputError, match="wrong"):
        check([run(seed=3)], SCHEMA, tmp_path)


def test_an_edited_plugin_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugins = [tmp_path / "a.py", tmp_path / "b.py"]
    for number, plugin in enumerate(plugins):
        plugin.write_text(f"A = {number}\n")
    answers("", monkeypatch)
    check([run(plugins=[str(plugins[0])])], SCHEMA, tmp_path / "memory")
    answers(WRONG, monkeypatch)
    check([run(plugins=[str(plugins[0])])], SCHEMA, tmp_path / "memory")
    with pytest.raises(InputError, match="wrong"):
        check([run(plugins=[str(plugins[1])])], SCHEMA, tmp_path / "memory")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"train": {"n_steps": 0}}, r"toy.yaml: train\.n_steps: 0 is less than the minimum"),
        ({"train": {"steps": 5}}, r"toy.yaml: train: .*'steps' was unexpected"),
        ({"sample": {"solver": {"kind": "huen"}}}, r"toy.yaml: sample\.solver"),
        ({"tran": {}}, r"toy.yaml: the run: .*'tran' was unexpected"),
    ],
)
def test_without_torch_the_schema_answers(
    values: dict[str, object], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers(UNABLE, monkeypatch)
    check([run(sample={"solver": {"kind": "heun"}})], SCHEMA, tmp_path)
    with pytest.raises(InputError, match=message):
        check([run(**values)], SCHEMA, tmp_path)
    assert not list(tmp_path.iterdir()), "the schema's word is not remembered: it does not know all"


@pytest.mark.parametrize("error", ["ModuleNotFoundError('torch')", "ImportError('GLIBC_2.28')", "OSError('libcudart')"])
def test_a_torch_that_cannot_be_loaded_is_as_good_as_none(
    error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real other process: a wheel for another system fails in its own way."""
    (tmp_path / "torch.py").write_text(f"raise {error}\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    check([run()], SCHEMA, tmp_path / "memory")
    with pytest.raises(InputError, match=r"toy.yaml: train\.n_steps: 0 is less than the minimum"):
        check([run(train={"n_steps": 0})], SCHEMA, tmp_path / "memory")


def test_a_check_that_breaks_down_is_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers("1 / 0", monkeypatch)
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        check([run()], SCHEMA, tmp_path)


def test_the_constructors_answer_with_every_mistake(tmp_path: Path) -> None:
    """The real thing: another process, torch, and the messages of `sciflow.config`."""
    wrong = run(domain="imagin", train={"kind": "netwrok"}, sede=1)
    with pytest.raises(InputError) as caught:
        check([wrong, wrong], {}, tmp_path)
    lines = str(caught.value).splitlines()
    assert len(lines) == len(set(lines)) >= 3
    for hint in ("Did you mean 'imaging'?", "Did you mean 'network'?", "Did you mean 'seed'?"):
        assert any(hint in line for line in lines), str(caught.value)


def test_covering_holds_every_value() -> None:
    def child(a: int, b: int) -> Run:
        return Run(f"{a}{b}", "toy", Path("toy.yaml"), {}, (("a", a), ("b", b)))

    runs = [child(a, b) for a in range(5) for b in range(4)]
    chosen = covering(runs)
    assert {pair for run in chosen for pair in run.assignments} == {pair for run in runs for pair in run.assignments}
    assert len(chosen) <= 5 + 4
    assert covering([run()]) == [run()]

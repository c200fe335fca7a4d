"""Run files: how they are read, merged, swept and named, and what each mistake says."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from sciflow import runs
from sciflow.errors import InputError
from sciflow.runs import STAGES, Run, assign, label, merge, resolve
from sciflow.yamlfile import load, text

TOY = """
domain: imaging
seed: 0
title: A toy
dataset: {kind: digits}
train: {kind: network, network: {kind: unet, channels: [8, 16]}, n_steps: 5}
sample: {times: {kind: karras, n_steps: 10}, posteriors: {plain: {kind: guided}}}
evaluate: {metrics: [psnr]}
report: {figures: []}
"""


def write(folder: Path, content: str = TOY, name: str = "toy") -> Path:
    file = folder / f"{name}.yaml"
    file.write_text(content)
    return file


def test_load_reads_numbers_as_yaml_1_2_does(tmp_path: Path) -> None:
    file = write(tmp_path, "a: 1e-4\nb: 1.0e-4\nc: 2E3\nd: '1e-4'\ne: e1\nf: [1e5, .5e1]\n")
    assert load(file) == {"a": 1e-4, "b": 1e-4, "c": 2000.0, "d": "1e-4", "e": "e1", "f": [1e5, 5.0]}


def test_text_round_trips(tmp_path: Path) -> None:
    values = {"b": ["1e-4", 1e-4, None, True, "yes"], "a": {"q": "π", "p": {"kind": "x"}}}
    assert load(write(tmp_path, text(values))) == values
    assert list(load(write(tmp_path, text(values)))) == ["b", "a"]
    prose = {"question": "Two lines.\n\nAnd a third: 1e-4.\n", "odd": " \n x \n"}
    assert load(write(tmp_path, text(prose))) == prose
    assert text(prose).startswith("question: |\n  Two lines.\n")
    assert "e-05" in text({"a": 1e-5}) and yaml.safe_load(text({"a": 1e-5})) == {"a": 1e-5}  # plain YAML reads it too


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", r"toy.yaml:3: .*'a' appears twice, first in line 1"),
        ("a:\n  b: 1\n  b: 2\n", r"toy.yaml:3: .*'b' appears twice"),
        ("a: [1, 2\nb: 3\n", r"toy.yaml:2: not valid YAML"),
        ("a: {1: x}\n", r"toy.yaml:1: .*1 is not text"),
        ("- a\n", r"must hold a mapping of keys to values, got list"),
        ("", r"must hold a mapping of keys to values, got NoneType"),
        ("a: !!python/object:os.system 1\n", r"toy.yaml:1: not valid YAML"),
    ],
)
def test_load_says_file_line_and_problem(content: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        load(write(tmp_path, content))


def test_load_says_which_file_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none.yaml: cannot be read \(No such file"):
        load(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9\n")
    with pytest.raises(InputError, match="not UTF-8"):
        load(tmp_path / "latin.yaml")


def test_merge_joins_mappings_and_replaces_another_kind() -> None:
    base = {"a": {"kind": "x", "n": 1, "deep": {"p": 1}}, "b": [1, 2]}
    assert merge(base, {"a": {"n": 2}, "b": [3]}, "")["a"] == {"kind": "x", "n": 2, "deep": {"p": 1}}
    assert merge(base, {"a": {"kind": "x", "m": 2}}, "")["a"] == {"kind": "x", "n": 1, "deep": {"p": 1}, "m": 2}
    assert merge(base, {"a": {"kind": "y"}}, "")["a"] == {"kind": "y"}
    assert merge(base, {"a.deep": {"q": 2}}, "")["a"]["deep"] == {"q": 2}, "a dotted key replaces"
    assert merge(base, {"a": {"deep": {"q": 2}}}, "")["a"]["deep"] == {"p": 1, "q": 2}, "a nested one joins"
    assert base == {"a": {"kind": "x", "n": 1, "deep": {"p": 1}}, "b": [1, 2]}


def test_assign_names_the_missing_place() -> None:
    with pytest.raises(InputError, match=r"here: key 'tran.n' has no place: .* Did you mean 'train'\?"):
        assign({"train": {}}, "tran.n", 1, "here")
    with pytest.raises(InputError, match=r"sample has no mapping 'tims'.*Did you mean 'times'"):
        assign({"sample": {"times": {"n": 1}, "n": 2}}, "sample.tims.n", 1, "here")
    with pytest.raises(InputError, match="Write it out"):
        assign({"sample": {"n": 2}}, "sample.n.x", 1, "here")


def test_later_settings_win(tmp_path: Path) -> None:
    file = write(tmp_path, TOY + "smoke: {train.n_steps: 2, seed: 3}\nresources: {train: {gpu: 1}}\n")
    defaults = {"resources": {"train": {"gpu": 0, "mem_mb": 7}}, "seed": 9}
    every = {"every": {"train.n_steps": 50, "sample": {"times": {"n_steps": 20}}}, "toy": {"train.n_steps": 60}}
    run = resolve(file, defaults, every)["toy"]
    assert run.values["train"]["n_steps"] == 60
    assert run.values["sample"]["times"] == {"kind": "karras", "n_steps": 20}
    assert run.values["seed"] == 0
    assert run.values["resources"]["train"] == {"gpu": 1, "mem_mb": 7}
    assert run.resource("train", "gpu") == 1 and run.resource("sample", "shards", 1) == 1
    small = resolve(file, defaults, every, smoke=True)["toy-smoke"]
    assert (small.values["train"]["n_steps"], small.values["seed"]) == (2, 3), "the smoke size wins over the overrides"
    own = resolve(file, defaults, {**every, "toy-smoke": {"seed": 4}}, smoke=True)["toy-smoke"]
    assert own.values["seed"] == 4, "unless they name it"


def test_a_run_without_a_sweep_owns_every_stage(tmp_path: Path) -> None:
    (run,) = resolve(write(tmp_path)).values()
    assert (run.name, run.base, run.assignments) == ("toy", "toy", ())
    assert [run.owner(stage) for stage in STAGES] == ["toy"] * 5
    assert run.section("train") == {"domain": "imaging", "seed": 0, "train": run.values["train"]}
    shuffled = {**run.values, "train": dict(reversed(run.values["train"].items()))}
    assert Run("toy", "toy", run.file, shuffled).identity("train") == run.identity("train")
    assert run.section("report").keys() == {"domain", "seed", "title", "report"}
    assert run.content.keys() == set(load(run.file))


def test_a_sweep_is_built_once_up_to_its_first_key(tmp_path: Path) -> None:
    sweep = "sweep: {sample.times.n_steps: [10, 20], train.n_steps: [5, 6], evaluate.metrics: [[psnr], [crps]]}\n"
    family = resolve(write(tmp_path, TOY + sweep))
    children = [run for run in family.values() if len(run.assignments) == 3]
    assert len(children) == 8
    run = family["toy~train.n_steps=6~sample.times.n_steps=20~evaluate.metrics=crps"]
    assert [run.owner(stage) for stage in STAGES] == [
        "toy",
        "toy~train.n_steps=6",
        "toy~train.n_steps=6~sample.times.n_steps=20",
        run.name,
        run.name,
    ]
    for stage in STAGES:
        owner = family[run.owner(stage)]
        assert owner.owner(stage) == owner.name, "an owner builds its stage itself"
        assert owner.section(stage) == run.section(stage), "and builds the same thing"
    assert run.values["swept"] == {
        "train.n_steps": 6,
        "sample.times.n_steps": 20,
        "evaluate.metrics": ["crps"],
    }
    assert len({run.owner("train") for run in children}) == 2


def test_the_seed_belongs_to_every_stage(tmp_path: Path) -> None:
    family = resolve(write(tmp_path, TOY + "sweep: {sample.times.n_steps: [10], seed: [0, 1]}\n"))
    run = family["toy~seed=1~sample.times.n_steps=10"]
    assert run.owner("dataset") == "toy~seed=1"
    assert run.section("dataset")["seed"] == 1


def test_a_written_run_reads_back_as_itself(tmp_path: Path) -> None:
    family = resolve(write(tmp_path, TOY + "sweep: {sample.times.n_steps: [10, 20], seed: [0, 1]}\n"))
    for run in family.values():
        file = tmp_path / "run.yaml"
        file.write_text(run.text())
        again = runs.read(file)
        assert (again.name, again.base, again.values) == (run.name, run.base, run.values)
        assert again.assignments == run.assignments
        assert [again.owner(stage) for stage in STAGES] == [run.owner(stage) for stage in STAGES]


def test_files_named_in_a_section(tmp_path: Path) -> None:
    content = TOY.replace("{kind: digits}", "{kind: file, path: scan.nc, mask: {kind: file, path: mask.npy}}")
    run = runs.read(write(tmp_path, content))
    assert run.files("dataset") == ["mask.npy", "scan.nc"]
    assert run.files("train") == []


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (10, "10"),
        (0.05, "0.05"),
        (1e-5, "1e-05"),
        (True, "true"),
        (None, "null"),
        ("heun", "heun"),
        ([16, 32], "16+32"),
        ({"kind": "heun"}, "heun"),
        ({"kind": "karras", "n_steps": 10}, "karras,n_steps=10"),
    ],
)
def test_labels_are_readable(value: object, expected: str) -> None:
    assert label(value) == expected


def test_labels_of_unlike_values_differ_and_suit_a_file_system() -> None:
    values = ["a/b", "a b", "a-b", "", {"kind": "g", "x": {"y": 1}}, {"kind": "g", "x": {"y": 2}}, "x" * 300, "x" * 301]
    labels = [label(value) for value in values]
    assert len(set(labels)) == len(values)
    for entry in labels:
        assert entry and len(entry) <= 60
        assert not runs.UNSAFE.search(entry)


def test_long_names_become_a_digest(tmp_path: Path) -> None:
    keys = {f"train.{'x' * 30}{n}": [1, 2] for n in range(6)}
    family = resolve(write(tmp_path, TOY + text({"sweep": keys})))
    children = [run for run in family.values() if len(run.assignments) == 6]
    assert len(children) == 64 == len({run.name for run in children})
    assert max(len(run.name) for run in family.values()) <= runs.LONGEST_NAME


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("sweep: {smple.n: [1]}\n", "must start with one of .*Did you mean 'sample'"),
        ("sweep: {resources.train.gpu: [1]}\n", "must start with one of"),
        ("sweep: {sample.tims.n_steps: [1]}\n", "no mapping 'tims'.*Did you mean 'times'"),
        ("sweep: {seed: 3}\n", "sweep.seed must be a list of at least one value, got 3"),
        ("sweep: {seed: []}\n", "at least one value"),
        ("sweep: {seed: [1, 1]}\n", "holds a value twice"),
        ("sweep: [seed]\n", "'sweep' must be a mapping, got list"),
        ("smoke: {tran.n_steps: 1}\n", "no place.*Did you mean 'train'"),
    ],
)
def test_mistakes_in_a_run_file(extra: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        resolve(write(tmp_path, TOY + extra), smoke=True)


@pytest.mark.parametrize("name", ["toy-smoke", "a~b", "-a", "a b"])
def test_names_that_would_be_misread(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot name a run"):
        resolve(write(tmp_path, name=name))


def test_rank_orders_keys_by_stage() -> None:
    keys = ["report.figures", "sample.n", "seed", "train.x", "dataset.y"]
    assert sorted(keys, key=runs.rank) == ["seed", "dataset.y", "train.x", "sample.n", "report.figures"]
    assert Run("a", "a", Path("a.yaml"), {"seed": 1}).section("train") == {"seed": 1}


def test_plugins_are_a_list_and_an_empty_section_names_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"plugins must be a list, got 'mine\.py'"):
        resolve(write(tmp_path, TOY + "plugins: mine.py\n"))
    empty = resolve(write(tmp_path, TOY.replace("report: {figures: []}", "report:")))["toy"]
    assert empty.files("report") == []

"""The source digest: what changes it, and what does not."""

from __future__ import annotations

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

import sciflow
from sciflow import source
from sciflow.catalogue import Catalogue
from sciflow.errors import InputError
from sciflow.runs import STAGES
from sciflow.source import closure, digest, kinds, tree_digest

FILES = {
    "pyproject.toml": "",
    "sciflow/__init__.py": "",
    "sciflow/stages/train.py": "def run():\n    from sciflow.training.loop import fit\n    return fit\n",
    "sciflow/training/__init__.py": "from sciflow.training.unused import x\n",
    "sciflow/training/loop.py": "import torch\nfrom sciflow.training import ema\n\ndef fit():\n    return ema\n",
    "sciflow/training/ema.py": "import sciflow.random\nDECAY = 0.9\n",
    "sciflow/training/unused.py": "x = 1\n",
    "sciflow/random.py": "from .types import T\n",
    "sciflow/types.py": "T = int\n",
    "sciflow/domains/toy/network.py": "WIDTH = 1\n",
    "sciflow/networks/mlp.py": "class MLP:\n    'A network.'\n",
    "sciflow/networks/unet.py": "class UNet:\n    'A network.'\n",
}
KINDS = {"mlp": ("sciflow.networks.mlp",), "unet": ("sciflow.networks.unet",)}
SECTION = {"domain": "toy", "train": {"kind": "network", "network": {"kind": "mlp"}}}


def tree(folder: Path, **changes: str) -> Path:
    for path, content in {**FILES, **changes}.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(content)
    return folder


def test_closure_follows_in_package_imports_of_every_form(tmp_path: Path) -> None:
    found = closure(["sciflow.stages.train"], tree(tmp_path))
    assert list(found) == [
        "sciflow.random",
        "sciflow.stages.train",
        "sciflow.training.ema",
        "sciflow.training.loop",
        "sciflow.types",
    ]


METRICS = (
    "import numpy\nfrom sciflow.metrics.field import psnr\nfrom sciflow.metrics.ensemble import crps, snap\n"
    "METRICS: dict = {'psnr': psnr, 'crps': crps}\ndef made_here(): ...\n"
)


@pytest.mark.parametrize(
    ("imported", "names", "expected"),
    [
        ("METRICS", ("psnr", "other"), {"metrics.field"}),
        ("METRICS", ("other",), {"metrics.field", "metrics.ensemble"}),
        ("METRICS", (), {"metrics.field", "metrics.ensemble"}),
        ("snap", (), {"metrics.ensemble"}),
        ("unused", (), {"metrics.unused"}),
        ("made_here", (), {"metrics", "metrics.field", "metrics.ensemble"}),
    ],
)
def test_a_name_from_a_package_leads_to_its_module(
    imported: str, names: tuple[str, ...], expected: set[str], tmp_path: Path
) -> None:
    files = {f"sciflow/metrics/{name}.py": "x = 1\n" for name in ("field", "ensemble", "unused")}
    stage = f"def f():\n    from sciflow.metrics import {imported}\n"
    root = tree(tmp_path, **files, **{"sciflow/metrics/__init__.py": METRICS, "sciflow/stages/evaluate.py": stage})
    found = closure(["sciflow.stages.evaluate"], root, names)
    assert set(found) == {f"sciflow.{module}" for module in {"stages.evaluate", *expected}}


@pytest.mark.parametrize(
    ("path", "content", "counts"),
    [
        ("sciflow/types.py", "T = float\n", True),
        ("sciflow/training/ema.py", "import sciflow.random\nDECAY = 0.99\n", True),
        ("sciflow/training/ema.py", '"""Said."""\nimport sciflow.random  # so\n\nDECAY = (\n    0.9\n)\n', False),
        ("sciflow/networks/mlp.py", "class MLP:\n    'Another docstring.'\n", False),
        ("sciflow/networks/mlp.py", "class MLP:\n    width = 'Not a docstring.'\n", True),
        ("sciflow/networks/unet.py", "class UNet:\n    depth = 3\n", False),
        ("sciflow/training/__init__.py", "y = 2\n", False),
        ("sciflow/domains/toy/network.py", "WIDTH = 2\n", True),
        ("sciflow/domains/toy/simulate.py", "SIZE = 2\n", False),
        ("sciflow/stages/sample.py", "x = 2\n", False),
    ],
)
def test_what_changes_a_digest(path: str, content: str, counts: bool, tmp_path: Path) -> None:
    before = digest("train", SECTION, KINDS, root=tree(tmp_path / "a"))
    after = digest("train", SECTION, KINDS, root=tree(tmp_path / "b", **{path: content}))
    assert (before != after) is counts
    assert len(before) == 16


def test_the_chosen_kinds_count(tmp_path: Path) -> None:
    root = tree(tmp_path)
    other = {"domain": "toy", "train": {"kind": "network", "network": {"kind": "unet"}}}
    listed = {"domain": "toy", "train": {"networks": ["mlp", {"kind": "unet"}]}}
    digests = {digest("train", section, KINDS, root=root) for section in (SECTION, other, listed)}
    assert len(digests) == 3


def test_the_templates_count_for_the_report(tmp_path: Path) -> None:
    digests = set()
    for content in ("<p>", "<div>"):
        root = tree(tmp_path / content, **{"sciflow/stages/templates/page.html": content})
        digests.add((digest("report", {}, {}, root=root), digest("train", SECTION, KINDS, root=root)))
    assert len({page for page, _ in digests}) == 2
    assert len({train for _, train in digests}) == 1


def test_what_compares_runs_counts_for_the_comparison_alone(tmp_path: Path) -> None:
    found = {"report": set(), "comparison": set()}
    for content in ("KEYS = 1\n", "KEYS = 2\n"):
        root = tree(tmp_path / content.strip(), **{"sciflow/stages/comparison.py": content})
        for page, digests in found.items():
            digests.add(digest(page, {}, KINDS, root=root))
    assert (len(found["comparison"]), len(found["report"])) == (2, 1)


def test_an_installed_release_counts_by_its_version(tmp_path: Path) -> None:
    root = tree(tmp_path)
    (root / "pyproject.toml").unlink()
    assert digest("train", SECTION, KINDS, root=root) == f"release-{sciflow.__version__}"


def test_plugins_count_whole(tmp_path: Path) -> None:
    root = tree(tmp_path)
    plugin, same, other = tmp_path / "p.py", tmp_path / "q" / "p.py", tmp_path / "r.py"
    same.parent.mkdir()
    plugin.write_text("A = 1\n")
    same.write_text('"""With a docstring."""\nA = 1\n')
    other.write_text("A = 2\n")
    without = digest("train", SECTION, KINDS, root=root)
    with_plugin = digest("train", SECTION, KINDS, plugins=[plugin], root=root)
    assert without != with_plugin != digest("train", SECTION, KINDS, plugins=[other], root=root)
    assert tree_digest(ast.parse(plugin.read_text())) == tree_digest(ast.parse(same.read_text()))


def test_a_plugin_that_cannot_be_used_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none.py cannot be read \(No such file"):
        digest("train", SECTION, KINDS, plugins=[tmp_path / "none.py"])
    (tmp_path / "bad.py").write_text("def f(:\n")
    with pytest.raises(InputError, match=r"bad\.py is not valid Python"):
        digest("train", SECTION, KINDS, plugins=[tmp_path / "bad.py"])


def test_kinds_are_read_from_the_schema() -> None:
    entry = {"properties": {"kind": {"const": "gaussian"}}}
    schema = {
        "$defs": {
            "A": {**entry, "x-module": "sciflow.inverse.noise"},
            "B": {**entry, "x-module": "sciflow.diffusion.schedule"},
            "C": {"properties": {"width": {}}, "x-module": "sciflow.x"},
        }
    }
    assert kinds(schema) == {"gaussian": ("sciflow.diffusion.schedule", "sciflow.inverse.noise")}


def test_the_digest_is_the_same_in_another_process(tmp_path: Path) -> None:
    """No set order, hash seed or path enters it."""
    here = digest("train", SECTION, KINDS, root=tree(tmp_path / "a"))
    root = tree(tmp_path / "elsewhere" / "b")
    program = (
        f"from pathlib import Path; from sciflow.source import digest; "
        f"print(digest('train', {SECTION!r}, {KINDS!r}, root=Path({str(root)!r})))"
    )
    there = subprocess.run([sys.executable, "-c", program], text=True, capture_output=True, check=True, timeout=60)
    assert there.stdout.strip() == here


def test_every_shipped_run_is_digested_fast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All stages of all runs in 0.25 CPU s at most, half of what parsing the Snakefile may cost, after a first time."""
    monkeypatch.chdir(tmp_path)
    Path(".snakemake").mkdir()  # as wherever Snakemake has been
    catalogue = Catalogue(Path(source.__file__).resolve().parents[1] / "workflows", check=False)
    spent = []
    for _ in range(3):  # the least of three: other work on the core can only add
        for cached in (source._file, source._read, source._closure_digest):
            cached.cache_clear()
        start = time.process_time()
        digests = {(name, stage): catalogue.digest(name, stage) for name in catalogue.files for stage in STAGES}
        spent.append(time.process_time() - start)
    assert len(set(digests.values())) > len(STAGES)
    assert min(spent) < 0.25


def test_what_was_read_is_remembered_by_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process recognises a module, and an edit of it; where Snakemake keeps no records nothing is written."""
    monkeypatch.chdir(tmp_path)
    module = tmp_path / "one.py"

    def read(content: str) -> source._Source:
        module.write_text(content)
        source._read.cache_clear()
        return source._read(module, "sciflow.one")

    text = "from sciflow.errors import InputError\nTABLE = {'a': InputError}\n"
    fresh = read(text)
    assert not source.MEMORY.exists()
    source.MEMORY.parent.mkdir()
    assert read(text) == fresh and len(list(source.MEMORY.iterdir())) == 1
    monkeypatch.setattr(source.ast, "parse", lambda *a, **k: pytest.fail("parsed again"))
    assert read(text) == fresh
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    edited = read(text + "X = 1\n")
    assert edited.digest != fresh.digest and len(list(source.MEMORY.iterdir())) == 2

"""What the documents say is true: examples run, commands exist, tables agree with the code, links lead somewhere."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
import yaml

from sciflow import config, diffusion
from sciflow.cli import app
from sciflow.diffusion.mixture import GaussianMixture, MixtureDenoiser
from sciflow.diffusion.schedule import VariancePreserving
from sciflow.listing import rows, tables
from sciflow.random import Stream
from sciflow.types import LABELS, facts

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "datasets").glob("*/*.md")])
DATASETS = sorted(folder for folder in (ROOT / "datasets").iterdir() if folder.is_dir())
FENCE = re.compile(r"^```(\S*)[ \t]*([^\n]*)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
FIGURE = re.compile(r"^```\{(?:figure|image|include|literalinclude)\} (\S+)$", flags=re.MULTILINE)


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of one language."""
    return [body for name, _, body in FENCE.findall(page.read_text(encoding="utf-8")) if name == language]


def captioned(page: Path) -> dict[str, str]:
    """Caption -> content of the code blocks that stand for files."""
    found = {}
    for name, _, body in FENCE.findall(page.read_text(encoding="utf-8")):
        head, _, rest = body.partition("\n")
        if name == "{code-block}" and head.startswith(":caption: "):
            found[head.removeprefix(":caption: ")] = rest
    return found


def run(*call: str | Path, cwd: Path, package: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(package)}
    return subprocess.run(call, cwd=cwd, env=environment, capture_output=True, text=True, timeout=280, check=False)


def sciflow(*arguments: str | Path, cwd: Path, package: Path = ROOT) -> str:
    done = run(sys.executable, "-m", "sciflow.cli", *arguments, cwd=cwd, package=package)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_example_of_the_readme_finds_the_exact_posterior() -> None:
    (example,) = blocks(README, "python")
    names: dict[str, Any] = {}
    exec(compile(example, str(README), "exec"), names)
    particles, exact = names["particles"], names["exact"]
    # 4 standard errors, of the ESS that is left (resampling makes it an upper bound, hence the factor 2), and 0.02 for
    # the 200 steps of the prior's chain: the error of the evidence falls with the steps, 0.03 at 50, 0.007 at 100
    stderr = (exact.covariance().diagonal() / particles.ess()).sqrt()
    assert ((particles.mean() - exact.mean()).abs() < 4 * 2 * stderr + 0.02).all()
    assert abs(particles.log_evidence - float(names["log_evidence"])) < 4 * particles.log_evidence_stderr + 0.02
    assert len(example.strip().splitlines()) <= 15, "ten lines, and imports"


def test_the_feature_table_of_the_readme_is_the_code() -> None:
    lines = re.findall(r"^\| `(\w+)` \| (.+) \|$", README.read_text(encoding="utf-8"), flags=re.MULTILINE)
    written = {name: re.findall(r"`(\w+)`", entries) for name, entries in lines}
    assert written == {name: list(table) for name, table in tables().items()}


def commands() -> set[str]:
    command = typer.main.get_command(app)
    return set(command.commands)  # type: ignore[attr-defined]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^(\w+):", makefile, flags=re.MULTILINE))
    code = "\n".join([*re.findall(r"`([^`\n]+)`", text), *(body for _, _, body in FENCE.findall(text))])
    assert set(re.findall(r"(?:^|\$ |`)make (\w+)", code, flags=re.MULTILINE)) <= targets
    assert set(re.findall(r"(?:^|\$ )sciflow (\w+)(?= |$)", code, flags=re.MULTILINE)) <= commands()
    scripts = re.findall(r"python (docs/\w+\.py)", code)
    assert all((ROOT / script).is_file() for script in scripts), scripts


@pytest.mark.parametrize("kind", tables())
def test_every_entry_says_what_it_is_and_how_wrong(kind: str) -> None:
    """Figures are drawings: they have a first line and no bias."""
    needed = () if kind == "figures" else ("cost", "bias", "source")
    needed = ("target", *needed) if kind == "posteriors" else needed
    missing = {}
    for name, entry in tables()[kind].items():
        found = facts(entry)
        lacking = [label for label in ("summary", *needed) if not found.get(label)]
        if needed and not (found.get("exactness") or found.get("order")):
            lacking.append("exactness or order")
        missing[name] = lacking
    assert not {name: lacking for name, lacking in missing.items() if lacking}
    known = {"name", "summary", *(label.lower() for label in LABELS)} | ({"better"} if kind == "metrics" else set())
    assert all(set(row) <= known for row in rows(kind))


def targets(page: Path) -> Iterator[str]:
    text = page.read_text(encoding="utf-8")
    plain = FENCE.sub("", text)
    yield from (target for target in LINK.findall(plain) if not re.match(r"[a-z]+:", target))
    yield from FIGURE.findall(text)
    yield from (f"{name}.md" for name in re.findall(r"^([\w-]+)$", "\n".join(blocks(page, "{toctree}")), re.MULTILINE))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in targets(page):
        path, _, anchor = target.partition("#")
        file = (page.parent / path) if path else page
        assert file.exists(), f"{page}: {target} is not there"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in headings}, target


def test_every_default_figure_has_a_thumbnail_and_a_sentence() -> None:
    page = (ROOT / "docs" / "figures.md").read_text(encoding="utf-8")
    shown = re.findall(r"^```\{figure\} images/(\w+)\.png\n:name: \S+\n(.+?)\n```$", page, re.MULTILINE | re.DOTALL)
    sentences = {name: text for name, text in shown}
    asked = config.model(config.RunFile)
    thumbnails = load("thumbnails")["RUNS"]
    defaults = yaml.safe_load((ROOT / "workflows" / "config" / "default.yaml").read_text(encoding="utf-8"))["runs"]
    runs = {run.partition("~")[0]: prefix for run, prefix in thumbnails.items()}
    assert list(runs) == defaults
    for name, prefix in runs.items():
        values = yaml.safe_load((ROOT / "workflows" / "runs" / f"{name}.yaml").read_text(encoding="utf-8"))
        asked.model_validate(values)
        for figure in values["report"]["figures"]:
            assert len(sentences[prefix + figure].split()) > 5, figure
            png = (ROOT / "docs" / "images" / f"{prefix}{figure}.png").read_bytes()
            assert png.startswith(b"\x89PNG") and len(png) < 300_000, figure


def load(name: str) -> dict[str, Any]:
    """What a script of the documentation defines."""
    import importlib.util

    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return vars(module)


@pytest.mark.parametrize("folder", DATASETS, ids=lambda folder: folder.name)
def test_a_card_is_complete_and_its_statistics_are_those_of_the_data(folder: Path) -> None:
    card = yaml.safe_load((folder / "card.yaml").read_text(encoding="utf-8"))
    assert {"name", "kind", "domain", "title", "licence", "source", "variables", "known_leaks"} <= set(card)
    assert card["name"] == folder.name and card["kind"] in tables()["datasets"]
    text = (folder / "README.md").read_text(encoding="utf-8")
    for part in ("| what |", "| who |", "| licence |", "| shape |", "| units |", "## Checks", "## Known leaks"):
        assert part in text, f"{folder.name}: the card lacks {part!r}"
    written = yaml.safe_load((folder / "stats.yaml").read_text(encoding="utf-8"))
    computed = load("stats")["STATS"][folder.name]()
    assert written.keys() == computed.keys()
    for name, value in computed.items():
        # 1e-4: stored to 4 significant digits or more; sums in another order differ by 1e-7 at most
        same = value == written[name] if isinstance(value, dict | list) else np.isclose(value, written[name], rtol=1e-4)
        assert same, f"{name} is {value}, stats.yaml says {written[name]}. Run `python docs/stats.py`, mend the card."


def test_the_forms_of_the_digits_are_where_the_card_says() -> None:
    """The writers took down one dictation: after three times 0 … 9 and a 0 it goes on with 9556509898."""
    from sklearn.datasets import load_digits

    labels = "".join(map(str, load_digits().target))
    starts = yaml.safe_load((ROOT / "datasets" / "digits" / "card.yaml").read_text(encoding="utf-8"))["form_starts"]
    assert tuple(starts) == load("stats")["FORM_STARTS"]
    marks = [match.start() for match in re.finditer("(?=9556509898)", labels)]
    lost = [start + 31 - mark for start, mark in zip(starts, marks, strict=True)]
    assert all(0 <= digits <= 3 for digits in lost), "a few digits of a form may be missing, none can be added"


@pytest.mark.parametrize("domain", ["imaging", "molecules", "pde"])
def test_a_new_run_file_explains_each_key_and_is_in_order(domain: str, tmp_path: Path) -> None:
    sciflow("new", "mine.yaml", "--domain", domain, cwd=tmp_path)
    assert "in order" in sciflow("check", "mine.yaml", cwd=tmp_path)
    text = (tmp_path / "mine.yaml").read_text(encoding="utf-8")
    shared = {"domain", "seed", "title", "question", "plugins", "freeze", "resources", "sweep", "smoke"}
    assert set(yaml.safe_load(text)) == shared | {"dataset", "train", "sample", "evaluate", "report"}
    bare = [line for line in text.splitlines() if re.match(r"\w+:", line) and "#" not in line]
    assert not bare, f"each key is explained: {bare}"


def test_the_plugin_of_the_page_is_an_operator(tmp_path: Path) -> None:
    (tmp_path / "my_operators.py").write_text(captioned(ROOT / "docs" / "new-domain.md")["my_operators.py"])
    template = (ROOT / "sciflow" / "stages" / "templates" / "new" / "imaging.yaml").read_text(encoding="utf-8")
    mine = template.replace("plugins: []", "plugins: [my_operators.py]")
    mine = mine.replace("{kind: inpainting, missing: 0.5}", "{kind: row_sums, gain: 0.25}")
    (tmp_path / "mine.yaml").write_text(mine, encoding="utf-8")
    assert "in order" in sciflow("check", "mine.yaml", cwd=tmp_path)
    program = (
        "import my_operators; from sciflow.inverse import check_adjoint; "
        "print(check_adjoint(my_operators.RowSums(), (1, 8, 8)))"
    )
    done = run(sys.executable, "-c", program, cwd=tmp_path, package=f"{ROOT}:{tmp_path}")  # type: ignore[arg-type]
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1e-14  # double precision, 64 numbers


def test_the_run_files_of_the_imaging_page_are_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("micrographs", "multicoil_train"):
        (tmp_path / folder).mkdir()
    (tmp_path / "multicoil_train" / "file1000000.h5").touch()
    monkeypatch.chdir(tmp_path)
    for text in blocks(ROOT / "docs" / "imaging.md", "yaml"):
        assert config.parse(yaml.safe_load(text), "imaging.md").domain == "imaging"


@pytest.mark.slow
def test_the_domain_of_the_page_runs_through_all_stages(tmp_path: Path) -> None:
    import shutil

    shutil.copytree(ROOT / "sciflow", tmp_path / "sciflow", ignore=shutil.ignore_patterns("__pycache__"))
    files = captioned(ROOT / "docs" / "new-domain.md")
    for name, content in files.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content, encoding="utf-8")
    (tmp_path / "sciflow/domains/signal/__init__.py").write_text('"""Signals."""\n')
    register = tmp_path / "sciflow/domains/__init__.py"
    text, head = register.read_text(encoding="utf-8"), "DOMAINS: dict[str, str] = {\n"
    (line,) = re.findall(
        r'^    "signal": .+\n', (ROOT / "docs" / "new-domain.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert head in text
    register.write_text(text.replace(head, head + line), encoding="utf-8")
    assert "in order" in sciflow("check", "signal.yaml", cwd=tmp_path, package=tmp_path)
    for stage in ("dataset", "train", "sample", "evaluate", "report"):
        sciflow(stage, "signal.yaml", "--smoke", cwd=tmp_path, package=tmp_path)
    page = (tmp_path / "results" / "signal-smoke" / "report.html").read_text(encoding="utf-8")
    assert "90 % intervals hold the truth" in page and page.count("<figure>") == 1


@pytest.mark.slow
def test_the_pages_build_without_a_warning(tmp_path: Path) -> None:
    """As `make docs`, but for the notebook, which has a test of its own."""
    call = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "-D", "nb_execution_mode=off"]
    done = run(*call, "-d", str(tmp_path / "trees"), str(ROOT / "docs"), str(tmp_path / "html"), cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "html" / "choose.html").read_text(encoding="utf-8")
    for kind in ("solvers", "guidance", "particles"):
        for name in tables()[kind]:
            assert f">{name}<" in page, f"{name} is missing from the page"
    assert torch.__version__  # the reference imports what it documents


def test_bits_per_dimension_as_the_page_computes_them() -> None:
    """For data N(0, ⅓² I) the trace of each probe is exact, so that what is left is the error of 64 steps."""
    law = GaussianMixture(
        torch.ones(1, dtype=torch.float64),
        torch.zeros(1, 4, dtype=torch.float64),
        torch.eye(4, dtype=torch.float64)[None] / 9,
    )
    (example,) = [text for text in blocks(ROOT / "docs" / "concepts.md", "python") if "bits_per_dimension" in text]
    x = torch.round(16 * law.sample(8, Stream(1))) / 16
    denoiser = MixtureDenoiser(law, VariancePreserving())
    found: dict[str, Any] = {"diffusion": diffusion, "Stream": Stream, "x": x, "denoiser": denoiser}
    exec(example, found)
    exact = -(law.log_prob(found["spread"]) / 4 + math.log(1 / 16)) / math.log(2)
    stated = found["found"].discretisation.abs().max() / (4 * math.log(2))
    # the grid ends at σ/α = 0.002, which widens the law by (3 · 0.002)² = 4e-5 of its variance: 3e-5 (1 − x²/s²) bits
    assert torch.allclose(found["bits"], exact, rtol=0, atol=2e-4 + 4 * float(stated))

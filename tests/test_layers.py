"""The shape of the package: who may import whom, what may touch which library, and sizes a reader can hold."""

from __future__ import annotations

import ast
import functools
import re
import resource
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "sciflow"
MODULES = sorted(PACKAGE.rglob("*.py"))
SOURCES = [
    *MODULES,
    *sorted((ROOT / "tests").rglob("*.py")),
    *sorted((ROOT / "benchmarks").rglob("*.py")),
    *sorted((ROOT / "notebooks").rglob("*.py")),
]
STAGES = {f"stages.{stage}" for stage in ("dataset", "train", "sample", "evaluate", "report")}
QUESTIONS = ("simulate", "network", "target", "metrics", "figures")

FLOORS = [
    {"types", "random", "errors", "yamlfile", "progress", "journal", "memory", "archives"},
    {"solvers", "networks", "data", "metrics", "figures"},
    {"diffusion", "particles"},
    {"search"},
    {"inverse", "steering", "training"},
    {"domains"},
    {"stages"},
    {
        "cli",
        "config",
        "consistency",
        "mistakes",
        "preflight",
        "listing",
        "runs",
        "results",
        "tree",
        "accessor",
        "source",
        "checking",
        "catalogue",
        "devices",
        "resources",
        "status",
        "starting",
    },
]
HELPERS = (  # no stages themselves
    "stages.artefact", "stages.page", "stages.draws", "stages.drawing", "stages.shares", "stages.notebook",
    "stages.rows", "stages.shards", "stages.learned", "stages.kept", "stages.gathered", "stages.sweep_costs",
    "stages.sweep_figures", "stages.costs", "stages.mixtures", "stages.given",
)  # fmt: skip
FREE_WITHIN = ({"inverse", "steering"}, FLOORS[0], FLOORS[-1])  # on one floor, and yet these may import one another

ONLY_IN = {  # library -> the only places that may import it
    "xarray": ("data", "tree"),
    "h5py": ("data",),
    "h5netcdf": ("data",),
    "matplotlib": ("figures", "stages.report", "stages.comparison", "stages.page"),
    "torchsde": ("solvers.brownian", "solvers.adaptive"),
    "torchdiffeq": ("solvers.adaptive", "solvers.brownian"),
    "jupytext": ("stages.notebook",),
    "papermill": ("stages.notebook",),
    "nbconvert": ("stages.notebook",),
    "snakemake": (),
}
DISTRIBUTIONS = {
    "pytorch_optimizer": "pytorch-optimizer",
    "PIL": "pillow",
    "yaml": "pyyaml",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "ot": "pot",
}
VAGUE = {"utils", "util", "helpers", "helper", "misc", "common", "base", "core", "tools", "stuff"}


@functools.cache
def parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), filename=str(file))


def name(file: Path) -> str:
    """solvers.heun for sciflow/solvers/heun.py."""
    return ".".join(file.relative_to(PACKAGE).with_suffix("").parts)


def imports(file: Path, typing: bool = True) -> list[tuple[int, str, str | None]]:
    """(line, module, imported name or None) of every import; those for the type checker only with `typing`."""
    found: list[tuple[int, str, str | None]] = []
    hidden: set[ast.AST] = set()
    for node in ast.walk(parse(file)):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING" and not typing:
            hidden.update(inner for statement in node.body for inner in ast.walk(statement))
        if node in hidden:
            continue
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name, None) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: import by the full name"
            found += [(node.lineno, str(node.module), alias.name) for alias in node.names]
    return found


def floor(module: str) -> int:
    part = module.split(".")[0]
    levels = [level for level, parts in enumerate(FLOORS) if part in parts]
    assert levels, f"sciflow.{module} stands on no floor: name it in FLOORS"
    return levels[0]


@pytest.mark.parametrize("file", MODULES, ids=name)
def test_imports_go_down(file: Path) -> None:
    here = name(file)
    if here == "__init__":
        return
    part = here.split(".")[0]
    for line, module, _ in imports(file):
        if module == "sciflow" or not module.startswith("sciflow."):
            continue
        other = module.removeprefix("sciflow.")
        other_part = other.split(".")[0]
        where = f"{here}:{line} imports {other}"
        assert floor(other) <= floor(here), f"{where}, which lies above it"
        if other_part != part and floor(other) == floor(here):
            assert any({part, other_part} <= group for group in FREE_WITHIN), f"{where}, its neighbour"
        if part == other_part == "stages" and not here.endswith("__init__"):
            assert other in (*HELPERS, here), f"{where}: stages meet only on disk"
        if part == other_part == "domains":
            own, theirs = (Path(*module.split(".")[:2]) for module in (here, other))
            is_domain = theirs.parent != Path() and (PACKAGE / theirs).is_dir()
            assert here == "domains.__init__" or own == theirs or not is_domain, f"{where}: domains meet nowhere"


@pytest.mark.parametrize("file", MODULES, ids=name)
def test_libraries_are_touched_in_their_place(file: Path) -> None:
    here = name(file)
    for line, module, _ in imports(file, typing=False):
        places = ONLY_IN.get(module.split(".")[0])
        if places is not None:
            allowed = any(here == place or here.startswith(f"{place}.") for place in places)
            assert allowed, f"{here}:{line} imports {module}, which belongs in {places}"


def test_every_library_is_declared_and_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [
        *project["dependencies"],
        *(entry for group in project["optional-dependencies"].values() for entry in group),
    ]
    declared = {re.split(r"[\[<>=,;]", entry)[0].lower() for entry in wanted} - {"sciflow"}
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.split("==")[0].lower() for line in pins if "==" in line}
    assert declared <= pinned, f"not in constraints.txt: {declared - pinned}"
    known = {*sys.stdlib_module_names, "sciflow"}
    used = {module.split(".")[0] for file in MODULES for _, module, _ in imports(file)} - known
    missing = {library for library in used if DISTRIBUTIONS.get(library, library) not in declared}
    assert not missing, f"imported and not in pyproject.toml: {missing}"


@pytest.mark.parametrize("file", MODULES, ids=name)
def test_in_package_imports_name_the_defining_module(file: Path) -> None:
    """The source digest follows imports and not packages: only the public tables (capitals) may come from one."""
    for line, module, imported in imports(file):
        if module.split(".")[0] != "sciflow" or file.name == "__init__.py":
            continue
        folder = ROOT / module.replace(".", "/")
        where = f"{name(file)}:{line}"
        if imported is None:
            assert folder.with_suffix(".py").is_file(), f"{where}: import {module} names a package"
        elif folder.is_dir() and module != "sciflow":
            is_module = (folder / f"{imported}.py").is_file() or (folder / imported).is_dir()
            assert is_module or imported.isupper(), f"{where}: take {imported} from the module that defines it"
        else:
            assert folder.is_dir() or folder.with_suffix(".py").is_file(), f"{where}: there is no module {module}"


@pytest.mark.parametrize("file", MODULES, ids=name)
def test_what_is_imported_from_a_module_is_defined_there(file: Path) -> None:
    for line, module, imported in imports(file):
        source = ROOT / (module.replace(".", "/") + ".py")
        if module.startswith("sciflow.") and imported is not None and source.is_file():
            assert imported in defined(source), f"{name(file)}:{line}: {module} does not define {imported}"


def defined(file: Path) -> set[str]:
    """Names bound at the top of a module other than by import."""
    found: set[str] = set()
    for node in ast.walk(ast.Module(body=parse(file).body, type_ignores=[])):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return found


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(ROOT)))
def test_files_and_functions_are_short(file: Path) -> None:
    lines = len(file.read_text(encoding="utf-8").splitlines())
    assert lines <= 400, f"{lines} lines: cut it by subject"
    for node in ast.walk(parse(file)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1 - docstring_lines(node)
            assert length <= 50, f"{file}:{node.lineno} {node.name} has {length} lines"


def docstring_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    first = node.body[0]
    is_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    return (first.end_lineno or first.lineno) - first.lineno + 1 if is_docstring else 0


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(ROOT)))
def test_names_say_something_and_nothing_is_hidden(file: Path) -> None:
    assert file.stem not in VAGUE, "name the file after what it holds"
    for node in ast.walk(parse(file)):
        where = f"{file}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.ExceptHandler):
            silent = len(node.body) == 1 and isinstance(node.body[0], ast.Pass)
            assert node.type is not None and not silent, f"{where}: an error is swallowed"
        if isinstance(node, ast.Name):
            assert node.id != "NotImplemented" + "Error", f"{where}: finish it or leave it out"
    assert not re.search("TO" + "DO|FIX" + "ME", file.read_text(encoding="utf-8")), file


def test_every_domain_answers_the_five_questions() -> None:
    domains = [folder for folder in (PACKAGE / "domains").iterdir() if (folder / "__init__.py").is_file()]
    assert domains
    for folder in domains:
        missing = [question for question in QUESTIONS if not (folder / f"{question}.py").is_file()]
        assert not missing, f"{folder.name} does not answer {missing}"


def cpu_seconds(*call: str) -> float:
    """CPU seconds of a command: the least of three, since other work on the core can only add."""
    spent = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(call, cwd=ROOT, check=True, capture_output=True, timeout=60)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(spent)


def test_importing_the_package_is_cheap() -> None:
    heavy = "{'torch', 'xarray', 'numpy', 'scipy', 'matplotlib', 'pydantic'}"
    program = f"import sys, sciflow; assert not {heavy} & set(sys.modules), sorted({heavy} & set(sys.modules))"
    assert cpu_seconds(sys.executable, "-c", program) < 0.3


def test_the_help_page_is_cheap() -> None:
    program = "import sys; sys.argv = ['sciflow', '--help']; from sciflow.cli import main; main()"
    assert cpu_seconds(sys.executable, "-c", program) < 0.3


def test_reading_a_run_file_loads_no_statistics() -> None:
    """Every job does it: what a few solvers and noises need is loaded by those."""
    heavy = "{'scipy.stats', 'scipy.interpolate', 'scipy.optimize', 'skimage', 'sklearn', 'matplotlib'}"
    program = f"import sys, sciflow.config; assert not {heavy} & set(sys.modules), sorted({heavy} & set(sys.modules))"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=120)

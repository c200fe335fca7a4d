"""Which source a stage uses, as one digest: editing a module reruns the stages that use it, and no others.

The digest covers, as syntax trees without docstrings (comments and layout never count), the stage, the domain's answer
to it, the modules of the kinds that the section names, and all that these import inside the package. A package's
`__init__` is not followed: in-package imports name the defining module. Imports no torch and runs no module it reads.
"""

from __future__ import annotations

import ast
import functools
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sciflow import __version__
from sciflow.errors import InputError

PACKAGE = "sciflow"
QUESTIONS = {"dataset": "simulate", "train": "network", "sample": "target", "evaluate": "metrics", "report": "figures"}
"""Stage -> the module in sciflow/domains/<domain>/ that answers it."""

SCOPES = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
SILENT = ("ctx", "kind", "type_comment", "type_ignores")

Kinds = Mapping[str, tuple[str, ...]]
"""Kind, as written in a run file -> the modules that define something of that name."""


def kinds(schema: Mapping[str, Any]) -> Kinds:
    """Read from the JSON schema where each kind is defined (`x-module` beside `properties.kind.const` in `$defs`)."""
    found: dict[str, set[str]] = {}
    for entry in schema.get("$defs", {}).values():
        kind = entry.get("properties", {}).get("kind", {}).get("const")
        if kind is not None and "x-module" in entry:
            found.setdefault(kind, set()).add(entry["x-module"])
    return {kind: tuple(sorted(modules)) for kind, modules in found.items()}


def digest(
    stage: str,
    section: Mapping[str, Any],
    known: Kinds,
    plugins: Iterable[Path | str] = (),
    root: Path | None = None,
) -> str:
    """16 hex digits that change when code used by `stage` changes; "release-<version>" without a source checkout.

    Args:
        stage: one of the five.
        section: what the stage depends on (`Run.section`): `domain`, and any mapping that names kinds.
        known: see `kinds`.
        plugins: Python files that fill tables; each counts whole, for every stage.
        root: folder that holds the package; the one imported by default.

    Raises:
        InputError: a plugin cannot be read or is not Python.
    """
    root = root or Path(__file__).resolve().parent.parent
    parts = [f"{plugin} {_plugin(Path(plugin))}" for plugin in plugins]
    if not is_checkout(root):
        release = f"release-{__version__}"
        return f"{release}-{_hash(parts)}" if parts else release
    domain = section.get("domain", "")
    starts = {f"{PACKAGE}.stages.{stage}", f"{PACKAGE}.domains.{domain}.{QUESTIONS[stage]}"}
    for name in _names(section):
        starts.update(known.get(name, ()))
    return _hash([*parts, _closure_digest(frozenset(starts), root)])


def is_checkout(root: Path) -> bool:
    """True where the package lies in a source tree (cloned or installed with -e), false for an installed release."""
    return (root / "pyproject.toml").is_file()


def closure(starts: Iterable[str], root: Path) -> dict[str, str]:
    """Modules reached from `starts` by in-package imports -> digest of each; modules that do not exist are left out."""
    found: dict[str, str] = {}
    waiting = list(starts)
    while waiting:
        module = waiting.pop()
        file = root / (module.replace(".", "/") + ".py")
        if module in found or not file.is_file():
            continue
        found[module], imports = _read(file, module)
        waiting.extend(imports)
    return dict(sorted(found.items()))


def _names(value: Any) -> Iterable[str]:
    """Every string in a section that may name a kind: under `kind:` or standing in a list."""
    if isinstance(value, Mapping):
        for key, entry in value.items():
            if key == "kind" and isinstance(entry, str):
                yield entry
            else:
                yield from _names(entry)
    elif isinstance(value, list | tuple):
        for entry in value:
            if isinstance(entry, str):
                yield entry
            else:
                yield from _names(entry)


@functools.cache
def _closure_digest(starts: frozenset[str], root: Path) -> str:
    return _hash(f"{module} {value}" for module, value in closure(sorted(starts), root).items())


@functools.cache
def _read(file: Path, module: str) -> tuple[str, tuple[str, ...]]:
    """Digest of one module and the in-package modules it imports; each file is read once in a process."""
    tree = ast.parse(file.read_bytes(), filename=str(file))
    return tree_digest(tree), tuple(sorted(_imports(tree, module, file.name == "__init__.py")))


@functools.cache
def _plugin(file: Path) -> str:
    try:
        return tree_digest(ast.parse(file.read_bytes(), filename=str(file)))
    except OSError as error:
        raise InputError(
            f"plugins: {file} cannot be read ({error.strerror}). Check the path; it starts at the working directory."
        ) from None
    except (SyntaxError, ValueError) as error:
        raise InputError(f"plugins: {file} is not valid Python: {error}. Mend the file.") from None


def tree_digest(tree: ast.AST) -> str:
    """Digest of what the code does: without docstrings; comments and layout are not in a tree to begin with."""
    return _hash(_dump(tree))


def _dump(node: Any) -> Iterator[str]:
    """The tree as tokens, the same for every Python version that can parse it (empty and context fields left out)."""
    if isinstance(node, ast.AST):
        yield type(node).__name__
        for name in node._fields:
            entry = getattr(node, name, None)
            if name == "body" and isinstance(node, SCOPES) and _is_docstring(entry):
                entry = entry[1:]
            if name not in SILENT and entry is not None and entry != []:
                yield f".{name}"
                yield from _dump(entry)
    elif isinstance(node, list):
        yield "["
        for entry in node:
            yield from _dump(entry)
        yield "]"
    else:
        yield repr(node)


def _is_docstring(body: list[ast.stmt]) -> bool:
    first = body[0] if body else None
    return isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)


def _imports(tree: ast.Module, module: str, is_package: bool) -> set[str]:
    """In-package modules named by import statements anywhere in `tree` (`from a import b` may mean module a.b)."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = module.split(".")
            above = parts[: len(parts) - node.level + is_package] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            found.add(source)
            found.update(f"{source}.{alias.name}" for alias in node.names)
    return {name for name in found if name.startswith(f"{PACKAGE}.")}


def _hash(parts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

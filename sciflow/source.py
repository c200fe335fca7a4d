"""Which source a stage uses, as one digest: editing a module reruns the stages that use it, and no others.

The digest covers, as syntax trees without docstrings (comments and layout never count), the stage, the domain's answer
to it, the modules of the kinds that the section names, and all that these import inside the package. Of a package only
the imported name is followed to the module that defines it. Imports no torch and runs no module that it reads.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sciflow.errors import InputError

PACKAGE = "sciflow"
QUESTIONS = {"dataset": "simulate", "train": "network", "sample": "target", "evaluate": "metrics", "report": "figures"}
"""Stage -> the module in sciflow/domains/<domain>/ that answers it."""

PAGES = ("report", "comparison")

MEMORY = Path(".snakemake") / "sciflow-source"
"""Among Snakemake's own records, where there are any: what was read of a module, under a name made of its content."""

SCOPES = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
ROOT = Path(__file__).resolve().parent.parent  # holds the package
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
        stage: one of the five, or "comparison", the page of a sweep, which asks no domain.
        section: what the stage depends on (`Run.section`): `domain`, and any mapping that names kinds.
        known: see `kinds`.
        plugins: Python files that fill tables; each counts whole, for every stage.
        root: folder that holds the package; the one imported by default.

    Raises:
        InputError: a plugin cannot be read or is not Python.
    """
    root = root or ROOT
    parts = [f"{plugin} {plugin_digest(Path(plugin))}" for plugin in plugins]
    if not is_checkout(root):
        from sciflow import __version__

        release = f"release-{__version__}"
        return f"{release}-{_hash(parts)}" if parts else release
    starts = {f"{PACKAGE}.stages.{stage}"}
    if stage in QUESTIONS:
        starts.add(f"{PACKAGE}.domains.{section.get('domain', '')}.{QUESTIONS[stage]}")
    parts += [f"{file.name} {_hash([file.read_text(encoding='utf-8')])}" for file in _templates(stage, root)]
    names = frozenset(_names(section))
    for name in names:
        starts.update(known.get(name, ()))
    return _hash([*parts, _closure_digest(frozenset(starts), names, root)])


def _templates(stage: str, root: Path) -> list[Path]:
    """Files other than Python that a stage is made of."""
    return sorted((root / PACKAGE / "stages" / "templates").glob("*.html")) if stage in PAGES else []


def is_checkout(root: Path) -> bool:
    """True where the package lies in a source tree (cloned or installed with -e), false for an installed release."""
    return (root / "pyproject.toml").is_file()


def closure(starts: Iterable[str], root: Path, names: Collection[str] = ()) -> dict[str, str]:
    """Modules reached from `starts` by in-package imports -> digest of each; modules that do not exist are left out.

    Args:
        names: of a table that is imported, the entries with these names are followed; all, if it has none of them.
    """
    found: dict[str, str] = {}
    waiting = list(starts)
    while waiting:
        module = waiting.pop()
        file = _file(module, root)
        if module in found or file is None:
            continue
        read = _read(file, module)
        found[module] = read.digest
        for source, name in read.imports:
            waiting.extend(_defining(source, name, root, names))
    return dict(sorted(found.items()))


@functools.cache
def _file(module: str, root: Path) -> Path | None:
    path = root / module.replace(".", "/")
    files = (path.with_suffix(".py"), path / "__init__.py")
    return next((file for file in files if file.is_file()), None)


def _defining(source: str, name: str | None, root: Path, names: Collection[str]) -> Iterable[str]:
    """The modules meant by `from source import name`, or by `import source`."""
    file = _file(source, root)
    if name is None or file is None or file.name != "__init__.py":
        return [source]
    if _file(f"{source}.{name}", root) is not None:
        return [f"{source}.{name}"]
    package = _read(file, source)
    origins = {imported: module for module, imported in package.imports}
    if name in package.tables:
        table = package.tables[name]
        chosen = [entry for key, entry in table.items() if key in names] or table.values()
        return [origins[entry] for entry in chosen if entry in origins]
    return [origins.get(name, source)]


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
def _closure_digest(starts: frozenset[str], names: frozenset[str], root: Path) -> str:
    return _hash(f"{module} {value}" for module, value in closure(sorted(starts), root, names).items())


@dataclass(frozen=True)
class _Source:
    """What counts of one module: its digest, (module, name) of each in-package import, its tables of imported names."""

    digest: str
    imports: tuple[tuple[str, str | None], ...]
    tables: Mapping[str, Mapping[str, str]]


@functools.cache
def _read(file: Path, module: str) -> _Source:
    """Each file is parsed once, whatever the number of processes: that takes ten times longer than to recognise it."""
    content, is_package = file.read_bytes(), file.name == "__init__.py"
    key = hashlib.sha256(b"\n".join([_own(), module.encode(), str(is_package).encode(), content])).hexdigest()[:32]
    memory = MEMORY / key
    if memory.is_file():
        digest, imports, tables = json.loads(memory.read_text(encoding="utf-8"))
        return _Source(digest, tuple((source, name) for source, name in imports), tables)
    tree = ast.parse(content, filename=str(file))
    words, statements = _words(tree)
    found = _Source(_hash(words), tuple(_imports(statements, module, is_package)), dict(_tables(tree)))
    _remember(memory, found)
    return found


@functools.cache
def _own() -> bytes:
    """This file: with other rules nothing is remembered."""
    return Path(__file__).read_bytes()


def _remember(memory: Path, found: _Source) -> None:
    """Keep what was read for the next process; a folder that takes no files costs time and nothing else."""
    if not memory.parent.parent.is_dir() or not os.access(memory.parent.parent, os.W_OK):
        return
    memory.parent.mkdir(exist_ok=True)
    whole = memory.with_suffix(f".{os.getpid()}")
    whole.write_text(json.dumps([found.digest, found.imports, found.tables]), encoding="utf-8")
    whole.replace(memory)


@functools.cache
def plugin_digest(file: Path) -> str:
    """Digest of a plugin's code; InputError if there is none."""
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
    return _hash(_words(tree)[0])


def _words(tree: ast.AST) -> tuple[list[str], list[ast.Import | ast.ImportFrom]]:
    """The tree as words, the same for every Python version that can parse it, and its import statements."""
    words: list[str] = []
    statements: list[ast.Import | ast.ImportFrom] = []

    def visit(node: ast.AST) -> None:
        words.append(type(node).__name__)
        if isinstance(node, ast.Import | ast.ImportFrom):
            statements.append(node)
        for name in node._fields:
            entry = getattr(node, name, None)
            if entry is None or entry == [] or name in SILENT:  # versions differ in fields that say nothing
                continue
            words.append(name)
            if isinstance(entry, list):
                words.append("[")
                for part in (
                    entry[1:] if name == "body" and isinstance(node, SCOPES) and _is_docstring(entry) else entry
                ):
                    visit(part) if isinstance(part, ast.AST) else words.append(repr(part))
                words.append("]")
            elif isinstance(entry, ast.AST):
                visit(entry)
            else:
                words.append(repr(entry))

    visit(tree)
    return words, statements


def _is_docstring(body: list[ast.stmt]) -> bool:
    first = body[0] if body else None
    return isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)


def _imports(
    statements: Iterable[ast.Import | ast.ImportFrom], module: str, is_package: bool
) -> Iterator[tuple[str, str | None]]:
    """(module, name) of every in-package import; no name for `import module`."""
    for node in statements:
        if isinstance(node, ast.Import):
            found: list[tuple[str, str | None]] = [(alias.name, None) for alias in node.names]
        else:
            parts = module.split(".")
            above = parts[: len(parts) - node.level + is_package] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            found = [(source, alias.name) for alias in node.names]
        yield from (pair for pair in found if f"{pair[0]}.".startswith(f"{PACKAGE}."))


def _tables(tree: ast.Module) -> Iterator[tuple[str, dict[str, str]]]:
    """Dictionaries at the top of a module that map literal keys to names."""
    for node in tree.body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        value = getattr(node, "value", None)
        if isinstance(target, ast.Name) and isinstance(value, ast.Dict):
            pairs = zip(value.keys, value.values, strict=True)
            entries = {str(k.value): v.id for k, v in pairs if isinstance(k, ast.Constant) and isinstance(v, ast.Name)}
            if len(entries) == len(value.keys):
                yield target.id, entries


def _hash(parts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

"""Whether runs are right, before any job: asked of the constructors once for each content, in a process of its own.

The constructors need torch, which costs two seconds and which Snakemake should not hold: so they answer from another
process, and what they accepted is remembered. Without torch, as on some login nodes, the JSON schema answers alone.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sciflow import __version__
from sciflow.errors import InputError
from sciflow.runs import Run
from sciflow.source import plugin_digest

WRONG, UNABLE = 2, 3  # exit statuses of the other process: a run is wrong; torch is not there, or cannot be loaded
PROGRAM = "from sciflow.checking import answer; answer()"


def check(runs: Sequence[Run], schema: Mapping[str, Any], memory: Path) -> None:
    """Check runs that have not been checked with this content, schema, version and these plugins.

    Args:
        schema: the JSON schema of run files.
        memory: folder that remembers what was accepted.

    Raises:
        InputError: what is wrong, where, and what to do; a line for each mistake.
    """
    same = _digest([__version__, schema])  # of all runs: the schema alone takes longer to hash than a run
    new = {memory / _fingerprint(run, same): run for run in runs}
    new = {mark: run for mark, run in new.items() if not mark.exists()}
    if not new:
        return
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps([[run.content, str(run.file)] for run in new.values()], default=str),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == WRONG:
        raise InputError(done.stderr.strip())
    if done.returncode == UNABLE:
        for run in new.values():
            check_by_schema(run, schema)
        return
    if done.returncode != 0:
        raise RuntimeError(f"The check of {', '.join(run.name for run in new.values())} broke down:\n{done.stderr}")
    memory.mkdir(parents=True, exist_ok=True)
    for mark in new:
        mark.touch()


def answer() -> None:
    """Read runs from standard input, check each by its constructors, leave with a status (see `check`)."""
    try:
        from sciflow.config import check_run
    except (ImportError, OSError):  # not there, or a wheel that this machine cannot load
        sys.exit(UNABLE)
    problems: dict[str, None] = {}  # each once, in order: the children of a sweep share theirs
    for content, file in json.load(sys.stdin):
        try:
            check_run(content, file)
        except InputError as error:
            problems[str(error)] = None
    if problems:
        print(*problems, sep="\n", file=sys.stderr)
        sys.exit(WRONG)


def check_by_schema(run: Run, schema: Mapping[str, Any]) -> None:
    """Compare a run with the JSON schema, which knows the kinds that ship, their keys, types and ranges."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match

    problem = best_match(Draft202012Validator(schema).iter_errors(run.content))
    if problem is not None and not run.values.get("plugins"):  # a plugin may add kinds that the schema cannot know
        place = ".".join(str(part) for part in problem.absolute_path) or "the run"
        raise InputError(f"{run.file}: {place}: {problem.message}. Mend the run file.")


def covering(runs: Sequence[Run]) -> list[Run]:
    """Few runs that together hold every swept value at least once: combinations are not checked one by one."""
    seen: set[tuple[str, str]] = set()
    chosen = []
    for run in runs:
        new = {(key, json.dumps(value, default=str)) for key, value in run.assignments} - seen
        if new or not run.assignments:
            seen |= new
            chosen.append(run)
    return chosen


def _fingerprint(run: Run, same: str) -> str:
    plugins = [plugin_digest(Path(plugin)) for plugin in run.values.get("plugins") or ()]
    return _digest([same, plugins, run.content])


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, default=str).encode()).hexdigest()

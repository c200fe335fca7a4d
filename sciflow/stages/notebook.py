"""A notebook of the user's in the report: executed on the results of the run, shown as a page within the page.

Needs the extra `notebook`: jupytext reads it, papermill executes it, nbconvert writes it as HTML.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sciflow.errors import InputError
from sciflow.progress import time_limit
from sciflow.stages.page import templates

SUFFIXES = (".py", ".ipynb")
PACKAGES = ("jupytext", "papermill", "nbconvert", "ipykernel")
TALKATIVE = ("papermill", "traitlets")  # loggers: nbconvert speaks through the second
PARAMETER = "run"
KERNEL = "python3"  # that of this environment, whatever the notebook was last opened with
LAST_LINES = 3  # of what a cell that failed holds


@dataclass(frozen=True)
class Shown:
    """An executed notebook.

    Args:
        name: of its file.
        page: HTML that fetches nothing and is to be shown without scripts.
    """

    name: str
    page: str


def problems(file: str) -> Iterator[str]:
    """Why a notebook cannot be executed here, a line each; the file itself is not looked for."""
    if Path(file).suffix not in SUFFIXES:
        yield f"report.notebook must end in {' or '.join(SUFFIXES)}, got {file!r}. Save it as a notebook of Jupyter."
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        yield (
            f"report.notebook needs {', '.join(missing)}, which cannot be imported here. "
            "Install the extra: pip install 'sciflow[notebook]', or leave the notebook out."
        )


def executed(file: Path, folder: Path) -> Shown:
    """Execute a notebook on the results of a run.

    Args:
        file: percent-format Python, or .ipynb; a cell with the tag `parameters` holds defaults.
        folder: what its parameter `run` becomes: the folder of the results.

    Raises:
        InputError: it cannot be read or executed here, or a cell raises.
    """
    found = next(problems(str(file)), None)
    if found is not None:
        raise InputError(found)
    import nbconvert
    import papermill

    notebook = _read(file)
    given = {PARAMETER: str(folder)}
    try:
        with _silent(), time_limit(None):  # the kernel's client takes SIGTERM and gives it back to nobody
            done = papermill.execute_notebook(
                notebook, None, parameters=given, kernel_name=KERNEL, language="python", progress_bar=False
            )
            for number, cell in enumerate(done.cells):
                cell["id"] = f"cell-{number}"  # else drawn at random: the same notebook gives the same page
            body, _ = nbconvert.HTMLExporter(
                template_name="basic",
                exclude_input_prompt=True,
                exclude_output_prompt=True,
                exclude_anchor_links=True,
                embed_images=True,
            ).from_notebook_node(done)
    except papermill.PapermillExecutionError as error:
        last = " / ".join(line.strip() for line in error.source.strip().splitlines()[-LAST_LINES:])
        raise InputError(
            f"report.notebook: {file}: cell {error.cell_index + 1} ({last}) raised {error.ename}: {error.evalue}. "
            f"Mend the notebook; its parameter `{PARAMETER}` was {str(folder)!r}."
        ) from error
    except RuntimeError as error:  # the kernel did not start, or died
        raise InputError(
            f"report.notebook: {file}: its kernel broke down: {error}. Try it in Jupyter; for want of memory, raise "
            "resources.report.mem_mb."
        ) from error
    return Shown(file.name, templates().get_template("notebook.html").render(title=file.name, body=body))


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Without what libraries say of notebooks that lack a cell for parameters, or words for a picture."""
    loggers = [logging.getLogger(name) for name in TALKATIVE]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _read(file: Path) -> Any:
    """The notebook as nodes.

    Raises:
        InputError: it is none.
    """
    import jupytext

    try:
        return jupytext.read(file, fmt="py:percent" if file.suffix == ".py" else "ipynb")
    except (ValueError, KeyError, AttributeError, TypeError) as error:  # whatever damaged JSON makes of a notebook
        raise InputError(
            f"report.notebook: {file} is no notebook ({type(error).__name__}: {error}). Open and save it in Jupyter."
        ) from error

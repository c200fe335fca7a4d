"""`tree.sciflow`: the figures of a run's own report, and of the comparison of its sweep, in a notebook."""

from __future__ import annotations

import functools
import html
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sciflow.errors import InputError
from sciflow.results import FILES, Results, look
from sciflow.runs import did_you_mean

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

    from sciflow.domains.protocol import Evidence

NEEDED = ("data", "model", "samples", "metrics")


@dataclass(frozen=True)
class Picture:
    """A figure and what the reader sees in it; a notebook shows both.

    Args:
        figure: of matplotlib, to be changed or saved.
        caption: as in the report.
    """

    figure: Figure
    caption: str

    def _repr_png_(self) -> bytes:
        content = io.BytesIO()
        self.figure.savefig(content, format="png", metadata={"Software": None})
        return content.getvalue()

    def _repr_html_(self) -> str:
        from sciflow.stages.page import embedded

        words = html.escape(self.caption)
        image = f'<img src="{embedded(self.figure)}" alt="{words}" style="max-width: 100%">'
        return f'<figure style="margin: 0">{image}<figcaption>{words}</figcaption></figure>'


class RunAccessor:
    """What a tree of `sciflow.open` can do besides what any tree of xarray can.

    It draws from the files of the run, whatever was selected or changed in the tree.

    Args:
        tree: the root.
    """

    def __init__(self, tree: xr.DataTree) -> None:
        self._attributes = dict(tree.attrs)

    @property
    def missing(self) -> tuple[str, ...]:
        """What the run lacks: files with their stage, children of its sweep."""
        return tuple(str(self._attributes.get("missing", "")).splitlines())

    @property
    def figures(self) -> tuple[str, ...]:
        """Names of the figures that the report of this run shows."""
        run = self._results.run
        section: Any = run.values.get("report") if run else None
        chosen = section.get("figures") if isinstance(section, Mapping) else None
        return tuple(map(str, chosen)) if chosen else tuple(self._table)

    def plot(self, name: str) -> Picture:
        """One figure of the report, drawn from the artefacts of the run as the report does.

        Args:
            name: an entry of the domain's FIGURES; `figures` has those of the report.

        Raises:
            InputError: no such figure, a stage is missing, artefacts of different runs, or nothing to show.
        """
        if name not in self._table:
            raise InputError(
                f"plot: domain {self._domain!r} has no figure {name!r}, only {[*self._table]}."
                f"{did_you_mean(name, self._table)}{self._plugins()}"
            )
        drawing = self._table[name](self._evidence)
        if drawing is None:
            raise InputError(f"plot: figure {name!r} has nothing to show in run {self._results.folder.name}.")
        return Picture(drawing.figure, drawing.caption)

    def compare(self, metric: str, posterior: str | None = None) -> Picture:
        """One metric over the swept values, as on the comparison page: mean over seeds, where these are swept.

        Curves over one key of numbers, a map over two; for anything else a row for each setting.

        Args:
            metric: of metrics.csv.
            posterior: the sampler; None for all, which a map cannot show.

        Raises:
            InputError: no sweep, no child with this metric and sampler, or settings that make no picture.
        """
        from sciflow.stages.gathered import gather
        from sciflow.stages.sweep_figures import swept_figures

        sweep, results = self._results.sweep, self._results.folder.parent
        if sweep is None:
            raise InputError(f"compare: {self._results.folder} has no sweep. Open the base of one: results/<base>.")
        whole = gather([results / name for name in sweep.children.values() if name in sweep.built])
        for key, asked in (("metric", metric), ("posterior", posterior)):
            known = list(dict.fromkeys(getattr(line, key) for line in whole.lines))
            if asked is not None and asked not in known:
                raise InputError(f"compare: no child has {key} {asked!r}, only {known}.{did_you_mean(asked, known)}")
        lines = tuple(line for line in whole.lines if posterior in (None, line.posterior))
        found = list(swept_figures(replace(whole, lines=lines), metric))
        if not found:
            raise InputError(
                f"compare: {metric!r} over {list(whole.keys)} makes no picture: no finite number, or too many settings "
                'of a metric that is not ranked. Select from tree["sweep"] instead.'
            )
        if len(found) > 1:
            known = list(dict.fromkeys(line.posterior for line in whole.lines if line.metric == metric))
            raise InputError(
                f"compare: a map over {list(whole.keys)} shows one sampler. Give posterior=, one of {known}."
            )
        return Picture(*found[0])

    def stack(self, path: str) -> xr.DataArray:
        """One stored array of every child of the sweep, over the swept keys in front of its own dims.

        Args:
            path: group and variable: `samples/nfe`, `arrays/coverage`.

        Raises:
            InputError: no sweep, no such array of numbers in any child, or one whose sizes differ between children.
        """
        from sciflow.tree import stacked

        return stacked(self._results, path)

    @functools.cached_property
    def _results(self) -> Results:
        if "folder" not in self._attributes:
            raise InputError("This is no tree of a run. Use the root of what sciflow.open('results/<run>') gave.")
        return look(str(self._attributes["folder"]))

    @property
    def _domain(self) -> str:
        return str(self._attributes.get("domain", ""))

    @property
    def _table(self) -> Mapping[str, Any]:
        """FIGURES of the domain."""
        from sciflow.domains import DOMAINS
        from sciflow.domains.protocol import question

        if self._domain not in DOMAINS:
            raise InputError(
                f"plot: the domain of {self._results.folder} is {self._domain!r}, must be one of {[*DOMAINS]}. "
                "Run its stage dataset first."
            )
        return question(self._domain, "report").FIGURES

    @functools.cached_property
    def _evidence(self) -> Evidence:
        """Read once for all figures of a tree."""
        from sciflow.stages.artefact import Job
        from sciflow.stages.report import evidence

        found = self._results
        lacking = [FILES[name][1] for name in (*NEEDED, "arrays") if name not in found.files]
        if lacking:
            raise InputError(
                f"plot: {found.folder} lacks {', '.join(lacking)}. Run the stages that write them; "
                'until then select from the tree, as tree["data"].'
            )
        inputs: dict[str, Path] = {name: found.files[name] for name in NEEDED}
        seed = int(self._attributes["seed"])
        job = Job(
            str(self._attributes["run"]), "report", self._domain, seed, "", "", found.folder / "report.html", inputs
        )
        return evidence(job)

    def _plugins(self) -> str:
        """What to do where a plugin may hold what is not known; opening results runs no code that they name."""
        run = self._results.run
        files: Iterable[Any] = (run.values.get("plugins") if run else None) or ()
        return f" The run has plugins: sciflow.config.load_plugins({[*map(str, files)]}) first." if files else ""

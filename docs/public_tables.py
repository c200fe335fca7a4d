"""The directive `entries`: a public table as the classes themselves describe it, drawn when the pages are built.

```{entries} solvers
```
"""

from __future__ import annotations

from typing import Any, ClassVar

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

HEADS = {
    "name": "kind",
    "summary": "what it is",
    "target": "target law",
    "exactness": "right when",
    "cost": "cost",
    "bias": "known bias",
    "source": "source",
    "entries": "entries",
}


def words(text: str) -> list[nodes.Node]:
    """Text with `code` in it, as nodes."""
    parts = text.split("`")
    return [nodes.literal(text=part) if index % 2 else nodes.Text(part) for index, part in enumerate(parts) if part]


def row(cells: list[list[nodes.Node]]) -> nodes.row:
    """One row of a table."""
    return nodes.row("", *(nodes.entry("", nodes.paragraph("", "", *cell)) for cell in cells))


def table(lines: list[dict[str, str]]) -> nodes.table:
    """Lines with the same keys as a table; the first column is set as code."""
    columns = [key for key in HEADS if any(key in line for line in lines)]
    group = nodes.tgroup("", *(nodes.colspec(colwidth=1) for _ in columns), cols=len(columns))
    group += nodes.thead("", row([[nodes.Text(HEADS[key])] for key in columns]))
    group += nodes.tbody(
        "",
        *(
            row([[nodes.literal(text=line["name"])], *(words(line.get(key, "")) for key in columns[1:])])
            for line in lines
        ),
    )
    return nodes.table("", group, classes=["entries"])


class Entries(SphinxDirective):
    """The rows that `sciflow list` prints; without an argument, the names of all tables."""

    optional_arguments = 1
    option_spec: ClassVar[dict[str, Any]] = {"source": lambda _: True}

    def run(self) -> list[nodes.Node]:
        from sciflow.listing import rows

        lines = rows(self.arguments[0] if self.arguments else "")
        for line in lines:
            order = line.pop("order", "")
            if order:
                line["exactness"] = f"order {order}"
            if "source" not in self.options:
                line.pop("source", None)
        return [nodes.container("", table(lines), classes=["table-wrapper"])]


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("entries", Entries)
    return {"parallel_read_safe": True}

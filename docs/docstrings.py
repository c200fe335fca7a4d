"""Our docstrings as reStructuredText: equations verbatim, labelled lines and arguments as fields.

They are written to be read in an editor: a first line, indented equations, lines such as `Order: 2.` and sections such
as `Args:`. No markup is needed in them, so every character that reStructuredText would read as markup is escaped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from sphinx.application import Sphinx

LABELLED = re.compile(r"(Target|Exactness|Order|Cost|Bias|Source|Law|Args|Attributes|Returns|Raises):\s*(.*)")
ENTRY = re.compile(r"([\w.*, ]+?): (.*)")


def escaped(text: str) -> str:
    """Text for reStructuredText; `code` becomes ``code``."""
    parts = text.split("`")
    if len(parts) % 2 == 0:  # an unpaired backtick is no markup
        parts = [text.replace("`", "'")]
    plain = [re.sub(r"([\\*|_:<>])", r"\\\1", part) for part in parts]
    joined = "".join(f"``{parts[i]}``" if i % 2 and parts[i] else plain[i] for i in range(len(parts)))
    return re.sub(r"^(\d+)\.", r"\1\\.", joined)  # "2." alone would begin a numbered list


def blocks(lines: list[str]) -> Iterator[list[str]]:
    """Runs of lines without a blank one between them."""
    block: list[str] = []
    for line in [*lines, ""]:
        if line.strip():
            block.append(line.rstrip())
        elif block:
            yield block
            block = []


def sections(block: list[str]) -> Iterator[list[str]]:
    """A block cut before each labelled line."""
    part: list[str] = []
    for line in block:
        if LABELLED.match(line) and part:
            yield part
            part = []
        part.append(line)
    yield part


def field(part: list[str]) -> list[str]:
    """A labelled line with its continuation, or a section with its entries, as a field."""
    label, first = LABELLED.match(part[0]).groups()  # type: ignore[union-attr]
    entries = [first] if first else []
    depth = min((len(line) - len(line.lstrip()) for line in part[1:]), default=0)
    for line in part[1:]:
        if not first and len(line) - len(line.lstrip()) == depth:
            entries.append(line.strip())
        else:
            entries[-1] += " " + line.strip()
    if first or label == "Returns":
        return [f":{label}: {escaped(' '.join(entries))}"]
    found = [f":{label}:"]
    for entry in entries:
        match = ENTRY.match(entry)
        text = f"``{match[1]}`` – {escaped(match[2])}" if match else escaped(entry)
        found.append(f"    - {text}")
    return found


def converted(lines: list[str]) -> list[str]:
    """A whole docstring."""
    found: list[str] = []
    for block in blocks(lines):
        if all(line.startswith("    ") for line in block):
            found += ["::", "", *block, ""]
            continue
        for part in sections(block):
            if LABELLED.match(part[0]):
                found += field(part)
            else:
                found += [escaped(line) for line in part if not line.startswith("    ")]
                verbatim = [line for line in part if line.startswith("    ")]
                found += ["", "::", "", *verbatim, ""] if verbatim else []
        found.append("")
    return found


def convert(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    lines[:] = converted(list(lines))


def plain(app: Sphinx, what: str, name: str, obj: object, options: object, signature: str | None, returns: str | None):
    """Defaults as a reader would write them."""
    if signature is None:
        return None
    return re.sub(r"<function (\w+)>", r"\1", signature).replace("<factory>", "…"), returns


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", convert)
    app.connect("autodoc-process-signature", plain)
    return {"parallel_read_safe": True}

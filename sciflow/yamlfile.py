"""YAML as sciflow reads and writes it: safe, each key once, 1e-4 is a number, errors name file and line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

try:  # the same text, seven times as fast
    from yaml import CSafeDumper as SafeDumper
except ImportError:  # PyYAML without libyaml
    from yaml import SafeDumper

from sciflow.errors import InputError

LARGEST = 1_000_000
"""Values that a file may stand for, aliases written out: nine lines of aliases of aliases can stand for 10⁹."""

FLOAT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")  # a number, which YAML 1.1 denies without dot and sign


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice and reads 1e-4 as a number."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[Any, int] = {}
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key, line = self.construct_object(key_node, deep=True), key_node.start_mark.line + 1
            if not isinstance(key, str):
                problem = f"key {key!r} is not text (put it in quotes)"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            if key in lines:
                problem = f"key {key!r} appears twice, first in line {lines[key]} (keep one)"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            lines[key] = line
        return super().construct_mapping(node, deep=deep)


class _Dumper(SafeDumper):
    """Safe YAML without anchors, read back unchanged by `_Loader`."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _prose(dumper: _Dumper, data: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", data, style="|" if "\n" in data else None)


_Dumper.add_representer(str, _prose)
for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver("tag:yaml.org,2002:float", FLOAT, list("-+.0123456789"))


def load(file: Path | str) -> dict[str, Any]:
    """The mapping that a YAML file holds.

    Raises:
        InputError: the file cannot be read, is not YAML, repeats a key, or is not a mapping; names file and line.
    """
    try:
        content = _content(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}). Check the path.") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: is not UTF-8 text ({error.reason}). Save it as UTF-8.") from None
    except RecursionError:
        raise InputError(f"{file}: is nested too deeply, or holds itself. Write it out plainly.") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise InputError(f"{file}{line}: not valid YAML: {error.problem or error.context}. Mend this line.") from None
    except yaml.YAMLError as error:
        raise InputError(f"{file}: not valid YAML: {error}. Mend the file.") from None
    if not isinstance(content, dict):
        raise InputError(
            f"{file}: must hold a mapping of keys to values, got {type(content).__name__}. Start with `domain:`."
        )
    return content


def parse(words: str) -> Any:
    """What YAML text stands for.

    Raises:
        InputError: it is no plain YAML.
    """
    try:
        return _content(words)
    except (yaml.YAMLError, RecursionError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"not valid YAML: {reason}. Mend the text.") from None


def _content(words: str) -> Any:
    """What YAML text stands for, refused before it is built if it is too much.

    Raises:
        yaml.YAMLError: it is not YAML, or stands for more than `LARGEST` values.
        RecursionError: it is nested too deeply, or a value holds itself.
    """
    loader = _Loader(words)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if (n := _size(node, {})) > LARGEST:
            raise yaml.YAMLError(f"its aliases stand for {n} values, at most {LARGEST} are read")
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """Values below a node, each alias counted as what it stands for."""
    if id(node) not in known:
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        below = [part for pair in pairs for part in pair] or (node.value if isinstance(node, yaml.SequenceNode) else [])
        known[id(node)] = 1 + sum(_size(part, known) for part in below)
    return known[id(node)]


def text(values: Mapping[str, Any]) -> str:
    """`values` as YAML that `load`, and any other reader of YAML, reads back unchanged."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120, default_flow_style=None)

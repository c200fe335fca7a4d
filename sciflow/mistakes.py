"""What the validator says about a run file, in words: key, what was expected, what stands there, what to do."""

from __future__ import annotations

import re
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pydantic

from sciflow.runs import did_you_mean

WORDS = {"dictionary": "mapping", "tuple": "list", " after validation": ""}  # pydantic's words → those of a run file


def messages(
    error: pydantic.ValidationError, values: Mapping[str, Any], root: type[pydantic.BaseModel], settled: str = ""
) -> Iterator[str]:
    """One line for each mistake, each mistake once.

    Args:
        error: what the validator found.
        values: what it looked at.
        root: the model of the whole.
        settled: a top-level key whose mistakes are told elsewhere.
    """
    problems = error.errors()
    places = [problem["loc"] for problem in problems]
    seen: set[str] = set()
    for problem in problems:
        place = problem["loc"]
        is_consequence = any(len(other) > len(place) and other[: len(place)] == place for other in places)
        line = _message(problem, values, root)
        if is_consequence or line in seen or settled in place[:1]:
            continue
        seen.add(line)
        yield line


def _walk(place: Iterable[Any], values: Any) -> Iterator[tuple[Any, Any]]:
    """(key, what stands there) along a place, without what the validator adds: kinds, members of a union."""
    inside, is_new = values, False
    for step in place:
        is_kind = is_new and isinstance(inside, Mapping) and step == inside.get("kind")
        is_new = False
        if is_kind or not (isinstance(inside, Mapping) or (isinstance(inside, list | tuple) and isinstance(step, int))):
            continue
        if step == "[key]":
            continue
        inside = inside.get(step) if isinstance(inside, Mapping) else inside[step] if step < len(inside) else None
        is_new = True
        yield step, inside


def _message(problem: Mapping[str, Any], values: Mapping[str, Any], root: type[pydantic.BaseModel]) -> str:
    """One line in the house style for one pydantic error."""
    key = ".".join(str(step) for step, _ in _walk(problem["loc"], values))
    got, context = problem["input"], problem.get("ctx", {})
    if problem["type"] in ("union_tag_invalid", "literal_error"):
        tag = problem["type"] == "union_tag_invalid"
        text = context["expected_tags"] if tag else context["expected"].replace(" or ", ", ")
        known = [name.strip().strip("'") for name in text.split(",")]
        value = str(context["tag"]) if tag else str(got)
        name = f"{key}.kind" if tag else key
        return f"{name} must be one of {known}, got {value!r}.{did_you_mean(value, known)}"
    if problem["type"] == "union_tag_not_found":
        return f"{key} needs a `kind`, got {got!r}. `sciflow list` prints the kinds."
    if problem["type"] in ("model_attributes_type", "model_type", "dict_type"):
        last = key.rpartition(".")[2]
        hint = f"`{last}: {{kind: {got}}}`" if isinstance(got, str) else "its keys below it, or leave it out"
        return f"{key} must be a mapping, got {got!r}. Write {hint}."
    if problem["type"] == "extra_forbidden":
        parent, _, name = key.rpartition(".")
        known = _known_keys(problem, values, root)
        return f"{key} is not a key of {parent or 'a run file'}, which has {known}.{did_you_mean(name, known)}"
    if problem["type"] == "missing":
        return f"{key} is missing. Add it; `sciflow new` writes a run file that has it."
    reason = str(context["error"]) if "error" in context else problem["msg"][0].lower() + problem["msg"][1:]
    for theirs, ours in WORDS.items():
        reason = reason.replace(theirs, ours)
    reason = re.sub(r"^(must|\w+ should) ", "", reason)
    return f"{key} must {reason}, got {got!r}. See `sciflow schema` or the reference of the class."


def _known_keys(problem: Mapping[str, Any], values: Any, root: type[pydantic.BaseModel]) -> list[str]:
    """The keys that the mapping of an unknown key may have."""
    current: Any = root
    for step, inside in _walk(problem["loc"][:-1], values):
        current = _member(current, step, inside)
    return [name for name in getattr(current, "model_fields", {}) if name != "kind"]


def _member(current: Any, step: Any, inside: Any) -> Any:
    """The model behind one key, chosen by kind where there are several."""
    members = getattr(current, "model_fields", {})
    hint = members[step].annotation if step in members else current
    candidates = [*_models(hint)]
    kind = inside.get("kind") if isinstance(inside, Mapping) else None
    for candidate in candidates:
        declared = candidate.model_fields.get("kind")
        if declared is None or kind in typing.get_args(declared.annotation):
            return candidate
    return current


def _models(hint: Any) -> Iterator[type[pydantic.BaseModel]]:
    if isinstance(hint, type) and issubclass(hint, pydantic.BaseModel):
        yield hint
    for part in typing.get_args(hint):
        yield from _models(part)

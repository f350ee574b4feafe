"""A search space over a validated run: which fields vary, how, and that every corner of it can run."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ValidationError

Run = TypeVar("Run", bound=BaseModel)
Kind = Literal["uniform", "log", "choice"]
Value = float | int | str | bool | None | Sequence[str]
Scalar = float | int | str | bool | None
_SPEC = re.compile(r"(?P<path>[\w.]+)=(?P<kind>uniform|log|choice)\((?P<inside>.*)\)")
MOST_CORNERS = 512


@dataclass(frozen=True)
class Axis:
    """One field of a run, by its dotted path, and the values it may take: low and high, or all of them."""

    path: str
    kind: Kind
    values: tuple[Value, ...]

    @property
    def whole(self) -> bool:
        """Whether it is a range of whole numbers; see `check_space`."""
        return self.kind != "choice" and all(isinstance(value, int) for value in self.values)

    @property
    def told(self) -> list[Scalar]:
        """The values of a choice as dashboards and searchers take them: lists as JSON."""
        return [value if isinstance(value, Scalar) else json.dumps(value) for value in self.values]

    def value_of(self, told: Scalar) -> Value:
        """The inverse of `told`, for a single value."""
        return self.values[self.told.index(told)] if self.kind == "choice" else told

    def __str__(self) -> str:
        return f"{self.path}={self.kind}({', '.join(json.dumps(value) for value in self.values)})"


def parse_axis(spec: str) -> Axis:
    """Reads PATH=uniform(LOW, HIGH), PATH=log(LOW, HIGH) or PATH=choice(A, B, ...), values as in JSON; words may go
    without quotes.

    Raises: ValueError, with what is wrong and how it is written.
    """
    told = _SPEC.fullmatch(spec.strip())
    if told is None:
        raise ValueError(
            f"space={spec!r} is no axis; write PATH=uniform(LOW, HIGH), PATH=log(LOW, HIGH) or PATH=choice(A, B, ...), "
            "such as teaching.temperature=uniform(1, 10)"
        )
    path, kind = told["path"], told["kind"]
    values = tuple(_values(told["inside"], spec))
    if kind == "choice":
        if not values:
            raise ValueError(f"space={spec!r} has nothing to choose from")
        return Axis(path, "choice", values)
    if len(values) != 2 or any(isinstance(value, bool) or not isinstance(value, int | float) for value in values):
        raise ValueError(f"space={spec!r} needs two numbers, LOW and HIGH")
    low, high = values
    if not all(math.isfinite(value) for value in values):  # type: ignore[arg-type]
        raise ValueError(f"space={spec!r} is not finite; give two numbers")
    if not low < high:  # type: ignore[operator]
        raise ValueError(f"space={spec!r} is empty: {low} is not less than {high}")
    if kind == "log" and low <= 0:  # type: ignore[operator]
        raise ValueError(f"space={spec!r} goes through zero, which a logarithm cannot; raise {low}, or use uniform")
    return Axis(path, "log" if kind == "log" else "uniform", values)


def _values(inside: str, spec: str) -> list[Value]:
    try:
        return json.loads(f"[{inside}]")
    except ValueError:
        pass
    try:
        return [_value(part.strip()) for part in inside.split(",") if part.strip()]
    except ValueError as error:
        raise ValueError(f"space={spec!r}: {error}") from error


def _value(word: str) -> Value:
    try:
        return json.loads(word)
    except ValueError:
        if re.fullmatch(r"[\w./:-]+", word):
            return word
        raise ValueError(f"{word!r} is no value") from None


def put(run: Run, values: Mapping[str, Value]) -> Run:
    """The run with values in the place of some fields, by their dotted paths, validated like any run.

    Raises: ValueError on a path that names no field, ValidationError on what cannot run.
    """
    told = run.model_dump()
    for path, value in values.items():
        inner, _, name = _place(told, type(run), path)
        inner[name] = value
    return type(run).model_validate(told)


def _place(told: dict, model: type[BaseModel], path: str) -> tuple[dict, type[BaseModel], str]:
    """Where a dotted path ends: the values there, what they are of, and the field's name."""
    *parts, name = path.split(".")
    for part in parts:
        told, model = _inner(told, model, part, path)
    if name not in model.model_fields:
        raise ValueError(_no_field(path, name, model))
    return told, model, name


def _inner(told: dict, model: type[BaseModel], part: str, path: str) -> tuple[dict, type[BaseModel]]:
    field = model.model_fields.get(part)
    kind = field.annotation if field else None
    if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
        raise ValueError(_no_field(path, part, model))
    return told[part], kind


def _no_field(path: str, name: str, model: type[BaseModel]) -> str:
    return f"space names {path}, and there is no {name}; there are {', '.join(model.model_fields)}"


def _typed(run: BaseModel, axis: Axis) -> Axis:
    """A range of the numbers that its field takes, however they are spelt: 0 to 1 of a share is not 0 or 1."""
    if axis.kind == "choice":
        return axis
    _, model, name = _place(run.model_dump(), type(run), axis.path)
    kinds = set(_kinds(model.model_fields[name].annotation))
    low, high = (float(value) for value in axis.values)  # type: ignore[arg-type]
    if float in kinds or int not in kinds:
        return Axis(axis.path, axis.kind, (low, high))
    if not (low.is_integer() and high.is_integer()):
        raise ValueError(f"space={str(axis)!r}: {axis.path} takes whole numbers; give two of them")
    return Axis(axis.path, axis.kind, (int(low), int(high)))


def _kinds(annotation: Any) -> Iterator[Any]:
    """The types in an annotation, those in unions and within Annotated among them."""
    inside = get_args(annotation)
    if not inside:
        yield annotation
    for one in inside:
        yield from _kinds(one)


def check_space(run: Run, axes: Sequence[Axis]) -> tuple[Axis, ...]:
    """Puts the ends of every axis into the run, all with all.

    Returns: the axes; ranges are of the numbers that their fields take.

    Raises: ValueError with the first combination that cannot run and why, or where two axes are of one field.
    """
    paths = [axis.path for axis in axes]
    if twice := {path for path in paths if paths.count(path) > 1}:
        raise ValueError(f"space names {', '.join(sorted(twice))} twice")
    axes = tuple(_typed(run, axis) for axis in axes)
    for values in itertools.chain(near_corners(axes), itertools.islice(corners(axes), MOST_CORNERS)):
        try:
            put(run, values)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            words = ", ".join(f"{path}={value}" for path, value in values.items())
            raise ValueError(
                f"space has {words}, which cannot run: {where}{': ' if where else ''}{first['msg']}"
            ) from error
    return axes


def near_corners(axes: Sequence[Axis]) -> Iterator[dict[str, Value]]:
    """Every value of each axis, and of each two axes together, with the first of all others."""
    first = {axis.path: axis.values[0] for axis in axes}
    for axis in axes:
        yield from (first | {axis.path: value} for value in axis.values)
    for one, other in itertools.combinations(axes, 2):
        for values in itertools.product(one.values[1:], other.values[1:]):
            yield first | dict(zip((one.path, other.path), values, strict=True))


def corners(axes: Sequence[Axis]) -> Iterator[dict[str, Value]]:
    """All combinations of the ends of ranges and of choices."""
    for values in itertools.product(*(axis.values for axis in axes)):
        yield dict(zip((axis.path for axis in axes), values, strict=True))

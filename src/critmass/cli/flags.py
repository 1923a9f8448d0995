"""Flags from a request record: a command says which record it takes, and has a flag for each field."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from cyclopts import Parameter
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from critmass.cli.options import settings_of, sizes_of
from critmass.io.ids import first_fault

NAMES = {"settings": "--set", "parts_settings": "--set-parts"}
"""Flags that are called otherwise than their fields."""


def takes(
    request: type[BaseModel], *, only: tuple[str, ...] | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command a flag for each field of `request`, or only some; it gets the record as `asked`."""
    inherited = {name for base in request.__bases__ for name in getattr(base, "model_fields", ())}
    names = sorted(request.model_fields, key=inherited.__contains__)  # what is its own stands first
    fields = {name: request.model_fields[name] for name in names if only is None or name in only}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        own = [parameter for name, parameter in signature.parameters.items() if name != "asked"]
        flags = [_flag(name, field) for name, field in fields.items()]
        parameters = sorted([*flags, *own], key=lambda parameter: parameter.kind)

        @functools.wraps(command)
        def taking(*positional: Any, **given: Any) -> None:
            values = {name: _parsed(fields[name], given.pop(name)) for name in fields if name in given}
            command(*positional, asked=_validated(request, values), **given)

        taking.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        taking.__annotations__ = {each.name: each.annotation for each in parameters}
        return taking

    return decorate


def _flag(name: str, field: FieldInfo) -> inspect.Parameter:
    """Return a field as a flag: sizes and mappings as words, all else as it is."""
    kind: Any = field.annotation
    default: Any = field.default
    description = field.description or ""
    shape: dict[str, Any] = {"name": NAMES.get(name), "help": f"{description[:1].upper()}{description[1:]}."}
    if name == "sizes" or _is_mapping(field):
        kind, default = tuple[str, ...], () if _is_mapping(field) else (field.default,)
        shape |= {"consume_multiple": True, "negative": "", "show_default": False}
    annotation = Annotated[kind, Parameter(**shape)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _parsed(field: FieldInfo, value: Any) -> Any:
    if not isinstance(value, tuple):
        return value
    return settings_of(value) if _is_mapping(field) else sizes_of(value)


def _is_mapping(field: FieldInfo) -> bool:
    return isinstance(field.default, Mapping)


def _validated(request: type[BaseModel], values: Mapping[str, Any]) -> BaseModel:
    try:
        return request(**values)
    except ValidationError as error:
        raise first_fault(error) from None

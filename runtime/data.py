"""Frozen values to JSON and back, checked: a manifest comes from outside and is not believed.

`decode` refuses missing and unknown fields, wrong types and unknown kinds with a `DeployError` that names the place.
Infinite and undefined floats travel as the strings "inf", "-inf" and "nan", since JSON has no word for them.
"""

import math
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from deploy_runtime.errors import DeployError

T = TypeVar("T")
_FLOAT_WORDS = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}


def encode(value: Any) -> Any:
    """Turn a frozen value into what `json.dumps` takes. Members of a union carry their `kind`."""
    if is_dataclass(value) and not isinstance(value, type):
        body = {f.name: encode(getattr(value, f.name)) for f in fields(value)}
        kind = getattr(value, "kind", None)
        return body if kind is None else {"kind": kind, **body}
    if isinstance(value, Mapping):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [encode(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else ("inf" if value > 0 else "-inf")
    if isinstance(value, Path):
        return value.as_posix()
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    raise TypeError(f"{type(value).__name__} is not a value that a manifest can carry")


def decode(kind: type[T], data: Any, where: str = "manifest") -> T:
    """Build a `kind` from what `json.loads` gave. Raises DeployError naming the field that does not fit."""
    return typing.cast(T, _decode(kind, data, where))


def _refuse(where: str, wanted: str, data: Any) -> DeployError:
    shown = repr(data)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    return DeployError(
        f"{where} should be {wanted} and is {shown}",
        "The file was not written by this version of deploy-compile, or was changed since: make it again.",
    )


def _decode(kind: Any, data: Any, where: str) -> Any:
    origin, args = get_origin(kind), get_args(kind)
    if origin is Literal:
        if data not in args:
            raise _refuse(where, f"one of {', '.join(map(str, args))}", data)
        return data
    if origin in (Union, types.UnionType):
        return _decode_union(args, data, where)
    if origin is tuple:
        return _decode_tuple(args, data, where)
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(data, dict):
            raise _refuse(where, "an object", data)
        return {key: _decode(args[1], item, f"{where}.{key}") for key, item in data.items()}
    if is_dataclass(kind):
        return _decode_dataclass(kind, data, where)
    return _decode_plain(kind, data, where)


def _decode_plain(kind: Any, data: Any, where: str) -> Any:
    if kind is float and isinstance(data, str) and data in _FLOAT_WORDS:
        return _FLOAT_WORDS[data]
    if kind is float and isinstance(data, (int, float)) and not isinstance(data, bool):
        return float(data)
    if kind is Path and isinstance(data, str):
        return Path(data)
    if not isinstance(data, kind) or (kind is int and isinstance(data, bool)):
        raise _refuse(where, f"a {kind.__name__}", data)
    return data


def _decode_tuple(args: tuple[Any, ...], data: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(data, list):
        raise _refuse(where, "a list", data)
    if len(args) == 2 and args[1] is Ellipsis:
        args = (args[0],) * len(data)
    if len(args) != len(data):
        raise _refuse(where, f"a list of {len(args)}", data)
    return tuple(_decode(arg, item, f"{where}[{i}]") for i, (arg, item) in enumerate(zip(args, data)))  # noqa: B905


def _decode_union(args: tuple[Any, ...], data: Any, where: str) -> Any:
    if data is None and type(None) in args:
        return None
    for option in args:
        if is_dataclass(option) and isinstance(data, dict) and data.get("kind") == getattr(option, "kind", None):
            return _decode_dataclass(option, data, where)
    plain = [option for option in args if option is not type(None) and not getattr(option, "kind", None)]
    for option in plain[:-1]:
        try:
            return _decode(option, data, where)
        except DeployError:  # noqa: PERF203 - the next kind may fit
            continue
    if plain:
        return _decode(plain[-1], data, where)
    raise _refuse(
        where, f"of kind {', '.join(getattr(option, 'kind', '?') for option in args if is_dataclass(option))}", data
    )


def _decode_dataclass(kind: Any, data: Any, where: str) -> Any:
    if not isinstance(data, dict):
        raise _refuse(where, "an object", data)
    hints = typing.get_type_hints(kind)
    known = {f.name: f for f in fields(kind)}
    unknown = [key for key in data if key not in known and key != "kind"]
    if unknown:
        raise _refuse(f"{where}.{unknown[0]}", "absent", data[unknown[0]])
    values = {}
    for name, f in known.items():
        if name in data:
            values[name] = _decode(hints[name], data[name], f"{where}.{name}")
        elif f.default is MISSING and f.default_factory is MISSING:
            raise _refuse(f"{where}.{name}", "present", None)
    return kind(**values)

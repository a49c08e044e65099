"""Write nested values in protobuf's text format: what Triton's `config.pbtxt` is written in.

Triton's own schema is no dependency: tests/compile/test_triton_schema.py parses what is written here with it. The trap:
an enumerator stands bare and a string in quotes, and both are strings here; `Word` tells them apart.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

Value: TypeAlias = "str | int | float | Mapping[str, Value] | Sequence[Value]"
Message: TypeAlias = Mapping[str, Value]
INDENT = "  "
ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}


class Word(str):
    """An enumerator, such as TYPE_FP32: written without quotes."""

    __slots__ = ()


def text(message: Message) -> str:
    """Return a message as text: a field a line, one that is empty left out, as an absent repeated field is."""
    return "".join(f"{line}\n" for name, value in message.items() for line in _field(name, value))


def _field(name: str, value: Value) -> Iterator[str]:
    if isinstance(value, Mapping):
        yield f"{name} {{"
        yield from _inside(value)
        yield "}"
    elif isinstance(value, str | bool | int | float):
        yield f"{name}: {_scalar(value)}"
    elif value and isinstance(value[0], Mapping):
        for one in value:
            yield from _field(name, one)
    elif value:
        yield f"{name}: [ {', '.join(_scalar(one) for one in value)} ]"


def _inside(message: Message) -> Iterator[str]:
    for name, value in message.items():
        for line in _field(name, value):
            yield f"{INDENT}{line}"


def _scalar(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Word):
        return str(value)
    if isinstance(value, str):
        return f'"{"".join(_escaped(char) for char in value)}"'
    if isinstance(value, int | float):
        return repr(value)
    raise TypeError(f"{value!r} is no scalar: a list holds scalars or messages, never both")


def _escaped(char: str) -> str:
    return ESCAPES.get(char) or (char if ord(char) >= 32 and ord(char) != 127 else f"\\{ord(char):03o}")

"""The execution contexts of an engine of TensorRT or TensorRT-RTX: one for each optimization profile that is used.

An engine of several profiles holds kernels for each; the context of the profile whose best shape is nearest runs a
batch. A context takes memory on the GPU, so that it is made when the first batch of its kind comes. Not run on
hardware.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from deploy_runtime.errors import DeployError

Shape = tuple[int, ...]


@dataclass
class Context:
    """An execution context with the addresses that its tensors are bound to."""

    handle: Any
    bound: dict[str, int] = field(default_factory=dict)

    def bind(self, name: str, address: int) -> None:
        """Say where a tensor lies, unless it is known."""
        if self.bound.get(name) != address:
            self.handle.set_tensor_address(name, address)
            self.bound[name] = address

    def shape(self, name: str, shape: Shape) -> None:
        """Say how large an input is now."""
        self.handle.set_input_shape(name, shape)


class Contexts:
    """Contexts of `engine`, that `make` makes; `inputs` are the names whose shapes choose the profile."""

    def __init__(self, engine: Any, make: Callable[[], Any], inputs: Iterable[str]) -> None:
        self._make = make
        self._ranges = [
            {name: tuple(tuple(shape) for shape in engine.get_tensor_profile_shape(name, number)) for name in inputs}
            for number in range(engine.num_optimization_profiles)
        ]
        self._made = dict[int, Context]()  # by the number of the profile
        self._known = dict[tuple[tuple[str, Shape], ...], Context]()  # by the shapes: a stream steps with the same ones

    def of(self, shapes: Mapping[str, Shape], stream: int) -> Context:
        """Return the context for inputs of these shapes, with its profile selected on a CUDA stream.

        Raises DeployError where the engine serves no such shapes, or the GPU has no memory for another context.
        """
        key = tuple(shapes.items())
        if key not in self._known:
            self._known[key] = self._chosen(shapes, stream)
        return self._known[key]

    def _chosen(self, shapes: Mapping[str, Shape], stream: int) -> Context:
        fitting = [number for number, ranges in enumerate(self._ranges) if _fits(ranges, shapes)]
        if not fitting:
            said = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
            raise DeployError(f"the engine serves no {said}", "Build it again for this bundle's batch sizes.")
        number = min(fitting, key=lambda one: _distance(self._ranges[one], shapes))
        if number not in self._made:
            self._made[number] = _selected(self._make(), number, stream)
        return self._made[number]

    def forget(self, address: int) -> None:
        """No tensor lies at this address any more."""
        for context in self._made.values():
            context.bound = {name: bound for name, bound in context.bound.items() if bound != address}

    def close(self) -> None:
        """Let all contexts go."""
        self._made.clear()
        self._known.clear()


def _selected(handle: Any, number: int, stream: int) -> Context:
    if handle is None:
        raise DeployError("the GPU has no memory left for this engine", "Free some, or use a smaller batch.")
    if number:  # a new context has the first profile
        handle.set_optimization_profile_async(number, stream)
    return Context(handle)


def _fits(ranges: Mapping[str, tuple[Shape, ...]], shapes: Mapping[str, Shape]) -> bool:
    return all(
        len(shape) == len(ranges[name][0])
        and all(least <= size <= most for least, size, most in zip(ranges[name][0], shape, ranges[name][2]))  # noqa: B905 - as long as each other
        for name, shape in shapes.items()
    )


def _distance(ranges: Mapping[str, tuple[Shape, ...]], shapes: Mapping[str, Shape]) -> tuple[float, float]:
    """How far the shapes are from a profile's best ones; then how wide the profile is, as a factor of the elements."""
    best = sum(abs(math.log(max(math.prod(shape), 1) / max(math.prod(ranges[n][1]), 1))) for n, shape in shapes.items())
    wide = sum(math.log(max(math.prod(most), 1) / max(math.prod(least), 1)) for least, _, most in ranges.values())
    return best, wide

"""A recording fake of TensorRT, made from the names of a real release: for the order of calls and the ways to fail.

It knows no more than the release does: a name that the release lacks raises AttributeError, as there. What it does is
written in `Fake`; it compiles nothing, and says nothing of TensorRT's own behaviour.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.runtime.fake_cuda import Array, FakeCuda, at
from tests.runtime.trt_names import RETURNS, Api, api

ENUMERATIONS = (
    "NetworkDefinitionCreationFlag", "ProfilingVerbosity", "MemoryPoolType", "HardwareCompatibilityLevel",
    "BuilderFlag", "LayerInformationFormat", "ErrorCodeTRT", "ComputeCapability",
)  # fmt: skip
Shape = tuple[int, ...]
ANY_BATCH = 64
SEVERITIES = ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE")


@dataclass
class Fake:
    """How the library behaves: `refuses` are the parser's errors, `fails` the compiler's words, `table` its layers."""

    release: str
    refuses: Sequence[tuple[str, str, str]] = ()  # operator, node, words
    fails: Sequence[str] = ()
    inputs: Sequence[tuple[str, tuple[int, ...]]] = (("image", (-1, 3, 8, 8)),)
    layers: Sequence[str] = ("/conv/Conv", "/head/Gemm")
    told: str = '{"Layers": []}'
    loads: bool = True
    room: bool = True  # on the GPU for a context
    outputs: Sequence[str] = ("logits",)
    profiles: Sequence[dict[str, tuple[Shape, Shape, Shape]]] = ()  # of the engine; none: one that takes everything
    runs: Callable[[dict[str, Array]], dict[str, Array]] | None = None  # what the engine computes
    calls: list[str] = field(default_factory=list)
    cuda: FakeCuda = field(default_factory=FakeCuda)

    def module(self) -> Any:
        """Return what our code takes for the module."""
        names, version = api(self.release), self.release.partition("-")[2]
        return _Module(self, names, self.release.partition("-")[0], version)


class _Module:
    def __init__(self, fake: Fake, names: Api, name: str, version: str) -> None:
        self.fake, self.names, self.__name__, self.__version__ = fake, names, name, version

    def __getattr__(self, name: str) -> Any:
        members = self.names.get(name)
        if members is None:
            raise AttributeError(f"{self.__name__} {self.__version__} has no {name}")
        if name in ENUMERATIONS and isinstance(members, list):
            numbered = {member: _Member(f"{name}.{member}", place) for place, member in enumerate(members)}
            return SimpleNamespace(**numbered, __members__=numbered)
        if name in ("ILogger", "Logger", "IErrorRecorder", "IProgressMonitor"):
            base = type(name, (), {severity: severity for severity in SEVERITIES})
            return type(name, (base,), {"__init__": lambda self, *_: None})
        return lambda *args: _Object(self, name, args)


class _Member(int):
    def __new__(cls, name: str, value: int) -> "_Member":
        made = super().__new__(cls, value)
        made.name = name
        return made

    name: str

    def __repr__(self) -> str:
        return self.name


class _Object:
    """One object of a class of the release: its names only, every call and every value set on record."""

    def __init__(self, module: _Module, kind: str, args: tuple[Any, ...] = ()) -> None:
        members = module.names.get(kind)
        self.__dict__.update(
            module=module, kind=kind, args=args, names=set(members if isinstance(members, list) else ())
        )
        module.fake.calls.append(kind)

    def __setattr__(self, name: str, value: Any) -> None:
        self._known(name)
        self.module.fake.calls.append(
            f"{self.kind}.{name} = {value!r}" if isinstance(value, (int, str)) else f"{self.kind}.{name}"
        )
        self.__dict__[name] = value

    def __getattr__(self, name: str) -> Any:
        self._known(name)
        fake = self.module.fake
        plain = {
            "num_inputs": len(fake.inputs),
            "num_layers": len(fake.layers),
            "num_errors": len(fake.refuses),
            "num_io_tensors": len(fake.inputs) + len(fake.outputs),
            "num_optimization_profiles": max(len(fake.profiles), 1),
        }
        if name in plain:
            return plain[name]

        def call(*args: Any) -> Any:
            fake.calls.append(f"{self.kind}.{name}({', '.join(map(_said, args))})")
            return self._answer(name, args)

        return call

    def _known(self, name: str) -> None:
        if name not in self.names:
            raise AttributeError(f"{self.kind} of {self.module.__version__} has no {name}")

    def _answer(self, name: str, args: tuple[Any, ...]) -> Any:  # noqa: PLR0911, PLR0912
        fake = self.module.fake
        if name == "parse_from_file":
            return not fake.refuses
        if name == "get_error":
            operator, node, words = fake.refuses[args[0]]
            return SimpleNamespace(node_operator=lambda: operator, node_name=lambda: node, desc=lambda: words)
        if name == "get_input":
            return SimpleNamespace(name=fake.inputs[args[0]][0], shape=fake.inputs[args[0]][1])
        if name == "get_layer":
            return SimpleNamespace(name=fake.layers[args[0]])
        if name == "build_serialized_network":
            for words in fake.fails:
                self.__dict__["error_recorder"].report_error(1, words)
            return None if fake.fails else b"engine of " + fake.release.encode()
        if name == "deserialize_cuda_engine":
            return _Object(self.module, "ICudaEngine") if fake.loads else None
        if name == "get_engine_information":
            return fake.told
        if name == "serialize":
            return b"timings"
        if name == "get_tensor_profile_shape":
            shape = dict(fake.inputs)[args[0]]
            most = tuple(max(size, ANY_BATCH) if not axis else size for axis, size in enumerate(shape))
            return fake.profiles[args[1]][args[0]] if fake.profiles else (tuple(map(abs, shape)), shape, most)
        if name == "get_tensor_name":
            return [*(one for one, _ in fake.inputs), *fake.outputs][args[0]]
        if name in ("set_tensor_address", "set_input_shape"):
            self.__dict__.setdefault(f"{name} of", {})[args[0]] = args[1]
        if name == "execute_async_v3" and fake.runs is not None:
            if fake.cuda.capturing:
                fake.cuda.recorded = partial(self._compute, fake.runs)
            else:
                self._compute(fake.runs)
        if name == "create_execution_context" and not fake.room:
            return None
        kind = RETURNS.get((self.kind, name))
        return _Object(self.module, kind) if kind else True

    def _compute(self, runs: Callable[[dict[str, Array]], dict[str, Array]]) -> None:
        """Read the inputs where our code put them, and write the outputs where it wants them."""
        addresses, shapes = self.__dict__["set_tensor_address of"], self.__dict__["set_input_shape of"]
        given = {name: at(addresses[name], shape).copy() for name, shape in shapes.items()}
        for name, array in runs(given).items():
            at(addresses[name], array.shape)[...] = array


def _said(value: Any) -> str:
    if isinstance(value, _Object):
        return str(value.kind)
    return Path(value).name if isinstance(value, str) and "/" in value else repr(value)

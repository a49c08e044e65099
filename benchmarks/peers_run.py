"""How each alternative runs: opened in a process of its own, it answers samples and takes its turn in the timing."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deploy_compile.results import Loaded
from deploy_compile.sample_files import save
from deploy_runtime import timing

Answers = dict[str, np.ndarray]


class Runner:
    """Answers by output name, and the seconds of one warm run."""

    def __init__(self, run: Callable[[Answers], Answers], sample: Path) -> None:
        self._run, self._sample = run, _read(sample)
        begun = time.perf_counter()
        self._run(self._sample)
        self.first_s = time.perf_counter() - begun

    def opened(self) -> float:
        """Return the seconds of the first run, which may compile."""
        return self.first_s

    def turn(self) -> float:
        """Return the seconds of a warm run."""
        return timing.warm(lambda: self._run(self._sample))

    def answers(self, samples: Sequence[Path], out: Path) -> None:
        """Write the answers to all samples, stacked on axis 0."""
        found = [self._run(_read(path)) for path in samples]
        save(out, {name: np.concatenate([one[name] for one in found]) for name in found[0]})


def torch(loaded: Loaded, names: tuple[Sequence[str], Sequence[str]], sample: Path, threads: int, how: str) -> Runner:
    """Open the network in PyTorch: `eager`, or `compile` with frozen weights."""
    import torch as library
    from torch._inductor import config

    from deploy_compile.load import module

    library.set_num_threads(threads)
    inputs, outputs = names
    net: Any = module(loaded)
    if how == "compile":
        config.freezing = True
        net = library.compile(net)

    def run(given: Answers) -> Answers:
        with library.inference_mode() if how == "eager" else library.no_grad():
            found = net(*(library.from_numpy(given[name]) for name in inputs))
        found = found if isinstance(found, (tuple, list)) else (found,)
        return {name: value.numpy() for name, value in zip(outputs, found, strict=True)}

    return Runner(run, sample)


def onnxruntime(file: Path, sample: Path, threads: int) -> Runner:
    """Open a graph in ONNX Runtime as its documentation does."""
    import onnxruntime as library  # type: ignore[import-untyped]

    options = library.SessionOptions()
    options.intra_op_num_threads = threads
    session = library.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return Runner(lambda given: dict(zip(names, session.run(names, given), strict=True)), sample)


def openvino(file: Path, sample: Path, threads: int, hint: str) -> Runner:
    """Open a model in OpenVINO; `hint` is the precision that floats are computed in."""
    import openvino as library  # type: ignore[import-untyped]

    model = library.Core().read_model(file)
    model.reshape({name: list(array.shape) for name, array in _read(sample).items()})
    settings = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    compiled = library.Core().compile_model(model, "CPU", settings)
    said = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    if said != hint:
        raise ValueError(f"this processor has no {hint}: OpenVINO would run in {said}")
    request = compiled.create_infer_request()

    def run(given: Answers) -> Answers:
        found = request.infer(given, share_inputs=True)
        return {name: np.array(found[port]) for port in compiled.outputs for name in port.get_names()}

    return Runner(run, sample)


def ours(engine: tuple[Any, ...], sample: Path) -> Runner:
    """Open an engine through the runtime that ships."""
    from deploy_runtime import backends

    backend, *rest = engine
    session = backends.get(backend).open(*rest)
    return Runner(session.run, sample)


def _read(path: Path) -> Answers:
    with np.load(path) as arrays:
        return dict(arrays)

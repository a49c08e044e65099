"""What an engine answers on a folder of samples, in a process of its own and through the runtime that ships.

The answers come back through a file: arrays do not belong in a pipe. A crash is a DeployError that says so.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from deploy_compile.worker import Crashed, call
from deploy_runtime import backends
from deploy_runtime.errors import DeployError
from deploy_runtime.spec import Batch, Tensor

RUN_S = 1800.0  # the longest a candidate may take for all samples


def outputs(
    file: Path,
    backend: str,
    precision: str,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    batch: Batch,
    samples: Sequence[Path],
    threads: int,
    target: str = "cpu",
) -> dict[str, np.ndarray]:
    """Return each output for the samples, `.npz` files of one sample each, stacked on axis 0 in their order.

    An engine whose smallest batch is larger gets the sample repeated and its first answer counts. Raises DeployError
    where it cannot be opened or run.
    """
    with tempfile.TemporaryDirectory() as folder:
        answers = Path(folder) / "outputs.npz"
        engine = (file, backend, precision, tuple(inputs), tuple(outputs), batch)
        args = (*engine, tuple(samples), threads, target, answers)
        try:
            call("deploy_compile.parity_run:answer", *args, timeout_s=RUN_S, threads=threads)
        except Crashed as crash:
            raise DeployError(f"{backend} {precision} did not run: {crash.reason}", "Use another candidate.") from crash
        with np.load(answers) as arrays:
            return dict(arrays)


def answer(
    file: Path,
    backend: str,
    precision: str,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    batch: Batch,
    samples: Sequence[Path],
    threads: int,
    target: str,
    answers: Path,
) -> None:
    """Run in the worker: write the stacked answers to `answers`."""
    if not samples:
        raise ValueError("there are no samples to run")
    found: dict[str, list[np.ndarray]] = {tensor.name: [] for tensor in outputs}
    with backends.get(backend).open(file, precision, inputs, outputs, batch, threads, None, target) as session:
        for path in samples:
            given = session.run(sample(path, inputs, batch.least))
            for name, array in given.items():
                found[name].append(array[:1])
    np.savez(answers, **{name: np.concatenate(arrays) for name, arrays in found.items()})  # type: ignore[arg-type]


def sample(path: Path, inputs: Sequence[Tensor], size: int) -> dict[str, np.ndarray]:
    """Read one sample and repeat it to a batch of `size`."""
    with np.load(path) as arrays:
        return {tensor.name: np.repeat(arrays[tensor.name], size, axis=0) for tensor in inputs}

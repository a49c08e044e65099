"""The inference libraries by name. Each is one module with the same three functions; importing it loads no library."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from deploy_runtime import backend_onnxruntime, backend_openvino, backend_tensorrt, backend_tensorrt_rtx
from deploy_runtime.errors import UsageError
from deploy_runtime.session import Session
from deploy_runtime.spec import Batch, Tensor


class Backend(Protocol):
    """What a backend module offers."""

    def missing(self) -> str | None:
        """Return why it cannot be used on this machine, as a sentence with what to install; None where it can."""
        ...

    def version(self) -> str:
        """Return the version of the library. Only where `missing` is None."""
        ...

    def open(
        self,
        file: Path,
        precision: str,
        inputs: Sequence[Tensor],
        outputs: Sequence[Tensor],
        batch: Batch,
        threads: int,
        cache: Path | None,
        target: str = "cpu",
    ) -> Session:
        """Open an engine file for the batch sizes it will serve. `cache` is a writable folder to compile into.

        Raises DeployError where the library is missing, refuses the file or cannot keep to the precision.
        """
        ...


ORDER = ("tensorrt", "tensorrt_rtx", "openvino", "onnxruntime")  # the likely fastest first
_FOUND: dict[str, Backend] = {
    "tensorrt": backend_tensorrt,
    "tensorrt_rtx": backend_tensorrt_rtx,
    "openvino": backend_openvino,
    "onnxruntime": backend_onnxruntime,
}


def get(name: str) -> Backend:
    """Return the backend called `name`. Raises UsageError with the nearest name."""
    if name in _FOUND:
        return _FOUND[name]
    near = difflib.get_close_matches(name.lower(), ORDER, n=1)
    hint = f"Did you mean {near[0]}? " if near else ""
    raise UsageError(f"there is no backend {name!r}", f"{hint}The backends: {', '.join(ORDER)}.")

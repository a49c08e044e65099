"""TensorRT and TensorRT-RTX as what is installed here: whether they can be used, and how they are loaded.

The trap: without a driver their runtimes may kill the process, so `cuInit` comes before the import.
"""

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from deploy_runtime import cuda
from deploy_runtime.errors import DeployError
from deploy_runtime.session import NotHereError


@dataclass(frozen=True)
class Library:
    """`package` is what is imported, `name` and `bindings` (CUDA's) are what people say, `install` is the command."""

    package: str
    name: str
    bindings: str
    install: str

    def missing(self) -> str | None:
        """Return why it cannot be used here: the driver first, then the libraries."""
        if reason := cuda.driver():
            return reason
        if not find_spec(self.package):
            return f"{self.name} is not installed: {self.install}"
        if not find_spec("cuda") or not find_spec("cuda.bindings"):
            return f"{self.bindings} is not installed: {self.install}"
        return None

    def load(self, missing: str | None) -> tuple[Any, Any]:
        """Return it and CUDA's runtime. Raises NotHereError where something is `missing`."""
        if missing:
            raise NotHereError(missing.split(":")[0], f"{self.name} needs an NVIDIA driver and {self.install}")
        try:
            return import_module(self.package), import_module("cuda.bindings.runtime")
        except ImportError as error:
            raise DeployError(f"{self.name} cannot be loaded: {error}", f"Repair it: {self.install}") from error

"""Run and check deploy-compile bundles: numpy and one engine library, no PyTorch.

    from deploy_runtime import load
    with load("artifacts/x3d_s-int8") as model:
        logits = model.run({"video": clip})["logits"]

The import takes milliseconds: numpy and the engine library come with the first `load`.
"""

from typing import TYPE_CHECKING, Any

from deploy_runtime.errors import DeployError, GateError, UsageError

if TYPE_CHECKING:
    from deploy_runtime.model import Model, load

__version__ = "0.1.0"
__all__ = ["DeployError", "GateError", "Model", "UsageError", "__version__", "load"]


def __getattr__(name: str) -> Any:
    if name not in ("Model", "load"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from deploy_runtime import model

    return getattr(model, name)

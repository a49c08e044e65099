"""Run and check deploy-compile bundles: numpy and one engine library, no PyTorch.

    from deploy_runtime import load
    with load("artifacts/x3d_s-int8") as model:
        logits = model.run({"video": clip})["logits"]
"""

from deploy_runtime.errors import DeployError, GateError, UsageError
from deploy_runtime.model import Model, load

__version__ = "0.1.0"
__all__ = ["DeployError", "GateError", "Model", "UsageError", "__version__", "load"]

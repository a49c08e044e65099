"""What pytorchvideo's clip networks (X3D, SlowFast, R(2+1)D) share: import, depth, features, published weights.

They are lists of `blocks`: a stem, the residual stages, the head, whose last layer is `proj`. State-dict keys stay as
they are. The trap: away from the size it was trained for, the head pools with its window at several places and
averages their scores; so a clip's features are the mean over those places too.
"""

import importlib
import warnings
from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

URL = "https://dl.fbaipublicfiles.com/pytorchvideo/model_zoo/kinetics"  # as in pytorchvideo.models.hub
STRIDE = 32  # pixels of a frame that one place of the last map stands for, in all three families


def library(module: str) -> ModuleType:
    """Import `pytorchvideo.models.<module>`, without the warning that fvcore gives when it is imported."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)
        return importlib.import_module(f"pytorchvideo.models.{module}")


def shorten(net: "nn.Module", depth: int) -> "nn.Module":
    """Keep, in place, the first `depth` blocks of each residual stage; 0 keeps all. The other keys stay as they are."""
    from torch import nn

    for stage in list(net.modules()):
        blocks = getattr(stage, "res_blocks", None)
        if depth and isinstance(blocks, nn.ModuleList):
            stage.res_blocks = blocks[:depth]
    return net


def with_clip_features(net: "nn.Module") -> "nn.Module":
    """Make `net` return (logits, features): what its last layer sees, [batch, width], the mean over all places."""
    from deploy_recipes.networks.features import with_features

    (head,) = (name for name, _ in net.named_modules() if name.endswith(".proj"))
    with_features(net, head)
    net.register_forward_hook(lambda _, __, given: (given[0], given[1].mean(dim=(1, 2, 3))))
    return net


def published(file: str, **_params: object) -> Mapping[str, Any]:
    """Return the Kinetics-400 state dict that pytorchvideo publishes. Raises OSError without a network."""
    from torch.hub import load_state_dict_from_url

    state: Mapping[str, Any] = load_state_dict_from_url(f"{URL}/{file}", map_location="cpu", weights_only=True)
    return state["model_state"]  # type: ignore[no-any-return]

"""Feature vectors as an output beside the answer, for any network with a head. State-dict keys stay as they are."""

from torch import Tensor, nn


def with_features(net: nn.Module, head: str) -> nn.Module:
    """Make `net` return (answer, features): features are what reaches its submodule `head`, [batch, width].

    The seed document's `extract_features`. Hooks do it, so that checkpoints of the plain network still load.
    """
    reached: list[Tensor] = []
    net.get_submodule(head).register_forward_pre_hook(lambda _, given: reached.append(given[0]))
    net.register_forward_hook(lambda _, __, answer: (answer, reached.pop()))
    return net

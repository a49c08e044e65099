"""From an ONNX node's name back to the PyTorch module that it was traced from."""

from typing import Protocol


class Traced(Protocol):
    """A node of a graph that an exporter named."""

    @property
    def node(self) -> str:
        """Its name."""
        ...

    @property
    def op(self) -> str:
        """Its operator."""
        ...


def module_path(layer: Traced) -> str:
    """Return the PyTorch module that an ONNX node was traced from, as `named_modules` writes it.

    `/features/features.1/features.1.0/block/block.0/Conv` is `features.1.0.block.0`: the TorchScript exporter repeats
    the path inside containers. The node's own name where it tells no module.
    """
    parts = layer.node.strip("/").split("/")
    ends = [place for place, part in enumerate(parts) if part.rpartition("_")[0] == layer.op or part == layer.op]
    if not ends:
        return layer.node
    path: list[str] = []
    for part in parts[: ends[-1]]:
        if path and part.startswith(f"{path[-1]}."):
            path.pop()
        path.append(part)
    return ".".join(path) or layer.node

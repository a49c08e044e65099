"""Keep: which nodes of a graph a recipe keeps out of a precision, and why."""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

import onnx

from deploy_recipes.recipe import Keep
from deploy_runtime.errors import DeployError

SHOWN = 3  # node names in an error


def kept(nodes: Iterable[onnx.NodeProto], keeps: Iterable[Keep], field: str, kinds: str) -> dict[str, str]:
    """Return the name of every node that a glob matches, with its reason: the first glob's.

    Raises DeployError where a glob matches none; it names the recipe's `field` and the `kinds` of nodes looked at.
    """
    names: Sequence[str] = [node.name for node in nodes]
    found: dict[str, str] = {}
    for keep in keeps:
        matched = [name for name in names if fnmatchcase(name, keep.nodes)]
        if not matched:
            raise DeployError(
                f"{field} {keep.nodes!r} matches no {kinds} of the graph",
                f"Correct the glob in the recipe; node names look like {', '.join(names[-SHOWN:])}.",
            )
        found.update((name, keep.reason) for name in matched if name not in found)
    return found

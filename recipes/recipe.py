"""What a recipe is: a frozen value that says how to get one model, what goes in and out, how much drift it may show.

A recipe never imports torch at module level; only `network` and `pretrained` do, when they are called.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from deploy_runtime.errors import UsageError
from deploy_runtime.spec import (
    Classes,
    DenseMap,
    Features,
    Limit,
    MultiLabel,
    Preprocess,
    State,
    Task,
    Tensor,
    data_inputs,
    data_outputs,
    window,
)

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "DEFAULT_LIMITS",
    "Classes",
    "DenseMap",
    "Features",
    "Keep",
    "Limit",
    "MultiLabel",
    "Param",
    "Preprocess",
    "Recipe",
    "State",
    "Task",
    "Tensor",
]

TIME = "time"  # the name of the time axis in the graph of a network that streams

# The drift a recipe allows unless it says otherwise, with its reason. `fp64_ratio` holds beside `max_relative`:
# where PyTorch itself is further than that from fp64 the net is ill-conditioned, and the ratio alone decides.
DEFAULT_LIMITS: Mapping[str, Limit] = {
    "fp32": Limit(max_relative=1e-4, fp64_ratio=10.0, agreement=1.0),
    "bf16": Limit(cosine=0.999, sqnr_db=30.0, agreement=0.99),
    "fp16": Limit(cosine=0.999, sqnr_db=30.0, agreement=0.99),
    "int8": Limit(cosine=0.99, sqnr_db=18.0, agreement=0.95),
    "int8_bf16": Limit(cosine=0.99, sqnr_db=18.0, agreement=0.95),
    "int8_fp16": Limit(cosine=0.99, sqnr_db=18.0, agreement=0.95),
}


@dataclass(frozen=True)
class Keep:
    """ONNX nodes that stay out of INT8 or of fp16: a glob over node names, and why."""

    nodes: str
    reason: str


@dataclass(frozen=True)
class Param:
    """A value the user may set with `--param name=value`: what it means, its default, what is allowed.

    `allowed` lists values, or gives the least and the most of a whole number as `range`.
    """

    name: str
    default: int | str | bool
    help: str
    allowed: tuple[int | str | bool, ...] | range = ()

    def parse(self, text: str) -> int | str | bool:
        """Read the user's text as this parameter's type. Raises UsageError with what is allowed."""
        value: int | str | bool
        if isinstance(self.default, bool):
            words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
            if text.lower() not in words:
                raise UsageError(f"--param {self.name}={text} is neither true nor false", "Say true or false.")
            value = words[text.lower()]
        elif isinstance(self.default, int):
            try:
                value = int(text)
            except ValueError:
                raise UsageError(
                    f"--param {self.name}={text} is not a whole number", f"{self.help} (default {self.default})."
                ) from None
        else:
            value = text
        if isinstance(self.allowed, range) and value not in self.allowed:
            step = "" if self.allowed.step == 1 else f" in steps of {self.allowed.step}"
            raise UsageError(
                f"--param {self.name}={text} is outside what the network takes",
                f"Give {self.allowed.start} to {self.allowed[-1]}{step}.",
            )
        if isinstance(self.allowed, tuple) and self.allowed and value not in self.allowed:
            raise UsageError(
                f"--param {self.name}={text} is not one of its values",
                f"Give one of {', '.join(map(str, self.allowed))}.",
            )
        return value


@dataclass(frozen=True)
class Recipe:
    """How to get one model, its inputs, outputs, preprocessing, limits. See docs/adding-a-recipe.md.

    name: the code name, e.g. `x3d_s`.      family: the file it stands in.
    network(**params): the architecture as an `nn.Module`, randomly initialised; imports torch inside.
        Takes one positional tensor an input, in the order of `inputs`; gives a tensor, or a tuple as `outputs` says.
    inputs, outputs, preprocess, task, labels: for the default parameters.
    state: what a causal network carries from chunk to chunk, or the features of a sliding window, among inputs and
        outputs; `streams` follows from it.
    shaped(recipe, params): the same recipe with inputs, outputs, task, preprocess fitted to the parameters; it may
        raise UsageError with the rule that a value breaks.
    branch_ends: globs over module names: the last normalisation of every residual branch. Seeded weights set its
        gamma to 0.25, and the test that parity means something zeroes the deepest one.
    pretrained(**params): the published state dict through the library that publishes it.
    adapt(state): turns the state dict of another library, whose keys it knows, into this network's; any other it gives
        back as it is. It is called with the wrapper prefixes still on.
    pair: of a network that compares two studies, the input of the earlier and that of the later one: metamorphic gates
        then look at the same study twice, the two exchanged, and another exposure.
    source: the paper and the library.      weights_from: what people call the published weights.
    aliases: other names that people use.
    keep_float: nodes that stay in float in an INT8 graph.     keep_fp32: nodes that stay in fp32 in an fp16 graph.
    twin: values of `params` that make a small network with every operator of the full one, compiled whole in the tests.
    """

    name: str
    family: str
    network: "Callable[..., nn.Module]"
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    task: Task
    parameters: int
    source: str
    preprocess: Preprocess | None = None
    params: tuple[Param, ...] = ()
    shaped: "Callable[[Recipe, Mapping[str, Any]], Recipe] | None" = None
    branch_ends: tuple[str, ...] = ()
    pretrained: Callable[..., Mapping[str, Any]] | None = None
    adapt: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None
    weights_from: str = ""
    aliases: tuple[str, ...] = ()
    twin: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, Limit] = field(default_factory=lambda: DEFAULT_LIMITS)
    keep_float: tuple[Keep, ...] = ()
    keep_fp32: tuple[Keep, ...] = ()
    labels: tuple[str, ...] = ()
    exporter: str = "torchscript"
    state: tuple[State, ...] = ()
    pair: tuple[str, str] | None = None

    @property
    def streams(self) -> bool:
        """Whether the network takes chunks of frames, its state kept between; its graph's time axis is then open."""
        return bool(self.state)

    @property
    def window(self) -> int:
        """How many frames a sliding window has, of a network that reads later frames too; else 0."""
        return window(self.state)

    @property
    def data_inputs(self) -> tuple[Tensor, ...]:
        """The inputs that samples give: all but the state."""
        return data_inputs(self.inputs, self.state)

    @property
    def data_outputs(self) -> tuple[Tensor, ...]:
        """The outputs but the state."""
        return data_outputs(self.outputs, self.state)

    @property
    def frames(self) -> int:
        """How many frames a clip has; 1 for networks of images."""
        return max(
            (tensor.at(1)[tensor.layout.index("T")] for tensor in self.inputs if "T" in tensor.layout), default=1
        )

    def graph_shape(self, tensor: Tensor) -> tuple[int | str, ...]:
        """Return the shape of an input or output in the graph, where the time axis of a stream has no fixed length."""
        if not self.streams or "T" not in tensor.layout:
            return tensor.shape
        axis = tensor.layout.index("T")
        return (*tensor.shape[:axis], TIME, *tensor.shape[axis + 1 :])

    def carrying(self, *tensors: Tensor, window: int = 0) -> "Recipe":
        """Return the recipe of a network that also takes these tensors as state, and gives each as `NAME_next`.

        `window`: they are the features of all but one frame of a sliding window (see `State`).
        """
        following = tuple(replace(tensor, name=f"{tensor.name}_next") for tensor in tensors)
        return replace(
            self,
            inputs=(*self.inputs, *tensors),
            outputs=(*self.outputs, *following),
            state=tuple(
                State(tensor.name, after.name, window=window) for tensor, after in zip(tensors, following, strict=True)
            ),
        )

    def values(self, given: Mapping[str, str]) -> dict[str, Any]:
        """Read `--param` texts over the defaults. Raises UsageError for a name the recipe does not declare."""
        declared = {param.name: param for param in self.params}
        for name in given:
            if name not in declared:
                names = ", ".join(declared) or "none"
                raise UsageError(f"{self.name} has no parameter {name!r}", f"Its parameters: {names}.")
        return {name: param.parse(given[name]) if name in given else param.default for name, param in declared.items()}

    def fitted(self, values: Mapping[str, Any]) -> "Recipe":
        """Return the recipe with its inputs, outputs and task fitted to parameter values."""
        return self.shaped(self, values) if self.shaped else self

    def limit(self, precision: str) -> Limit:
        """Return the drift allowed at a precision."""
        return self.limits.get(precision, DEFAULT_LIMITS[precision])

    def with_limits(self, **changed: Limit) -> "Recipe":
        """Return the recipe with some precisions' limits replaced; each needs its reason."""
        return replace(self, limits={**self.limits, **changed})

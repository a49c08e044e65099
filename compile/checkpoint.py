"""Reads a user's weights without running code from the file, and fits them to a network, every key accounted for.

`torch.load(weights_only=True)` or safetensors; a training checkpoint's state dict is found; wrapper prefixes are
stripped only as far as that makes keys fit; `--keys` renames. The trap: `strict=False` would deploy a half-random
network in silence.
"""

import difflib
import itertools
import json
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from deploy_runtime.errors import DeployError

STATE_KEYS = ("model_state_dict", "state_dict", "model_state", "model", "net", "network")
PREFIXES = ("module.", "model.", "backbone.", "_orig_mod.", "net.", "network.")
DEPTH = 3  # most wrappers around one network: Lightning around DataParallel around torch.compile
SHOWN = 4  # keys listed in an error

State = dict[str, Tensor]
_SAVE_AGAIN = "Save the weights alone: torch.save(model.state_dict(), 'weights.pt'), or as safetensors."


def read(path: Path, keys: Path | None = None) -> State:
    """Return the state dict in a checkpoint file, renamed by the JSON map `keys`. Raises DeployError."""
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise DeployError(f"the weights file {path} {what}", "Give --weights a file, `pretrained` or `seeded`.")
    state = _state_of(_open(path), path)
    return _renamed(state, keys) if keys else state


def fit(state: State, network: nn.Module, label: str) -> State:
    """Return exactly the network's own keys, from a state dict that may carry wrapper prefixes.

    Keys outside a stripped wrapper (a loss's weights, a metric's counters) are left behind once every key of the
    network was found. A tensor that the network has under two names may be there under one, as safetensors' save_model
    writes it. Raises MismatchError with the missing, unexpected and misshapen keys.
    """
    wanted = dict(network.state_dict())
    prefix = max(_prefixes(), key=lambda prefix: sum(name in wanted for name in _strip(state, prefix)))
    stripped = _with_shared(_with_head(_strip(state, prefix), wanted, state, prefix), network, label)
    mismatch = Mismatch.between(stripped, wanted)
    if mismatch:
        raise MismatchError(label, mismatch)
    for name in stripped:
        if stripped[name].is_floating_point() and not torch.isfinite(stripped[name]).all():
            raise DeployError(
                f"{label}: {name} holds NaN or Inf", "Use a checkpoint from before the training diverged."
            )
    counters = {name: value for name, value in wanted.items() if name not in stripped}  # num_batches_tracked
    return {**stripped, **counters}


def _with_shared(state: State, network: nn.Module, label: str) -> State:
    """Return the state with a tensor that the network has under several names under all of them."""
    named = [*network.named_parameters(remove_duplicate=False), *network.named_buffers(remove_duplicate=False)]
    names: dict[int, list[str]] = {}
    for name, tensor in named:
        names.setdefault(id(tensor), []).append(name)
    filled = dict(state)
    for same in names.values():
        given = [name for name in same if name in state]
        if any(not torch.equal(state[given[0]], state[other]) for other in given[1:]):
            raise DeployError(
                f"{label}: {' and '.join(given)} are one tensor in the network and differ in the file",
                "Save the checkpoint again from the network as it is trained, or use a network that has both.",
            )
        if given:
            filled |= dict.fromkeys(same, state[given[0]])
    return filled


class Mismatch:
    """The keys in which a state dict and a network differ. `misshapen` maps a key to its shapes in file and network.

    `equal` counts the keys in which they do not.
    """

    def __init__(
        self,
        missing: list[str],
        unexpected: list[str],
        misshapen: dict[str, tuple[tuple[int, ...], tuple[int, ...]]],
        equal: int = 0,
    ) -> None:
        self.missing, self.unexpected, self.misshapen, self.equal = missing, unexpected, misshapen, equal

    @property
    def fits_but_for_a_head(self) -> bool:
        """Whether at most one layer's weight and bias have another shape, and every key is there."""
        return not self.missing and not self.unexpected and len(self.misshapen) <= 2

    @property
    def nothing_in_common(self) -> bool:
        """Whether no parameter of the network has its name and shape in the file."""
        return self.equal == 0

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.misshapen)

    @classmethod
    def between(cls, state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> "Mismatch":
        """Compare names and shapes; counters that older checkpoints lack are not missed."""
        return cls(
            [name for name in wanted if name not in state and not name.endswith("num_batches_tracked")],
            [name for name in state if name not in wanted],
            {
                name: (tuple(value.shape), tuple(wanted[name].shape))
                for name, value in state.items()
                if name in wanted and value.shape != wanted[name].shape
            },
            sum(name in wanted and value.shape == wanted[name].shape for name, value in state.items()),
        )

    def __str__(self) -> str:
        parts = [
            f"{len(names)} {word}: {', '.join(names[:SHOWN])}{', ...' if len(names) > SHOWN else ''}"
            for word, names in (("missing", self.missing), ("unexpected", self.unexpected))
            if names
        ]
        if self.misshapen:
            shapes = [
                f"{name} is {list(given)} and should be {list(wanted)}"
                for name, (given, wanted) in self.misshapen.items()
            ]
            more = ", ..." if len(shapes) > SHOWN else ""
            parts.append(f"{len(shapes)} of another shape: {', '.join(shapes[:SHOWN])}{more}")
        return "; ".join(parts)


class MismatchError(DeployError):
    """A state dict does not fit the network; `mismatch` says in which keys."""

    def __init__(self, label: str, mismatch: Mismatch, fix: str = "") -> None:
        super().__init__(
            f"{label}: {mismatch}",
            fix or "Give the recipe and --param values that the weights were trained with, or rename keys with --keys.",
        )
        self.label, self.mismatch = label, mismatch

    def __reduce__(self) -> tuple[type[DeployError], tuple[str, str]]:
        return DeployError, (self.message, self.fix)


def _open(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals(_numpy_globals()), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)  # the error says enough
            return torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError as error:
        raise DeployError(
            f"the weights file {path} cannot be read: {error.strerror}", "Give yourself the right to."
        ) from error
    except pickle.UnpicklingError as error:
        if re.search(r"GLOBAL|TorchScript|Unsupported (class|global)", str(error)) or _is_pickle(path):
            raise DeployError(
                f"the weights file {path} holds Python code or objects, not only tensors, and was not opened",
                _SAVE_AGAIN,
            ) from error
        raise _damaged(path, ValueError("no PyTorch file")) from error
    except (RuntimeError, EOFError, ValueError, KeyError, SafetensorError) as error:
        raise _damaged(path, error) from error


def _is_pickle(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(1) == pickle.PROTO


def _damaged(path: Path, error: Exception) -> DeployError:
    reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
    return DeployError(
        f"the weights file {path} ({path.stat().st_size:,} bytes) is truncated or no checkpoint: {reason}",
        "Copy it again and compare sizes; .safetensors must really be safetensors.",
    )


def _numpy_globals() -> list[Any]:
    """Return the numpy types that training loops leave beside the weights, as in `best_accuracy`. They run no code."""
    from numpy._core.multiarray import _reconstruct, scalar

    kinds = [
        np.dtypes.Float64DType,
        np.dtypes.Float32DType,
        np.dtypes.Int64DType,
        np.dtypes.Int32DType,
        np.dtypes.BoolDType,
    ]
    old = [(scalar, "numpy.core.multiarray.scalar"), (_reconstruct, "numpy.core.multiarray._reconstruct")]
    return [scalar, _reconstruct, np.dtype, np.ndarray, *kinds, *old]


def _state_of(loaded: Any, path: Path) -> State:
    if isinstance(loaded, Mapping):
        for key in STATE_KEYS:
            inner = loaded.get(key)
            if isinstance(inner, Mapping) and inner and all(isinstance(value, Tensor) for value in inner.values()):
                return dict(inner)
        tensors = {str(key): value for key, value in loaded.items() if isinstance(value, Tensor)}
        if tensors and len(tensors) == len(loaded):
            return tensors
    holds = (
        f"a mapping of {', '.join(list(map(str, loaded))[:8])}"
        if isinstance(loaded, Mapping)
        else type(loaded).__name__
    )
    raise DeployError(
        f"the weights file {path} holds no state dict under {', '.join(STATE_KEYS)}: it is {holds}", _SAVE_AGAIN
    )


def _renamed(state: State, keys: Path) -> State:
    """Apply a map from names in the file to names in the network. A name ending in `.` renames every key under it."""
    try:
        mapping = json.loads(keys.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DeployError(
            f"--keys {keys} cannot be read as JSON: {error}", 'Write {"old.name": "new.name", ...}.'
        ) from error
    if not isinstance(mapping, dict) or not all(isinstance(value, str) for value in mapping.values()):
        raise DeployError(f"--keys {keys} is not an object of names", 'Write {"old.name": "new.name", ...}.')
    renamed = dict(state)
    for old, new in mapping.items():
        hits = [name for name in renamed if name == old or (old.endswith(".") and name.startswith(old))]
        if not hits:
            near = difflib.get_close_matches(old, list(state), n=2)
            hint = f"Did you mean {' or '.join(near)}?" if near else f"Its keys are like {', '.join(list(state)[:3])}."
            raise DeployError(f"--keys renames {old!r}, which the weights file does not have", hint)
        for name in hits:
            renamed[new + name[len(old) :]] = renamed.pop(name)
    return renamed


def _with_head(stripped: State, wanted: Mapping[str, Tensor], state: State, prefix: str) -> State:
    """Add a head that stands beside the backbone's wrapper under another name: `backbone.layer4…` and `classifier.1.…`.

    Only where the network lacks nothing but one layer, and beside the wrapper stands exactly one that has its
    parameters: of its shapes, or the only one at all.
    """
    missing = {name for name in wanted if name not in stripped and not name.endswith("num_batches_tracked")}
    layer = {name.rpartition(".")[0] for name in missing}
    if not prefix or len(layer) != 1 or not missing:
        return stripped
    head = layer.pop()
    outer = prefix.removesuffix("backbone.")
    beside = {name: value for name, value in state.items() if name.startswith(outer) and not name.startswith(prefix)}
    found = {name.rpartition(".")[0] for name in beside}
    heads = [
        {name: beside[f"{other}{name[len(head) :]}"] for name in missing}
        for other in found
        if all(f"{other}{name[len(head) :]}" in beside for name in missing)
    ]
    fitting = [values for values in heads if all(values[name].shape == wanted[name].shape for name in missing)]
    chosen = fitting or heads
    return stripped | chosen[0] if len(chosen) == 1 else stripped


def _prefixes() -> list[str]:
    """Return every chain of wrapper prefixes, shortest first, so that `max` keeps the least that fits."""
    return ["".join(chain) for depth in range(DEPTH + 1) for chain in itertools.product(PREFIXES, repeat=depth)]


def _strip(state: State, prefix: str) -> State:
    if not prefix:
        return state
    return {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}

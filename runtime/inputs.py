"""Checks of what is about to be run: an engine never sees a wrong name, rank, size, dtype or content.

Each error tells the actual beside the wanted.
"""

from collections.abc import Mapping

import numpy as np

from deploy_runtime.errors import DeployError
from deploy_runtime.session import Array
from deploy_runtime.spec import Batch, Tensor


def check_inputs(inputs: Mapping[str, Array], wanted: tuple[Tensor, ...], batch: Batch) -> None:
    """Raise DeployError, with the actual and the wanted, for whatever an engine should never see."""
    names = ", ".join(tensor.name for tensor in wanted)
    if not isinstance(inputs, Mapping) or set(inputs) != {tensor.name for tensor in wanted}:
        given = (
            ", ".join(map(str, inputs)) or "nothing" if isinstance(inputs, Mapping) else f"a {type(inputs).__name__}"
        )
        raise DeployError(f"the inputs are {given} instead of {names}", f"Give a dictionary with exactly {names}.")
    _check_order(inputs, wanted, batch)
    for tensor in wanted:
        _check_input(inputs[tensor.name], tensor, batch)
    sizes = {tensor.name: len(inputs[tensor.name]) for tensor in wanted}
    if len(set(sizes.values())) > 1:
        said = ", ".join(f"{name} has {size}" for name, size in sizes.items())
        raise DeployError(f"the inputs have different batches: {said}", "Give every input the same number of samples.")


def _check_order(inputs: Mapping[str, Array], wanted: tuple[Tensor, ...], batch: Batch) -> None:
    """Raise DeployError where two inputs do not fit as they are named and would, exchanged."""
    wrong = [tensor for tensor in wanted if not _fits(inputs[tensor.name], tensor, batch)]
    if len(wrong) != 2:
        return
    one, other = wrong
    if _fits(inputs[one.name], other, batch) and _fits(inputs[other.name], one, batch):
        raise DeployError(
            f"inputs {one.name} and {other.name} look exchanged: {one.name} is {list(inputs[one.name].shape)} and "
            f"{other.name} is {list(inputs[other.name].shape)}",
            f"Give the first as {other.name} and the second as {one.name}.",
        )


def _fits(array: object, tensor: Tensor, batch: Batch) -> bool:
    return (
        isinstance(array, np.ndarray)
        and array.ndim == len(tensor.shape)
        and all(
            batch.least <= size <= batch.most if isinstance(dim, str) else size == dim
            for size, dim in zip(array.shape, tensor.shape, strict=True)
        )
    )


def _check_input(array: Array, tensor: Tensor, batch: Batch) -> None:
    served = f"{batch.least}" if batch.fixed else f"{batch.least} to {batch.most}"
    shape = f"[{', '.join(f'{served} (batch)' if isinstance(dim, str) else str(dim) for dim in tensor.shape)}]"
    if not isinstance(array, np.ndarray):
        raise DeployError(
            f"input {tensor.name} is a {type(array).__name__} instead of a numpy array",
            f"Convert it: np.asarray(value, np.{tensor.dtype}) of shape {shape}.",
        )
    if array.dtype != np.dtype(tensor.dtype):
        hint = "; 8-bit frames go through model.preprocess(frames)" if array.dtype == np.uint8 else ""
        raise DeployError(
            f"input {tensor.name} is {array.dtype} instead of {tensor.dtype}",
            f"Convert it: {tensor.name}.astype(np.{tensor.dtype}){hint}.",
        )
    if array.ndim != len(tensor.shape):
        hint = (
            f"; a single sample needs its batch axis: {tensor.name}[None]"
            if array.ndim == len(tensor.shape) - 1
            else ""
        )
        raise DeployError(
            f"input {tensor.name} has {array.ndim} axes, {list(array.shape)}, instead of {len(tensor.shape)}",
            f"Give {shape}{hint}.",
        )
    if not _fits(array, tensor, batch):
        raise DeployError(f"input {tensor.name} has the shape {list(array.shape)}", f"Give {shape}.")
    if not np.all(np.isfinite(array)):
        raise DeployError(
            f"input {tensor.name} has NaN or Inf", "Look at where it comes from: no answer to it would mean anything."
        )

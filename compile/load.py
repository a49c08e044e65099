"""The first stage: a recipe's network with its weights fixed, kept as one safetensors file.

Promises an eval-mode fp32 module without gradients, the same one each time `module` is called. The weights are seeded
(an architecture check), published (`pretrained`) or the user's own file, never a mixture.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_model
from torch import nn

from deploy_compile import checkpoint, heads, seeded
from deploy_compile.fingerprint import file_digest
from deploy_compile.results import Loaded
from deploy_compile.uncertainty import Uncertainty
from deploy_recipes import Recipe, get, names, resolve
from deploy_runtime.errors import DeployError

WEIGHTS = "weights.safetensors"


def load(
    out: Path,
    recipe: Recipe,
    ref: str,
    params: Mapping[str, str],
    weights: str | Path | tuple[Path, ...],
    keys: Path | None,
    uncertainty: Uncertainty = Uncertainty(),  # noqa: B008 - frozen
) -> Loaded:
    """Build the network that `ref` and `params` name with `weights` (`seeded`, `pretrained` or a path) into `out`.

    Several paths are the members of an ensemble, one network. `recipe` is what `ref` and `params` resolve to; given, so
    that a change of it is another result to the cache.

    Raises UsageError for a wrong recipe or parameter and DeployError for weights that cannot be read or do not fit.
    """
    values = recipe.values(params)
    if keys and weights in ("seeded", "pretrained"):
        raise DeployError(f"--keys renames the keys of a file, and the weights are {weights}", "Drop --keys.")
    files = weights if isinstance(weights, tuple) else (weights,)
    nets = [_filled(recipe, ref, values, each, keys) for each in files]
    net = nets[0] if uncertainty == Uncertainty() else heads.tried(nets, resolve(ref).fitted(values), uncertainty)
    net.float().eval()
    path = out / WEIGHTS
    save_model(net, str(path))
    return Loaded(
        ref=ref,
        params={name: str(value) for name, value in params.items()},
        weights=path,
        sha256=file_digest(path),
        parameters=sum(parameter.numel() for parameter in net.parameters()),
        origin=weights if isinstance(weights, str) else "file",
        uncertainty=uncertainty,
    )


def module(loaded: Loaded) -> nn.Module:
    """Return the network of a load stage: eval mode, fp32, on the CPU, no gradients."""
    recipe = resolve(loaded.ref)
    values = recipe.values(loaded.params)
    nets = [_network(recipe, values) for _ in range(loaded.uncertainty.members)]
    net = heads.wrapped(nets, recipe.fitted(values), loaded.uncertainty)
    load_model(net, str(loaded.weights), strict=True)
    return net.float().eval().requires_grad_(False)


def _filled(recipe: Recipe, ref: str, values: Mapping[str, Any], weights: str | Path, keys: Path | None) -> nn.Module:
    """Return one network with its weights."""
    if weights == "seeded":
        return seeded.build(recipe, lambda: _network(recipe, values))
    state = _published(recipe, values) if weights == "pretrained" else checkpoint.read(Path(weights), keys)
    net = _network(recipe, values)
    label = f"the published weights of {recipe.name}" if weights == "pretrained" else f"{weights} does not fit {ref}"
    net.load_state_dict(_fitting(state, net, label, recipe, values))
    return net


def _network(recipe: Recipe, values: Mapping[str, Any]) -> nn.Module:
    net = recipe.network(**values)
    if not isinstance(net, nn.Module):
        raise DeployError(
            f"network of recipe {recipe.name} returns a {type(net).__name__}, not a torch.nn.Module",
            "Correct the recipe: `network(**params)` builds and returns the module.",
        )
    return net


def _published(recipe: Recipe, values: Mapping[str, Any]) -> checkpoint.State:
    if recipe.pretrained is None:
        raise DeployError(
            f"nobody publishes weights for {recipe.name}", "Give --weights a checkpoint of your own, or `seeded`."
        )
    try:
        return dict(recipe.pretrained(**values))
    except OSError as error:  # URLError, HTTPError, timeouts
        raise DeployError(
            f"the published weights of {recipe.name} ({recipe.weights_from}) cannot be fetched: {error}",
            "Connect this machine once (they are kept in torch's hub cache), or give --weights a file.",
        ) from error


def _fitting(
    state: checkpoint.State, net: nn.Module, label: str, recipe: Recipe, values: Mapping[str, Any]
) -> checkpoint.State:
    if recipe.adapt is not None:
        state = dict(recipe.adapt(state))
    try:
        return checkpoint.fit(state, net, label)
    except checkpoint.MismatchError as error:
        fix = _other_parameter(error.mismatch, recipe, values) or _other_recipe(state, recipe)
        raise checkpoint.MismatchError(label, error.mismatch, fix) from None


def _other_parameter(mismatch: checkpoint.Mismatch, recipe: Recipe, values: Mapping[str, Any]) -> str:
    """Return the `--param` that explains shapes which differ, where one does: the usual case is num_classes."""
    if mismatch.missing or mismatch.unexpected:
        return ""
    changes = {
        (given[i], wanted[i])
        for given, wanted in mismatch.misshapen.values()
        if len(given) == len(wanted)
        for i in range(len(given))
        if given[i] != wanted[i]
    }
    if len(changes) != 1:
        return ""
    given, wanted = changes.pop()
    named = [param.name for param in recipe.params if values[param.name] == wanted]
    return f"The weights were trained with another {named[0]}: add --param {named[0]}={given}." if named else ""


def _other_recipe(state: checkpoint.State, recipe: Recipe) -> str:
    """Return which recipe the keys are those of, its own family first; networks are built without memory to see.

    Of another family, all members are tried only where the first has some key in common: sixty networks take a minute.
    """
    families: dict[str, list[Recipe]] = {recipe.family: []}
    for name in names():
        if name != recipe.name:
            families.setdefault(get(name).family, []).append(get(name))
    for members in families.values():
        for other in members:
            mismatch = _mismatch(state, other)
            if mismatch.fits_but_for_a_head:
                return f"The weights look like {other.name}: compile that, with the --param values of their training."
            if other.family != recipe.family and mismatch.nothing_in_common:
                break
    return ""


def _mismatch(state: checkpoint.State, other: Recipe) -> checkpoint.Mismatch:
    with torch.device("meta"):
        net = _network(other, other.values({}))
    try:
        checkpoint.fit(dict(other.adapt(state)) if other.adapt else state, net, other.name)
    except checkpoint.MismatchError as error:
        return error.mismatch
    return checkpoint.Mismatch([], [], {})

"""Weights files: what is found in them, what is stripped and renamed, and everything that is refused."""

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file, save_model
from torch import nn

from deploy_compile import checkpoint
from deploy_runtime.errors import DeployError


def net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


def same(one: checkpoint.State, other: checkpoint.State) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("wrap", [*checkpoint.STATE_KEYS, None])
def test_a_state_dict_is_found_in_a_training_checkpoint(wrap: str | None, tmp_path: Path) -> None:
    state = net().state_dict()
    saved = state if wrap is None else {"epoch": 3, wrap: state, "optimizer": {"lr": 0.1}, "best": np.float64(0.9)}
    torch.save(saved, tmp_path / "a.pt")
    assert same(checkpoint.read(tmp_path / "a.pt"), dict(state))


def test_safetensors_are_read(tmp_path: Path) -> None:
    state = {name: value.contiguous() for name, value in net().state_dict().items()}
    save_file(state, tmp_path / "a.safetensors")
    assert same(checkpoint.read(tmp_path / "a.safetensors"), state)


@given(st.lists(st.sampled_from(checkpoint.PREFIXES), max_size=checkpoint.DEPTH))
def test_wrapper_prefixes_are_stripped_as_far_as_it_fits(chain: list[str]) -> None:
    target = net()
    state = {"".join(chain) + name: value for name, value in net().state_dict().items()}
    fitted = checkpoint.fit(state, target, "a.pt")
    assert fitted.keys() == target.state_dict().keys()


def test_a_prefix_that_is_the_networks_own_is_kept() -> None:
    target = nn.ModuleDict({"model": net()})
    state = dict(target.state_dict())
    assert same(checkpoint.fit(state, target, "a.pt"), state)


def with_one_layer_twice() -> nn.Module:
    shared = nn.Linear(4, 4)
    return nn.ModuleDict({"encoder": nn.Sequential(nn.Linear(4, 4), shared), "bottleneck": shared})


def test_a_layer_of_two_names_may_be_in_the_file_under_one(tmp_path: Path) -> None:
    trained, target = with_one_layer_twice(), with_one_layer_twice()
    save_model(trained, str(tmp_path / "a.safetensors"))
    state = checkpoint.read(tmp_path / "a.safetensors")
    assert len(state) == len(trained.state_dict()) - 2
    assert same(checkpoint.fit(state, target, "a"), dict(trained.state_dict()))


def test_a_layer_of_two_names_that_differ_is_refused() -> None:
    state = {**with_one_layer_twice().state_dict(), "bottleneck.bias": torch.ones(4)}
    says = r"encoder\.1\.bias and bottleneck\.bias are one tensor .* differ in the file"
    with pytest.raises(DeployError, match=says):
        checkpoint.fit(state, with_one_layer_twice(), "a")


def test_what_lies_outside_a_wrapper_is_left_behind() -> None:
    state = {f"model.{name}": value for name, value in net().state_dict().items()} | {"loss.weight": torch.ones(2)}
    assert checkpoint.fit(state, net(), "a.pt").keys() == net().state_dict().keys()


def test_counters_that_old_checkpoints_lack_are_not_missed() -> None:
    state = {name: value for name, value in net().state_dict().items() if "num_batches" not in name}
    assert "1.num_batches_tracked" in checkpoint.fit(state, net(), "a.pt")


def test_missing_unexpected_and_misshapen_keys_are_listed_with_counts() -> None:
    state = dict(net().state_dict())
    del state["0.bias"]
    state["extra"] = torch.ones(1)
    state["3.weight"] = torch.ones(7, 4)
    with pytest.raises(checkpoint.MismatchError) as caught:
        checkpoint.fit(state, net(), "a.pt does not fit toy")
    assert "1 missing: 0.bias" in caught.value.message
    assert "1 unexpected: extra" in caught.value.message
    assert "1 of another shape: 3.weight is [7, 4] and should be [2, 4]" in caught.value.message
    assert isinstance(pickle.loads(pickle.dumps(caught.value)), DeployError)  # a worker hands it to its parent


def test_long_lists_are_cut() -> None:
    with pytest.raises(checkpoint.MismatchError, match=r"\d+ missing: (\S+, ){3}\S+, \.\.\."):
        checkpoint.fit({}, net(), "a.pt")


def test_weights_of_a_diverged_training_are_refused() -> None:
    state = dict(net().state_dict())
    state["3.weight"] = torch.full_like(state["3.weight"], torch.nan)
    with pytest.raises(DeployError, match=r"3\.weight holds NaN or Inf"):
        checkpoint.fit(state, net(), "a.pt")


def test_keys_are_renamed_by_name_and_by_prefix(tmp_path: Path) -> None:
    state = net().state_dict()
    renamed = {
        name.replace("3.", "classifier.").replace("0.bias", "first_bias"): value for name, value in state.items()
    }
    torch.save(renamed, tmp_path / "a.pt")
    (tmp_path / "map.json").write_text(json.dumps({"classifier.": "3.", "first_bias": "0.bias"}))
    assert same(checkpoint.read(tmp_path / "a.pt", tmp_path / "map.json"), dict(state))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "cannot be read as JSON"),
        ("[1]", "not an object"),
        ('{"a": 1}', "not an object"),
        ('{"0.biass": "b"}', "0.biass"),
    ],
)
def test_bad_key_maps_are_refused(text: str, says: str, tmp_path: Path) -> None:
    torch.save(net().state_dict(), tmp_path / "a.pt")
    (tmp_path / "map.json").write_text(text)
    with pytest.raises(DeployError, match=says):
        checkpoint.read(tmp_path / "a.pt", tmp_path / "map.json")


class Harm:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("harmed",)


def write_bad(path: Path, kind: str) -> None:
    torch.save(net().state_dict(), path)
    whole = path.read_bytes()
    if kind == "truncated":
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("<html>404</html>")
    elif kind == "code":
        path.write_bytes(pickle.dumps({"state_dict": Harm()}))
    elif kind == "code in a zip":
        torch.save({"state_dict": Harm()}, path)
    elif kind == "whole module":
        torch.save(net(), path)
    elif kind == "no tensors":
        torch.save({"epoch": 3, "args": {"lr": 1}}, path)
    elif kind == "a list":
        torch.save([1, 2], path)


SAYS = {
    "truncated": "truncated or no checkpoint",
    "empty": "truncated or no checkpoint",
    "text": "truncated or no checkpoint",
    "code": "Python code or objects",
    "code in a zip": "Python code or objects",
    "whole module": "Python code or objects",
    "no tensors": "no state dict",
    "a list": "no state dict",
}


@pytest.mark.parametrize("kind", SAYS)
def test_bad_files_are_refused_and_run_no_code(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_bad(tmp_path / "a.pt", kind)
    with pytest.raises(DeployError, match=SAYS[kind]) as caught:
        checkpoint.read(tmp_path / "a.pt")
    assert "\n" not in caught.value.message
    assert not (tmp_path / "harmed").exists()


def test_a_checkpoint_called_safetensors_is_refused(tmp_path: Path) -> None:
    torch.save(net().state_dict(), tmp_path / "a.safetensors")
    with pytest.raises(DeployError, match="truncated or no checkpoint"):
        checkpoint.read(tmp_path / "a.safetensors")


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(DeployError, match="does not exist"):
        checkpoint.read(tmp_path / "a.pt")
    with pytest.raises(DeployError, match="is a folder"):
        checkpoint.read(tmp_path)


def test_a_head_beside_the_backbone_is_found() -> None:
    net = nn.Sequential()
    net.add_module("layer4", nn.Linear(3, 4))
    net.add_module("fc", nn.Linear(4, 2))
    plain = net.state_dict()
    wrapped = {f"backbone.{name}": value for name, value in plain.items() if name.startswith("layer4")}
    head = {"classifier.1.weight": plain["fc.weight"], "classifier.1.bias": plain["fc.bias"]}
    for state in ({**wrapped, **head}, {f"module.{name}": value for name, value in (wrapped | head).items()}):
        fitted = checkpoint.fit(state, net, "wrapped")
        assert all(torch.equal(fitted[name], plain[name]) for name in plain)
    two = {**wrapped, **head, "aux.weight": plain["fc.weight"], "aux.bias": plain["fc.bias"]}
    with pytest.raises(DeployError, match=r"missing: fc\.weight"):
        checkpoint.fit(two, net, "two heads")
    other = {**wrapped, "classifier.weight": torch.zeros(5, 4), "classifier.bias": torch.zeros(5)}
    with pytest.raises(DeployError, match=r"fc\.weight is \[5, 4\] and should be \[2, 4\]"):
        checkpoint.fit(other, net, "another number of classes")

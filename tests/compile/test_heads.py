"""What stands behind the logits - temperature, ensembles, head dropout - against numpy, and where it cannot stand."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import deploy_recipes
from deploy_compile import heads, uncertainty
from deploy_compile.uncertainty import Uncertainty
from deploy_recipes import Recipe
from deploy_recipes.networks.uncertainty import MASKS, draw_masks, spread
from deploy_recipes.recipe import Classes, MultiLabel
from deploy_runtime.errors import DeployError
from deploy_runtime.spec import Tensor as Axis
from tests.tiny_nets import tiny

IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]


def by_hand(logits: np.ndarray, temperature: float, multi_label: bool) -> Arrays:
    """Mean, entropy of the mean and population variance over the first axis, in fp64."""
    scaled = logits.astype(np.float64) / temperature
    if multi_label:
        each = 1 / (1 + np.exp(-scaled))
    else:
        each = np.exp(scaled - scaled.max(-1, keepdims=True))
        each /= each.sum(-1, keepdims=True)
    mean = each.mean(0)
    sides = (mean, 1 - mean) if multi_label else (mean,)
    entropy = -sum(np.where(side > 0, side * np.log(np.maximum(side, 1e-300)), 0) for side in sides).sum(-1)  # type: ignore[union-attr]
    return mean, entropy, each.var(0)


def close(got: tuple[Tensor, ...], wanted: Arrays, most: float = 1e-6) -> None:
    for one, other in zip(got, wanted, strict=True):
        assert one.shape == other.shape
        assert np.abs(one.detach().numpy() - other).max() <= most


def small(seed: int = 0, classes: int = 5) -> nn.Module:
    torch.manual_seed(seed)
    return tiny.network(num_classes=classes).eval()


@settings(deadline=None)
@given(st.integers(1, 4), st.sampled_from([(2,), (2, 3)]), st.booleans(), st.sampled_from([0.5, 1.0, 1.7]),
       st.floats(0.01, 60), st.integers(0, 2**32 - 1))  # fmt: skip
def test_the_three_outputs_are_those_of_numpy(
    members: int, places: tuple[int, ...], multi_label: bool, temperature: float, size: float, seed: int
) -> None:
    logits = (np.random.default_rng(seed).standard_normal((members, *places, 4)) * size).astype(np.float32)
    close(spread(torch.from_numpy(logits), temperature, multi_label), by_hand(logits, temperature, multi_label), 1e-5)


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_certain_members_are_no_nan(multi_label: bool, dtype: torch.dtype) -> None:
    logits = torch.tensor([[[2000.0, -2000.0, 0.0]], [[-2000.0, 2000.0, 0.0]]], dtype=dtype)
    mean, entropy, variance = spread(logits, 1.0, multi_label)
    assert torch.allclose(mean[0, :2], torch.tensor([0.5, 0.5], dtype=dtype))
    assert abs(float(entropy) - np.log(2) * (3 if multi_label else 1)) < 2e-3
    assert variance[0].tolist() == [0.25, 0.25, 0.0]


def test_temperature_divides_the_logits_and_nothing_else() -> None:
    plain = small()
    got = heads.tried([small()], tiny, Uncertainty(1.7))(IMAGES)
    assert torch.equal(got, plain(IMAGES) / 1.7)
    assert uncertainty.fitted(tiny, Uncertainty(1.7)) == tiny


def test_temperature_is_applied_before_a_sigmoid() -> None:
    net = small()
    net.register_forward_hook(lambda _, __, logits: logits.sigmoid())
    got = heads.tried([net], replace(tiny, task=MultiLabel(5, 0.5)), Uncertainty(2.5))(IMAGES)
    assert torch.equal(got, (small()(IMAGES) / 2.5).sigmoid())


def test_temperature_of_a_recipe_that_gives_probabilities() -> None:
    recipe = deploy_recipes.get("chexnet")
    values = recipe.values({**recipe.twin, "features": "true"})
    recipe = recipe.fitted(values)
    torch.manual_seed(0)
    net = recipe.network(**values).eval()
    image = torch.randn(recipe.inputs[0].at(1))
    with torch.no_grad():
        before, features = net(image)
        after, same = heads.tried([net], recipe, Uncertainty(2.0))(image)
    assert torch.allclose(after, (torch.logit(before) / 2).sigmoid(), atol=1e-6)
    assert torch.equal(features, same)


@pytest.mark.parametrize("temperature", [1.0, 1.7])
def test_an_ensemble_is_the_mean_of_its_members(temperature: float) -> None:
    logits = np.stack([small(seed)(IMAGES).detach().numpy() for seed in range(3)])
    net = heads.tried([small(seed) for seed in range(3)], tiny, Uncertainty(temperature, members=3))
    close(net(IMAGES), by_hand(logits, temperature, False))


def test_an_ensemble_of_equal_members_has_no_variance() -> None:
    mean, _, variance = heads.tried([small(), small()], tiny, Uncertainty(members=2))(IMAGES)
    assert torch.allclose(mean, small()(IMAGES).softmax(-1))
    assert not variance.any()


@pytest.mark.parametrize("temperature", [1.0, 1.7])
def test_head_dropout_is_numpy_with_the_same_masks(temperature: float) -> None:
    reached: list[Tensor] = []
    plain = small()
    plain.get_submodule("head").register_forward_pre_hook(lambda _, given: reached.append(given[0]))
    plain(IMAGES)
    masks = draw_masks(8, 16, 0.3, heads.SEED).numpy()
    weight, bias = (plain.get_parameter(f"head.{name}").detach().numpy() for name in ("weight", "bias"))
    logits = np.stack([(reached[0].detach().numpy() * mask) @ weight.T + bias for mask in masks])
    net = heads.tried([small()], tiny, Uncertainty(temperature, masks=8, rate=0.3))
    assert np.array_equal(net.get_buffer(MASKS).numpy(), masks)
    close(net(IMAGES), by_hand(logits, temperature, False))


def test_masks_are_those_of_training() -> None:
    masks = draw_masks(200, 50, 0.3, 7)
    assert torch.equal(masks, draw_masks(200, 50, 0.3, 7))
    assert set(masks.flatten().tolist()) == {0.0, float(torch.tensor(1.0) / 0.7)}
    assert abs(float((masks == 0).float().mean()) - 0.3) < 0.02


class Phases(nn.Module):
    """A frame-by-frame net, video [batch, 4, 3, 8, 8] to logits [batch, 4, 5], with dropout at its head."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.gru = nn.Linear(192, 16), nn.GRU(16, 12, batch_first=True)
        self.inner, self.dropout, self.head = nn.Dropout(0.7), nn.Dropout(0.25), nn.Linear(12, 5)

    def forward(self, video: Tensor) -> Tensor:
        states, _ = self.gru(self.inner(torch.relu(self.body(video.flatten(2)))))
        logits: Tensor = self.head(self.dropout(states))
        return logits


def phases() -> Recipe:
    return replace(
        tiny,
        inputs=(Axis("video", ("batch", 4, 3, 8, 8), layout="NTCHW"),),
        outputs=(Axis("logits", ("batch", 4, 5), layout="NTC"),),
        preprocess=None,
    )


def test_logits_of_every_frame_and_the_rate_of_the_dropout_before_the_head() -> None:
    torch.manual_seed(0)
    plain = Phases().eval()
    video = torch.randn(2, 4, 3, 8, 8)
    masks = draw_masks(6, 12, 0.25, heads.SEED)  # not 0.7: that one is elsewhere
    states, _ = plain.gru(torch.relu(plain.body(video.flatten(2))))
    logits = torch.stack([plain.head(states * mask) for mask in masks]).detach().numpy()
    fitted = uncertainty.fitted(phases(), Uncertainty(masks=6))
    assert [tensor.shape for tensor in fitted.outputs] == [("batch", 4, 5), ("batch", 4), ("batch", 4, 5)]
    assert [tensor.layout for tensor in fitted.outputs] == ["NTC", "NT", "NTC"]
    close(heads.tried([plain], phases(), Uncertainty(masks=6))(video), by_hand(logits, 1.0, False))


def test_a_head_that_is_a_convolution() -> None:
    class Places(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Conv2d(3, 6, 3, stride=4), nn.Conv2d(6, 5, 1)

        def forward(self, image: Tensor) -> Tensor:
            scores: Tensor = self.head(self.body(image))
            return scores.mean((2, 3))

    net = Places().eval()
    masks = draw_masks(4, 6, 0.5, heads.SEED)[:, None, :, None, None]
    logits = torch.stack([net.head(net.body(IMAGES) * mask).mean((2, 3)) for mask in masks]).detach().numpy()
    close(heads.tried([net], tiny, Uncertainty(masks=4, rate=0.5))(IMAGES), by_hand(logits, 1.0, False))


def test_labels_that_stand_each_for_themselves() -> None:
    recipe = replace(tiny, task=MultiLabel(5, 0.0, of=("logits",)))
    fitted = uncertainty.fitted(recipe, Uncertainty(members=2))
    assert fitted.task == MultiLabel(5, 0.5, of=("probabilities",))
    logits = np.stack([small(seed)(IMAGES).detach().numpy() for seed in range(2)])
    close(heads.tried([small(0), small(1)], recipe, Uncertainty(members=2))(IMAGES), by_hand(logits, 1.0, True))


class Softmax(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(small(), nn.Softmax(-1))


class Frozen(nn.Module):
    """What is behind the head knows how many samples there are."""

    def __init__(self) -> None:
        super().__init__()
        self.net = small()

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.net(image)
        return logits + image.mean((1, 2, 3)).reshape(-1, 1)


class Unused(nn.Module):
    """The last layer of the right width is not the head."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.other = small(), nn.Linear(5, 5)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.net(image)
        self.other(logits)
        return logits


@pytest.mark.parametrize(
    ("net", "task", "how", "says"),
    [
        (Softmax, Classes(5), Uncertainty(1.7), "ends in a softmax"),
        (small, MultiLabel(5, 0.5), Uncertainty(1.7), "not the sigmoid of what head gives"),
        (small, Classes(5), Uncertainty(masks=4), "no dropout before its head"),
        (Frozen, Classes(5), Uncertainty(masks=4, rate=0.5), "does more behind net.head"),
        (Unused, Classes(5), Uncertainty(masks=4, rate=0.5), "does more behind other"),
        (
            lambda: nn.Sequential(nn.Flatten(), nn.AvgPool1d(512)),
            Classes(6),
            Uncertainty(masks=4, rate=0.5),
            "no Linear",
        ),
    ],
)
def test_networks_whose_logits_cannot_be_had_are_refused(net: type, task: Classes, how: Uncertainty, says: str) -> None:
    torch.manual_seed(0)
    outputs = (Axis("logits", ("batch", task.count), layout="NC"),)
    with pytest.raises(DeployError, match=says) as caught:
        heads.tried([net().eval()], replace(tiny, task=task, outputs=outputs), how)
    assert caught.value.fix

"""Train a two-class X3D-S on moving digits (examples/digits.py), in about five minutes on two cores:

    python examples/train_digits.py digits
    deploy-compile recipe x3d_s --int8 --param num_classes=2 --weights digits/digits.pt --labels digits/labels.txt \
        --calibration digits/calibration --target cpu
    python examples/evaluate_digits.py digits artifacts/x3d_s-int8

The network and its preprocessing are the recipe's own. X3D is convolutional up to its last pooling, so most of the
training sees frames of 64 pixels; the same weights then go to the 160 that the recipe states, where the batch-norm
statistics are taken again and, held fixed, a few more steps follow. Writes digits.pt, labels.txt, calibration/ (clips
as .npy) and test.npz, all of them or nothing. Same seeds, same clips; PyTorch's rounding differs between machines.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import digits
import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.optim.swa_utils import update_bn

from deploy_recipes import Recipe, get
from deploy_runtime.measure import wilson
from deploy_runtime.preprocess import prepare

SEED = 2
PAIRS = 4  # clips a step, each seen forwards and backwards
SMALL, SMALL_STEPS, SMALL_RATE = 64, 120, 3e-3  # pixels; learning rate at its peak
FULL_STEPS, FULL_RATE = 12, 3e-4
STATISTICS = 12  # batches that the batch-norm statistics are taken over
WARM_UP = 0.2  # share of the steps in which the learning rate rises
SMOOTHING = 0.1  # of labels: the logits stay moderate
# pytorchvideo starts the last gamma of every residual branch at zero, where 120 steps would leave it near.
BRANCH_GAMMA = 0.25

Batch = tuple[torch.Tensor, torch.Tensor]


def recipe(size: int | None = None) -> Recipe:
    """Return x3d_s of two classes, for frames of its own or of another size."""
    given = get("x3d_s")
    values = {"num_classes": str(len(digits.LABELS)), **({} if size is None else {"size": str(size)})}
    return given.fitted(given.values(values))


def network(of: Recipe) -> nn.Module:
    """Build the network of a recipe that `recipe` gave."""
    _, _, frames, size, _ = of.inputs[0].at(1)
    net = of.network(num_classes=len(digits.LABELS), frames=frames, size=size)
    return net.to(memory_format=torch.channels_last_3d)


def pairs(of: Recipe, split: digits.Split, count: int, seed: int) -> Iterator[Batch]:
    """Yield `count` training batches. Each clip is there forwards and backwards: only the order of frames tells."""
    assert of.preprocess is not None
    short_side = of.preprocess.short_side or 0
    rng = np.random.default_rng(seed)
    labels = torch.tensor([1] * PAIRS + [0] * PAIRS)
    for _ in range(count):
        drawn = [
            digits.clip(split.images[place], 1, int(rng.integers(2**31)), height=short_side, width=short_side)
            for place in rng.integers(len(split), size=PAIRS)
        ]
        forwards = np.stack([prepare(frames, of.preprocess) for frames in drawn])
        yield laid_out(np.concatenate([forwards, forwards[:, :, ::-1]])), labels


def laid_out(clips: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(clips)).contiguous(memory_format=torch.channels_last_3d)


def fit(net: nn.Module, batches: Iterator[Batch], steps: int, rate: float) -> None:
    """Train in the mode the network is in."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=WARM_UP)
    for step, (clips, labels) in enumerate(batches, start=1):
        loss = functional.cross_entropy(net(clips), labels, label_smoothing=SMOOTHING)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        if step % 10 == 0:
            print(f"  step {step} of {steps}: loss {loss.item():.3f}", flush=True)


def train() -> nn.Module:
    """Return the trained network, in eval mode, for frames of 160 pixels."""
    small, full, split = recipe(SMALL), recipe(), digits.split("train")
    net = network(small).train()
    for name, module in net.named_modules():
        if name.endswith("branch2.norm_c"):
            nn.init.constant_(module.weight, BRANCH_GAMMA)
    fit(net, pairs(small, split, SMALL_STEPS, SEED), SMALL_STEPS, SMALL_RATE)
    print(f"validation at {SMALL} pixels: {told(*accuracy(net.eval(), small, digits.split('validation')))}", flush=True)
    state = net.state_dict()
    net = network(full)
    net.load_state_dict(state)
    update_bn((clips for clips, _ in pairs(full, split, STATISTICS, SEED + 1)), net)
    net.eval()  # the statistics stay as they are: those of so few clips a step would be too rough
    fit(net, pairs(full, split, FULL_STEPS, SEED + 2), FULL_STEPS, FULL_RATE)
    print(f"validation at 160 pixels: {told(*accuracy(net, full, digits.split('validation')))}", flush=True)
    return net


def accuracy(net: nn.Module, of: Recipe, split: digits.Split) -> tuple[int, int]:
    """Return how many clips of a split the network names right, and how many there are."""
    assert of.preprocess is not None
    right = 0
    with torch.inference_mode():
        for place in range(len(split)):
            logits = net(laid_out(prepare(split.clip(place), of.preprocess)[None]))
            right += int(logits.argmax() == split.labels[place])
    return right, len(split)


def told(right: int, count: int) -> str:
    low, high = wilson(right, count)
    return f"{right} of {count} right, {right / count:.1%} (95 % interval {low:.1%} to {high:.1%})"


def write(out: Path, net: nn.Module) -> None:
    """Write everything into a folder beside `out`, then give it its name."""
    partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        state = {name: tensor.contiguous().clone() for name, tensor in net.state_dict().items()}
        torch.save({"model_state_dict": state}, partial / "digits.pt")
        (partial / "labels.txt").write_text("".join(f"{label}\n" for label in digits.LABELS))
        digits.split("test").save(partial / "test.npz")
        (partial / "calibration").mkdir()
        calibration = digits.split("calibration")
        for place in range(len(calibration)):
            np.save(partial / "calibration" / f"{place:02d}.npy", calibration.clip(place))
        partial.chmod(0o755)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a two-class X3D-S on moving digits.")
    parser.add_argument("out", type=Path, help="folder to make")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of PyTorch (default 2)")
    given = parser.parse_args()
    out = given.out.absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        sys.exit(f"{given.out} stands already: give another folder, or remove it first")
    out.parent.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(given.threads)
    torch.manual_seed(SEED)
    begun = time.monotonic()
    net = train()
    print(f"trained in {time.monotonic() - begun:.0f} s", flush=True)
    write(out, net)
    print(f"test: {told(*accuracy(net, recipe(), digits.split('test')))}")


if __name__ == "__main__":
    main()

"""What a new frame costs a stream: one step beside the whole window again; and whether time, memory and drift stay.

    python benchmarks/streaming.py                       the networks over frames, full size: 500 steps each
    python benchmarks/streaming.py resnet50_gru          this one
    python benchmarks/streaming.py --twins               their reduced twins: 10,000 steps each
    python benchmarks/streaming.py --page                docs/streaming-measured.md again, from the results that stand

A recipe is compiled for the CPU (seeded weights, --int8), and every candidate of its bundle that passed is opened by
the runtime that ships. *window* is `model.run` over the clip of the recipe (16 frames), *step* is one frame through
`model.stream()`; both take turns in one run, on one thread, 95 % intervals. Then a stream goes on for many steps.
Through its last tenth it takes turns with one that begins there: a machine that is slow for a while is so for both.
Measured too: memory gained over the second half, and SQNR against PyTorch that carries its own state, of the first
hundred steps and of the last. Those show other frames: whether age or what is shown makes the difference, the stream
that begins at the last tenth says, which is compared there with a PyTorch that begins there too. Results go to
benchmarks/results/streaming, one file a network; what stands there is kept until --again.
"""

import argparse
import gc
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import kept
import numpy as np
from compiled import by_torch, compiled, opened, shipped
from streaming_page import RESULTS, write_page

import deploy_recipes
from deploy_recipes import Recipe
from deploy_runtime.data import encode

NETWORKS = ("resnet50_lstm", "resnet50_gru", "efficientnet_b5_gru", "resnet50_tecno")
STEPS, TWIN_STEPS = 500, 10_000
EARLY = 100  # steps whose drift the last ones' is compared with
SEED = 7001
BUDGET_S, TWIN_BUDGET_S = 30.0, 6.0  # for one step against window; a twin is there for its many steps
THREADS = 1
RESAMPLES = 1000
TENTHS = 10


def measure(name: str, twin: bool, steps: int) -> dict[str, Any]:
    """Compile one network and measure every candidate of its bundle, each in a process of its own."""
    recipe = deploy_recipes.get(name)
    params = dict(recipe.twin) if twin else {}
    found: dict[str, Any] = {"failed": "", "candidates": {}}
    with tempfile.TemporaryDirectory() as folder:
        bundle, film = Path(folder) / "bundle", Path(folder) / "film.npz"
        found["failed"] = compiled(name, bundle, params)
        if not found["failed"]:
            carried(recipe.fitted(recipe.values(params)), name, params, steps, film)
            for candidate in shipped(bundle):
                result = Path(folder) / "result.json"
                own = [sys.executable, __file__, name, "--of", str(bundle), "--candidate", candidate]
                rest = ["--film", str(film), "--steps", str(steps), "--into", str(result)]
                ended = subprocess.run([*own, *rest], check=False).returncode
                row = json.loads(result.read_text()) if ended == 0 else {"failed": f"the run ended with {ended}"}
                found["candidates"][candidate] = row
                result.unlink(missing_ok=True)
    return {
        "recipe": name,
        "twin": twin,
        "params": params,
        "frames": recipe.fitted(recipe.values(params)).frames,
        "steps": steps,
        **found,
    }


def film_of(recipe: Recipe, steps: int) -> Iterator[dict[str, np.ndarray]]:
    """Yield so many frames of synthetic clips, one after the other, as a step takes them."""
    from deploy_compile import synthetic

    for start in range(0, steps, recipe.frames):
        clip = synthetic.sample(recipe, SEED, start // recipe.frames)
        for place in range(min(recipe.frames, steps - start)):
            yield {
                tensor.name: clip[tensor.name].take([place], tensor.layout.index("T")) for tensor in recipe.data_inputs
            }


def carried(recipe: Recipe, name: str, params: dict[str, str], steps: int, path: Path) -> None:
    """Write PyTorch's logits for every frame of the film, its own state carried on, and for its last tenth afresh."""
    from deploy_compile.cache import Stages
    from deploy_compile.load import load, module
    from deploy_compile.uncertainty import Uncertainty
    from deploy_runtime import device_cache

    stages = Stages(device_cache.folder(), lambda *_: None, lambda *_: None)
    net = module(stages(load, recipe, name, params, "seeded", None, Uncertainty()))
    end = islice(film_of(recipe, steps), last_tenth(steps), None)
    np.savez(path, logits=by_torch(net, recipe, film_of(recipe, steps)), afresh=by_torch(net, recipe, end))


def stream(name: str, bundle: Path, candidate: str, film: Path, steps: int) -> dict[str, Any]:
    """Measure one candidate, in this process."""
    from deploy_compile.stream_parity import sqnr
    from deploy_runtime import timing

    model = opened(bundle, candidate, THREADS)
    recipe = deploy_recipes.get(name)
    recipe = recipe.fitted(recipe.values(model.manifest.params))
    with np.load(film) as arrays:
        wanted, afresh = arrays["logits"], arrays["afresh"]
    frames = list(film_of(recipe, recipe.frames))
    clip = {key: np.concatenate([frame[key] for frame in frames], axis=1) for key in frames[0]}
    turning = model.stream()
    runners = {
        "window": lambda: _seconds(lambda: model.run(clip)),
        "step": lambda: _seconds(lambda: turning.step(frames[0], copy=False)),
    }
    budget = TWIN_BUDGET_S if model.manifest.params else BUDGET_S
    ratio = timing.interleave(runners, budget, "window")
    value, low, high = timing.ratio_interval(ratio["window"], ratio["step"])
    both, memory = {"old": model.stream(), "new": model.stream()}, 0
    said = {"old": np.empty_like(wanted), "new": np.empty_like(afresh)}
    tenth = last_tenth(steps)
    both["new"].step(frames[0], copy=False)  # its arrays are made now, not while memory is watched
    both["new"].reset()
    spent: dict[str, list[float]] = {which: [] for which in both}
    for place, frame in enumerate(film_of(recipe, steps)):
        if place == steps // 2:
            memory = resident()
        turns = [] if place < tenth else [*both][:: 1 if place % 2 else -1]
        for which in turns or ["old"]:
            begun = time.perf_counter()
            answers = both[which].step(frame, copy=False)
            spent[which] += [time.perf_counter() - begun] * bool(turns)
            said[which][:, place - (tenth if which == "new" else 0)] = answers["logits"][:, 0]
    gained = resident() - memory
    slope = timing.ratio_interval(spent["old"], spent["new"])
    return {
        "failed": "",
        "step_ms": round(float(np.median(ratio["step"])) * timing.MS, 3),
        "window_ms": round(float(np.median(ratio["window"])) * timing.MS, 3),
        "ratio": encode([value, low, high]),
        "rounds": len(ratio["step"]),
        "old_over_new": encode(list(slope)),
        "gained_bytes": gained,
        "first_db": round(sqnr(wanted[:, :EARLY], said["old"][:, :EARLY]), 2),
        "last_db": round(sqnr(wanted[:, -EARLY:], said["old"][:, -EARLY:]), 2),
        "tenth_db": round(sqnr(wanted[:, tenth:], said["old"][:, tenth:]), 2),
        "afresh_db": round(sqnr(afresh, said["new"]), 2),
        "agreement": float(np.mean(wanted.argmax(-1) == said["old"].argmax(-1))),
    }


def last_tenth(steps: int) -> int:
    """Return the step with which the last tenth begins."""
    return steps - steps // TENTHS


def resident() -> int:
    """Return the bytes of memory that this process holds."""
    gc.collect()
    text = Path("/proc/self/statm").read_text().split()[1]
    return int(text) * 4096


def _seconds(run: Any) -> float:
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


def main() -> None:
    parser = kept.parser(__doc__, "NETWORK")
    parser.add_argument("--twins", action="store_true", help="their reduced twins, for more steps")
    parser.add_argument("--steps", type=int, help=f"default: {STEPS}, of twins {TWIN_STEPS}")
    for option in ("--of", "--candidate", "--film", "--into"):
        parser.add_argument(option, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.of:
        result = stream(given.names[0], Path(given.of), given.candidate, Path(given.film), given.steps)
        Path(given.into).write_text(json.dumps(result))
        return
    suffix, steps = ("-twin", TWIN_STEPS) if given.twins else ("", STEPS)
    wanted = () if given.page else [f"{name}{suffix}" for name in given.names or NETWORKS]
    kept.keep(
        RESULTS,
        wanted,
        given.again,
        lambda name: measure(name.removesuffix("-twin"), given.twins, given.steps or steps),
    )
    write_page()


if __name__ == "__main__":
    main()

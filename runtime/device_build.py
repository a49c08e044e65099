"""Build a bundle's engine on the device that will run it, once: the first form of the graph that builds and passes.

int8_fp16 is tried first, then int8, fp16 and fp32; of each precision also the other forms that the bundle ships, for
what some versions of TensorRT refuse (Q/DQ with fp16 scales on Orin). Every try is a process of its own, so that a
crash of the compiler is a line, not the end. What passed the golden samples is remembered, and `load` takes it from
then on; a second call finds the engine by its key and builds nothing.

Not run on hardware: what was checked without a GPU is every call of the builder (see `tensorrt_build`) and, with a
stand-in for the library, the order of the tries and what each failure says.
"""

import hashlib
import json
import multiprocessing
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from deploy_runtime import backend_tensorrt, device_cache, engine_key, golden, manifest, proof, tensorrt_build
from deploy_runtime.data import encode
from deploy_runtime.device_audit import audit, expected
from deploy_runtime.engine_key import Made
from deploy_runtime.errors import DeployError, GateError
from deploy_runtime.evidence import Candidate, Manifest, Precision
from deploy_runtime.machine import free_memory, physical_cores
from deploy_runtime.result import Row
from deploy_runtime.spec import Batch, Tensor
from deploy_runtime.tensorrt_build import RefusedError, Settings
from deploy_runtime.tensorrt_layers import inspected, precisions

TRIED_FIRST: tuple[Precision, ...] = ("int8_fp16", "int8", "fp16", "fp32")  # on a GPU, the likely fastest first
OLDEST, NEWEST = (10, 3), (12,)  # TensorRT from the one, before the other
BUILD_S = 7200.0  # the longest one build may take: a large network on a small device
DISK_TIMES, MEMORY_TIMES = 2, 4  # an engine, and a build's working memory, over the bytes of the graph: at most seen
SPARE = 512 * 2**20  # bytes left for everything else
TIMING_CACHE = "timing.cache"
Said = Callable[[str], None]
Apart = Callable[[Path, str, Path, Candidate, Manifest, Settings, Said], str]


def build(
    bundle: str | Path, settings: Settings, every: bool, said: Said, apart: Apart | None = None
) -> tuple[Row, ...]:
    """Build until one engine passes, or with `every` all of them; a row each. `said` hears what is going on.

    `apart` builds one form of a graph and says why it could not, or nothing; in a process of its own by default.

    Raises DeployError where nothing can be built here, GateError where nothing that was built passes.
    """
    folder = Path(bundle)
    found = manifest.read(folder)
    manifest.verify_files(folder, found)
    rows = candidates(found)
    version = backend_tensorrt.version()
    _check_version(version)
    digest = manifest.digest(folder)
    samples = golden.read(folder, "inputs", found.inputs, found.golden.samples)
    answers = golden.read(folder, "outputs", found.outputs, found.golden.samples)
    told: list[Row] = []
    for row in rows:
        reason = _stand(folder, found, row, version, settings, said, apart or built_apart)
        if reason:
            told.append(Row(row.name, "failed", reason, candidate=row.name))
            said(f"{row.name}: {reason}")
            continue
        ran = golden.run(folder, found, row, samples, answers, physical_cores())
        told += [audit(folder, found, row), ran]
        for one in told[-2:]:
            said(f"{one.name}: {one.outcome}, {one.detail}")
        if ran.outcome == "passed":
            proof.keep(digest, row)
            if not every:
                break
    if not any(row.outcome == "passed" and row.name == row.candidate for row in told):
        raise GateError(
            f"no engine of {found.name} was built here that passes: {'; '.join(f'{r.name}: {r.detail}' for r in told)}",
            "Send this with the versions that are installed; until then the device runs none of these.",
        )
    return tuple(told)


def candidates(found: Manifest) -> list[Candidate]:
    """Return what a device may build, in the order in which it tries. Raises DeployError where there is nothing."""
    rows = [row for row in found.candidates if row.backend == "tensorrt" and row.file is not None]
    if not rows:
        raise DeployError(
            f"{found.name} ships no graph for a device to build",
            "Make a package for it: deploy-compile package BUNDLE --target jetson-jp6 (or another).",
        )
    return sorted(rows, key=lambda row: TRIED_FIRST.index(row.precision))


def plan(bundle: str | Path, into: Path) -> None:
    """Copy the best engine that stands here to `into`, for a server that loads plans. Raises DeployError."""
    folder = Path(bundle)
    found = manifest.read(folder)
    version, digest = backend_tensorrt.version(), manifest.digest(folder)
    for row in candidates(found):
        engine = engine_key.place(folder / str(row.file), version, found.batch)
        if engine_key.made(engine) is not None and proof.kept(digest, row):
            with device_cache.replacing(into) as partial:
                shutil.copyfile(engine, partial)
            return
    raise DeployError("no engine stands here that passed", "Run build without --plan first and read what it says.")


def _check_version(version: str) -> None:
    number = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if not OLDEST <= number < NEWEST:
        raise DeployError(
            f"TensorRT {version} is installed, and graphs like these build with 10.3 up to 11",
            f"Install one of those: {backend_tensorrt.INSTALL}",
        )


def _stand(
    folder: Path, found: Manifest, row: Candidate, version: str, settings: Settings, said: Said, apart: Apart
) -> str:
    """See to it that the engine of a candidate stands in the cache; why it does not, or nothing."""
    graph = folder / str(row.file)
    engine = engine_key.place(graph, version, found.batch)
    if (made := engine_key.made(engine)) is not None:
        if manifest.sha256(engine) == made.engine_sha256:
            said(f"{row.name}: its engine stands here, built in {made.seconds:.0f} s from {made.graph}")
            return ""
        said(f"{row.name}: its engine was changed since it was built; it is built again")
    cache = device_cache.writable(engine_key.FOLDER)
    if cache is None:
        raise DeployError(
            f"{device_cache.folder()} cannot be written, where the engine belongs",
            f"Set {device_cache.VARIABLE} to a folder that can.",
        )
    reasons = []
    for form in (str(row.file), *row.also):
        if short := _short(folder / form, cache):
            raise DeployError(short, "Free some, or build where there is more; nothing was begun.")
        said(f"{row.name}: building from {form} with TensorRT {version}; minutes, up to an hour on a small device")
        reason = apart(folder / form, form, engine, row, found, settings, said)
        if not reason:
            return ""
        reasons.append(f"{form}: {reason}")
    return "; ".join(reasons)


def _short(graph: Path, cache: Path) -> str:
    """Say what is not enough for a build, by rule of thumb, or nothing."""
    size = sum(path.stat().st_size for path in (graph, graph.with_name(f"{graph.name}.data")) if path.exists())
    disk, memory = shutil.disk_usage(cache).free, free_memory()
    for what, least, there in (("disk", DISK_TIMES, disk), ("memory", MEMORY_TIMES, memory)):
        needed = least * size + SPARE
        if there is not None and there < needed:
            return f"a build from {graph.name} needs about {needed >> 20} MiB of {what}, and {there >> 20} are free"
    return ""


def built_apart(
    graph: Path, form: str, engine: Path, row: Candidate, found: Manifest, settings: Settings, said: Said
) -> str:
    """Build in a process of its own; why it failed, or nothing."""
    context = multiprocessing.get_context("spawn")
    pipe, child = context.Pipe()
    heavy = tuple(expected(graph.parents[1], row.precision))
    args = (child, graph, form, engine, heavy, found.inputs, found.batch, settings)
    process = context.Process(target=_serve, args=args, daemon=True)
    process.start()
    child.close()
    try:
        for kind, words in _messages(pipe):
            if kind == "said":
                said(f"  {words}")
            else:
                return str(words)
        process.join()
        return f"the compiler ended with {process.exitcode}: out of memory is likely, or it crashed"
    finally:
        pipe.close()
        process.kill()
        process.join()


def _messages(pipe: Connection) -> Iterator[tuple[str, str]]:
    until = time.monotonic() + BUILD_S
    while True:
        if not pipe.poll(max(0.0, until - time.monotonic())):
            yield "done", f"it took more than {BUILD_S / 3600:g} hours"
            return
        try:
            yield pipe.recv()
        except EOFError:
            return


def _serve(
    pipe: Connection,
    graph: Path,
    form: str,
    engine: Path,
    heavy: Sequence[str],
    inputs: Sequence[Tensor],
    batch: Batch,
    settings: Settings,
) -> None:
    """Run in the process: build, and keep the engine with what is known of it. Answers ("done", reason or nothing)."""
    try:
        trt, _ = backend_tensorrt.libraries()
        made_in(trt, graph, form, engine, heavy, inputs, batch, settings, lambda words: pipe.send(("said", words)))
    except (RefusedError, DeployError) as error:
        pipe.send(("done", error.message))
    else:
        pipe.send(("done", ""))


def made_in(
    trt: Any,
    graph: Path,
    form: str,
    engine: Path,
    heavy: Sequence[str],
    inputs: Sequence[Tensor],
    batch: Batch,
    settings: Settings,
    said: Said,
) -> Made:
    """Build with a library and keep the engine, its timing cache and what is known of it in the device's cache."""
    begun = time.monotonic()
    timing = engine.parent / TIMING_CACHE
    kept = timing.read_bytes() if timing.exists() else b""
    plan = tensorrt_build.build(trt, graph, inputs, batch, replace(settings, timing_cache=kept), said)
    layers = precisions(inspected(trt, plan.content), heavy)
    made = Made(form, hashlib.sha256(plan.content).hexdigest(), time.monotonic() - begun, layers)
    device_cache.write(engine, plan.content)
    device_cache.write(engine.with_suffix(".json"), json.dumps(encode(made), indent=1, sort_keys=True).encode())
    if plan.timing_cache:
        device_cache.write(timing, plan.timing_cache)
    return made

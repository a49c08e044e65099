"""Stages kept by content: a second run does no work, a killed run goes on where it was, two runs at once do no harm.

The key of a stage is everything that can change its result: its arguments, the content of the files they name, the
source of the stage's module and of all of ours that it imports, the versions of the libraries, the machine's CPU.
A result appears whole or not at all: it is written under a temporary name, synced, then renamed. The trap: a path in
an argument that lies inside the cache counts by its place there, which holds the key of the stage that wrote it.
"""

import functools
import hashlib
import json
import secrets
import shutil
import time
import typing
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, TypeVarTuple

from filelock import FileLock

from deploy_compile import promises
from deploy_compile.disk import sync, told
from deploy_compile.fingerprint import environment, fingerprint, source_digest
from deploy_compile.results import Built
from deploy_compile.trim import trim
from deploy_runtime.data import decode, encode
from deploy_runtime.errors import DeployError

R = TypeVar("R")
A = TypeVarTuple("A")


class Stages:
    """Runs stages through the cache in `folder`.

    `started(stage, detail)` hears of each that begins to work, `finished(stage, detail, seconds)` of each that ended,
    None seconds meaning that it was kept; `detail` names the candidate or the precision.
    """

    def __init__(
        self, folder: Path, started: Callable[[str, str], Any], finished: Callable[[str, str, float | None], Any]
    ) -> None:
        self.folder = folder / "stages"
        self.started, self.finished = started, finished
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DeployError(
                f"the cache folder {folder} cannot be made: {error.strerror}",
                "Set DEPLOY_CACHE to a folder that can be written.",
            ) from error

    def __call__(self, stage: Callable[[Path, *A], R], *args: *A) -> R:
        """Return the stage's result for these arguments, from the cache where it stands there."""
        name, detail = stage.__name__, _detail(args)
        kind: type[R] = typing.get_type_hints(stage)["return"]
        final = self.folder / f"{name}-{self.key(stage, args)}"
        kept: R | None = self._read(kind, final)
        if kept is None:
            with FileLock(f"{final}.lock"):  # another process may be making it: wait, then look again
                kept = self._read(kind, final)
                if kept is None:
                    return self._work(stage, args, final, kind, detail)
        self.finished(name, detail, None)
        return kept

    def _work(self, stage: Callable[..., R], args: tuple[Any, ...], final: Path, kind: type[R], detail: str) -> R:
        self.started(stage.__name__, detail)
        begun = time.monotonic()
        self._make(stage, args, final)
        self.finished(stage.__name__, detail, time.monotonic() - begun)
        made = self._read(kind, final)
        assert made is not None, f"{stage.__name__} names a path that it did not write"
        return made

    def whole(self, function: str, kind: type[R], make: Callable[[], R], *args: Any) -> R:
        """Return what `make` makes of `args`, or made before: a whole run, remembered so that the same again needs
        not even import `function` (`module:name`) and all that it imports."""
        final = self.folder / f"whole-{self._digest(function, function.partition(':')[0], args)}.json"
        kept: R | None = self._decoded(kind, final)
        if kept is not None:
            return kept
        result = make()
        partial = final.with_name(f"{final.name}.tmp-{secrets.token_hex(4)}")
        partial.write_text(json.dumps(_move(encode(result), {str(self.folder): "{cache}"})))
        partial.replace(final)
        return result

    def each(self, workers: int, stage: Callable[[Path, *A], R], arguments: Iterable[tuple[*A]]) -> list[R]:
        """Run one stage for several arguments, `workers` at a time; results in the order of the arguments."""

        def one(args: tuple[*A]) -> R:
            return self(stage, *args)

        with ThreadPoolExecutor(workers) as pool:
            return list(pool.map(one, arguments))

    def key(self, stage: Callable[..., Any], args: tuple[Any, ...]) -> str:
        """Digest everything that can change the stage's result."""
        return self._digest(stage.__qualname__, stage.__module__, args)

    def _digest(self, name: str, module: str, args: tuple[Any, ...]) -> str:
        parts = [name, source_digest(module), environment(), self._plain(args)]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]

    def _make(self, stage: Callable[..., Any], args: tuple[Any, ...], final: Path) -> None:
        for stale in final.parent.glob(f"{final.name}.tmp-*"):
            shutil.rmtree(stale, ignore_errors=True)  # a killed run's; nobody else writes here while we hold the lock
        partial = final.with_name(f"{final.name}.tmp-{secrets.token_hex(4)}")
        partial.mkdir()
        try:
            result = stage(partial, *args)
            promises.check(stage.__name__, args, result)
            text = json.dumps(_move(encode(result), {str(partial): "{out}", str(self.folder): "{cache}"}))
            (partial / "result.json").write_text(text)
            sync(partial)
            partial.rename(final)
        except OSError as error:
            raise told(error, partial) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            trim()

    def _read(self, kind: type[R], final: Path) -> R | None:
        return self._decoded(kind, final / "result.json")

    def _decoded(self, kind: type[R], file: Path) -> R | None:
        """Read a result; None where there is none, or where a path that it names is gone from the cache."""
        try:
            data = json.loads(file.read_text())
        except FileNotFoundError:
            return None
        places = {"{out}": str(file.parent), "{cache}": str(self.folder)}
        whole = all(Path(path).exists() for path in _paths(_move(data, places), str(self.folder)))
        return decode(kind, _move(data, places), file.parent.name) if whole else None

    def _plain(self, value: Any) -> Any:  # noqa: PLR0911 - one line a kind of value
        """Turn an argument into what stands for it in the key."""
        if isinstance(value, Path):
            if value.is_relative_to(self.folder):
                return f"{{cache}}/{value.relative_to(self.folder).as_posix()}"
            return fingerprint(value)
        if is_dataclass(value) and not isinstance(value, type):
            return [type(value).__name__, *(self._plain(getattr(value, f.name)) for f in fields(value))]
        if isinstance(value, Mapping):
            return [[str(key), self._plain(item)] for key, item in sorted(value.items(), key=str)]
        if isinstance(value, (tuple, list)):
            return [self._plain(item) for item in value]
        if isinstance(value, range):
            return str(value)
        if isinstance(value, functools.partial):
            return [self._plain(value.func), self._plain(value.args), self._plain(value.keywords)]
        if callable(value):
            return [value.__qualname__, source_digest(value.__module__)]
        return encode(value)


def _detail(args: tuple[Any, ...]) -> str:
    """The candidate that a stage works on, or what words it was given."""
    built = [arg.name for arg in args if isinstance(arg, Built)]
    return " ".join(built or [arg for arg in args if isinstance(arg, str)])


def _move(data: Any, places: Mapping[str, str]) -> Any:
    if isinstance(data, dict):
        return {key: _move(item, places) for key, item in data.items()}
    if isinstance(data, list):
        return [_move(item, places) for item in data]
    if isinstance(data, str):
        for old, new in places.items():
            if data == old or data.startswith(f"{old}/"):
                return new + data[len(old) :]
    return data


def _paths(data: Any, root: str) -> list[str]:
    """Every string that is a path under `root`."""
    if isinstance(data, dict):
        return [path for item in data.values() for path in _paths(item, root)]
    if isinstance(data, list):
        return [path for item in data for path in _paths(item, root)]
    return [data] if isinstance(data, str) and data.startswith(f"{root}/") else []

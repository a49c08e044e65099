"""`manifest.json`: read with suspicion, written once. docs/bundle.md documents the format.

A bundle comes over networks and USB sticks: its format number is looked at before anything else, every path must lie
inside the folder, and `verify_files` compares each byte with the digests. The trap: digests prove that the files are
those of this manifest, not who wrote it; compare `digest` with the one that was signed for.
"""

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from deploy_runtime import device_cache
from deploy_runtime.data import decode, encode
from deploy_runtime.errors import DeployError
from deploy_runtime.evidence import File, Manifest

FORMAT = 1  # raised when an older runtime would misread a bundle
NAME = "manifest.json"
MOST_BYTES = 16 * 2**20  # of manifest.json: thousands of times what one holds, and nothing that fills the memory
CHUNK_BYTES = 2**20
_AGAIN = "Copy the bundle again from where it came, or build it again."


def read(bundle: Path) -> Manifest:
    """Read and check the manifest of a bundle folder. Raises DeployError naming what does not fit."""
    data = _parse(_bytes(bundle))
    number = data.get("format")
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise DeployError(f"{bundle / NAME} has no format number", f"It is not the manifest of a bundle. {_AGAIN}")
    if number > FORMAT:
        raise DeployError(
            f"this bundle has format {number}, this runtime reads up to {FORMAT}",
            "Update deploy-runtime: pip install -U deploy-runtime",
        )
    manifest = decode(Manifest, data)
    _check(bundle, manifest)
    return manifest


def verify_files(bundle: Path, manifest: Manifest) -> None:
    """Compare every file of the folder with the manifest: none missing, none more, none changed. Raises DeployError."""
    there, listed = set(_files(bundle)), {file.path for file in manifest.files}
    if missing := sorted(listed - there):
        raise DeployError(f"{bundle} lacks {_some(missing)}", _AGAIN)
    if extra := sorted(there - listed):
        raise DeployError(
            f"{bundle} holds {_some(extra)}, which its manifest does not list",
            "A bundle is never changed once written: remove what was added, or copy it again from where it came.",
        )
    for file in manifest.files:
        size = _size(bundle / file.path)
        if size != file.bytes:
            raise DeployError(f"{bundle / file.path} has {size} bytes instead of {file.bytes}", _AGAIN)
        if sha256(bundle / file.path) != file.sha256:
            raise DeployError(f"{bundle / file.path} was changed: its sha256 is not the manifest's", _AGAIN)


def write(folder: Path, manifest: Manifest) -> Manifest:
    """List the folder's files in the manifest, sorted, and write `manifest.json`. Raises OSError, ValueError."""
    files = tuple(File(path, sha256(folder / path), _size(folder / path)) for path in sorted(_files(folder)))
    manifest = replace(manifest, files=files)
    _check(folder, manifest)
    text = json.dumps(encode(manifest), indent=1, sort_keys=True, allow_nan=False) + "\n"
    device_cache.write(folder / NAME, text.encode())
    return manifest


def digest(bundle: Path) -> str:
    """Return the sha256 of `manifest.json`, which stands for the whole bundle: what a person signs."""
    return hashlib.sha256(_bytes(bundle)).hexdigest()


def sha256(path: Path) -> str:
    """Return the sha256 of a file in hexadecimal, read piece by piece. Raises DeployError where it cannot be read."""
    state = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                state.update(chunk)
    except OSError as error:
        raise DeployError(f"{path} cannot be read: {error.strerror}", _AGAIN) from error
    return state.hexdigest()


def _size(path: Path) -> int:
    """Return the size of a regular file; opening anything else, a pipe say, could wait for ever."""
    try:
        facts = path.stat()
    except OSError as error:
        raise DeployError(f"{path} cannot be read: {error.strerror}", _AGAIN) from error
    if not stat.S_ISREG(facts.st_mode):
        raise DeployError(f"{path} is not a file", _AGAIN)
    return facts.st_size


def _bytes(bundle: Path) -> bytes:
    path = bundle / NAME
    if not bundle.is_dir():
        kind = "is a file" if bundle.exists() else "does not exist"
        raise DeployError(f"{bundle} {kind}", "Give the folder of a bundle: the one that holds manifest.json.")
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise DeployError(f"{bundle} holds no {NAME}", "Give the folder of a bundle.") from None
    except OSError as error:
        raise DeployError(f"{path} cannot be read: {error.strerror}", _AGAIN) from error
    if len(content) > MOST_BYTES:
        raise DeployError(f"{path} is larger than {MOST_BYTES >> 20} MiB", f"No manifest is. {_AGAIN}")
    return content


def _parse(content: bytes) -> dict[str, Any]:
    try:
        data = json.loads(content.decode(), object_pairs_hook=_object, parse_constant=_constant)
    except (ValueError, RecursionError) as error:
        raise DeployError(f"{NAME} is not JSON: {error}", _AGAIN) from error
    if not isinstance(data, dict):
        raise DeployError(f"{NAME} holds no object", _AGAIN)
    return data


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) != len(pairs):
        raise ValueError("a field stands there twice")
    return data


def _constant(word: str) -> Any:
    raise ValueError(f"{word} is no number in JSON")


def _check(bundle: Path, manifest: Manifest) -> None:
    """Check what the types do not say. Raises DeployError."""
    paths = [file.path for file in manifest.files]
    for path in paths:
        _check_path(bundle, path)
    if len(set(paths)) != len(paths) or NAME in paths:
        raise DeployError("the manifest lists a file twice, or itself", _AGAIN)
    for candidate in manifest.candidates:
        if candidate.file is not None:
            _check_path(bundle, candidate.file)
            if candidate.file not in paths:
                raise DeployError(f"{candidate.name} opens {candidate.file}, which the manifest does not list", _AGAIN)
            if candidate.precision not in manifest.limits:
                raise DeployError(f"the manifest ships {candidate.name} without limits for it", _AGAIN)
    count = len(manifest.candidates)
    for word, index in (("chosen", manifest.chosen), ("fallback", manifest.fallback)):
        if index is not None and not 0 <= index < count:
            raise DeployError(f"the manifest's {word} candidate is number {index} of {count}", _AGAIN)
    if manifest.candidates[manifest.chosen].file is None:
        raise DeployError(f"the chosen {manifest.candidates[manifest.chosen].name} is not in the bundle", _AGAIN)
    batch = manifest.batch
    if not 1 <= batch.least <= batch.best <= batch.most:
        raise DeployError(f"the manifest's batch sizes {batch.least}:{batch.best}:{batch.most} do not rise", _AGAIN)
    _check_tensors(manifest)


def _check_tensors(manifest: Manifest) -> None:
    for word, tensors in (("inputs", manifest.inputs), ("outputs", manifest.outputs)):
        names = [tensor.name for tensor in tensors]
        if not names or len(set(names)) != len(names):
            raise DeployError(
                f"the manifest's {word} are {', '.join(names) or 'none'}", f"Each is named once. {_AGAIN}"
            )
        for tensor in tensors:
            if not tensor.shape or any(isinstance(dim, int) and dim < 1 for dim in tensor.shape):
                raise DeployError(f"the manifest's {tensor.name} has the shape {list(tensor.shape)}", _AGAIN)


def _check_path(bundle: Path, path: str) -> None:
    """Refuse a path that is not plainly inside the bundle, on any system, or is led out of it by a link."""
    plain = PurePosixPath(path)
    parts = plain.parts
    bad = not parts or plain.is_absolute() or ".." in parts or str(plain) != path
    if bad or any(char in '\\:*?"<>|' or ord(char) < 32 for char in path):
        raise DeployError(f"the manifest names {path!r}, which is not a path inside the bundle", _AGAIN)
    try:
        inside = (bundle / path).resolve().is_relative_to(bundle.resolve())
    except (OSError, RuntimeError):  # a link that leads to itself
        inside = False
    if not inside:
        raise DeployError(f"{bundle / path} is a link that leaves the bundle", "Put the file itself there.")


def _files(bundle: Path) -> Iterator[str]:
    """Yield the path of every file but the manifest, with `/`; a link to a folder counts as a file."""
    for folder, folders, files in os.walk(bundle):
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        for name in (*files, *links):
            path = (Path(folder) / name).relative_to(bundle).as_posix()
            if path != NAME:
                yield path


def _some(paths: list[str]) -> str:
    return ", ".join(paths[:3]) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")

"""`deploy-compile package`: one archive with what one target needs, the same bytes for the same bundle and tools.

Written whole or not at all, with its sha256 beside it. The traps: a tar keeps times, owners, modes and the order that a
folder happened to have, and gzip the time, so all of them are fixed; and the oldest tar format is used (ustar), since
`deploy_runtime.archive` reads no extension headers.
"""

import gzip
import re
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from deploy_compile import device_files, edge_wheel, model_card, package_bundle, sbom
from deploy_compile.disk import told
from deploy_compile.targets import Target, get
from deploy_runtime import device_cache
from deploy_runtime import manifest as manifests
from deploy_runtime.archive import BUNDLE, SUM
from deploy_runtime.errors import DeployError
from deploy_runtime.evidence import Manifest

LEVEL = 6  # of gzip: weights hardly shrink, whatever it costs


@dataclass(frozen=True)
class Packaged:
    """An archive: its root folder's name, its digest and size, the manifest inside, whether it had to be written."""

    archive: Path
    root: str
    sha256: str
    bytes: int
    manifest: Manifest
    written: bool


def package(bundle: Path, target: str, out: Path | None = None, force: bool = False) -> Packaged:
    """Write the archive of a bundle for a target to `out`, by default beside the bundle, and its `.sha256`.

    Raises UsageError for an unknown target; DeployError where the bundle is damaged or has nothing for the target, or
    where another file stands at `out` and `force` is not given.
    """
    wanted = get(target)
    found = manifests.read(bundle)
    manifests.verify_files(bundle, found)
    root = re.sub("[^A-Za-z0-9_-]", "_", f"{found.name}-{target}")  # a name that any system takes
    beside = bundle.absolute().parent if bundle.name in ("", "..") else bundle.parent
    archive = beside / f"{root}.tar.gz" if out is None else out
    if archive.resolve().is_relative_to(bundle.resolve()):
        raise DeployError(f"{archive} lies in the bundle, which is never changed", "Give --out another folder.")
    if archive.is_dir():
        raise DeployError(f"{archive} is a folder", "Give --out the name of a file, e.g. model.tar.gz.")
    package_bundle.rows_for(found, wanted)  # refused before anything is written
    try:
        archive.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=archive.parent, prefix=".package-") as temporary:
            folder = Path(temporary) / root
            made = _fill(folder, bundle, found, wanted)
            packed = Path(temporary) / "packed"
            pack(folder, packed)
            written = _place(packed, archive, force)
        digest = manifests.sha256(archive)
        device_cache.write(archive.with_name(archive.name + SUM), f"{digest}  {archive.name}\n".encode())
    except OSError as error:
        raise told(error, archive) from error
    return Packaged(archive, root, digest, archive.stat().st_size, made, written)


def said(made: Packaged) -> list[str]:
    """Return what a person reads: the archive, what is in it, what comes next."""
    state = "written" if made.written else "is up to date, nothing to do"
    lines = [f"{made.archive} {state}: {made.bytes / 1e6:.1f} MB, sha256 {made.sha256}", f"  {made.manifest.verdict}"]
    width = max(len(row.name) for row in made.manifest.candidates)
    lines += [f"  {row.name:{width}s}  {row.status:13s}  {row.file}" for row in made.manifest.candidates]
    return [*lines, f"on the device: tar xzf {made.archive.name} && python3 {made.root}/install.py"]


def as_json(made: Packaged) -> dict[str, object]:
    """Return what `--json` prints."""
    rows = made.manifest.candidates
    return {
        "archive": made.archive.as_posix(),
        "root": made.root,
        "sha256": made.sha256,
        "bytes": made.bytes,
        "written": made.written,
        "verdict": made.manifest.verdict,
        "candidates": [{"name": row.name, "status": row.status, "file": row.file} for row in rows],
    }


def _fill(folder: Path, bundle: Path, found: Manifest, target: Target) -> Manifest:
    inner = folder / BUNDLE
    inner.mkdir(parents=True)
    made = package_bundle.write(inner, bundle, found, target)
    wheel = edge_wheel.build(folder / "wheels")
    device_files.write(folder, made, target)
    digest = manifests.digest(inner)
    card = model_card.card(made, digest, found.evaluation, target)
    (folder / "MODEL_CARD.md").write_text(card, encoding="utf-8")
    (folder / "sbom.cdx.json").write_text(sbom.sbom(made, inner, wheel, target), encoding="utf-8")
    return made


def pack(folder: Path, out: Path) -> None:
    """Write a folder as a reproducible `.tar.gz` whose one root is the folder's name. Raises OSError, DeployError."""
    with (
        out.open("wb") as raw,
        gzip.GzipFile("", "wb", LEVEL, raw, mtime=0) as stream,
        tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as packed,
    ):
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            info = tarfile.TarInfo(f"{folder.name}/{path.relative_to(folder).as_posix()}")
            info.size, info.mtime = path.stat().st_size, edge_wheel.EPOCH
            info.mode = 0o755 if path.name in device_files.COMMANDS else 0o644
            with path.open("rb") as file:
                try:
                    packed.addfile(info, file)
                except ValueError as error:  # ustar: files below 8 GiB, names of at most 255 characters
                    raise DeployError(
                        f"{info.name} cannot be packaged: {error}",
                        "Files up to 8 GiB and short names fit an archive: copy the bundle itself instead.",
                    ) from error


def _place(packed: Path, archive: Path, force: bool) -> bool:
    """Move a finished archive to its place; False where the same one stands there."""
    if archive.exists():
        if manifests.sha256(archive) == manifests.sha256(packed):
            return False
        if not force:
            raise DeployError(
                f"{archive} holds something else than this command makes",
                "Give --force to replace it, or --out for another file.",
            )
        archive.with_name(archive.name + SUM).unlink(missing_ok=True)  # never the old one beside the new archive
    with device_cache.replacing(archive) as partial:
        packed.replace(partial)
    return True

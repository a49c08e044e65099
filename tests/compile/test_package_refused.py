"""What is no package: each refusal names what is wrong and leaves everything as it was."""

from dataclasses import replace
from pathlib import Path

import pytest

from deploy_compile.package import Packaged, package
from deploy_runtime import manifest as manifests
from deploy_runtime.errors import DeployError, UsageError
from tests.compile.test_package import changed, files
from tests.runtime import tiny_bundle

pytestmark = pytest.mark.usefixtures("cache")


@pytest.mark.parametrize(
    ("target", "kind", "wrong", "fix"),
    [
        ("jetson", UsageError, "there is no target 'jetson'", "jetson-jp6"),
        ("cuda", DeployError, "has nothing for cuda: it was compiled for cpu, rtx", "--target cuda"),
        ("rtx-turing", DeployError, "has nothing for rtx-turing", "--target rtx-turing"),
    ],
)
def test_a_target_that_cannot_be_served_is_told_with_the_command(
    tmp_path: Path, target: str, kind: type[DeployError], wrong: str, fix: str
) -> None:
    whole = tiny_bundle.write(tmp_path / "bundle")
    with pytest.raises(kind) as caught:
        package(whole, target)
    assert wrong in caught.value.message
    assert fix in caught.value.fix
    assert files(tmp_path) == {f"bundle/{path}" for path in files(whole)}


def test_a_bundle_for_cpus_alone_says_how_to_serve_a_jetson(tmp_path: Path) -> None:
    whole = tiny_bundle.write(tmp_path / "whole")
    copy = changed(whole, tmp_path / "copy", lambda found: replace(found, candidates=found.candidates[:2]))
    with pytest.raises(DeployError, match="it was compiled for cpu") as caught:
        package(copy, "jetson-jp6")
    assert caught.value.fix.endswith("--target jetson-jp6")


def test_a_damaged_bundle_is_refused(tmp_path: Path) -> None:
    whole = tiny_bundle.write(tmp_path / "bundle")
    (whole / "graphs" / "fp32.onnx").write_bytes(b"other")
    with pytest.raises(DeployError, match="instead of"):
        package(whole, "cpu")


def test_an_archive_never_lands_in_its_own_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tiny_bundle.write(tmp_path / "bundle")
    with pytest.raises(DeployError, match="lies in the bundle"):
        package(whole, "cpu", whole / "graphs" / "a.tar.gz")
    monkeypatch.chdir(whole)
    assert package(Path(), "cpu").archive == tmp_path / "toy-cpu.tar.gz"
    manifests.verify_files(whole, manifests.read(whole))


def test_another_file_is_replaced_only_with_force(tmp_path: Path) -> None:
    whole = tiny_bundle.write(tmp_path / "bundle")
    out = tmp_path / "toy.tar.gz"
    out.write_bytes(b"mine")
    with pytest.raises(DeployError, match="holds something else"):
        package(whole, "cpu", out)
    assert out.read_bytes() == b"mine"
    first: Packaged = package(whole, "cpu", out, force=True)
    assert first.written
    assert not package(whole, "cpu", out).written
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["toy.tar.gz", "toy.tar.gz.sha256"]

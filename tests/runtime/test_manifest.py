"""The manifest: its bytes are fixed, and whatever is wrong with a bundle is said in two lines."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy_runtime import manifest as manifests
from deploy_runtime.errors import DeployError
from deploy_runtime.evidence import Candidate
from tests.runtime import tiny_bundle

CHOSEN = (Candidate("openvino", "fp32", "cpu", "passed", file="graphs/fp32.onnx"),)


def change(bundle: Path, **fields: Any) -> None:
    path = bundle / manifests.NAME
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_what_was_written_is_read_and_verified(bundle: Path) -> None:
    manifest = manifests.read(bundle)
    manifests.verify_files(bundle, manifest)
    assert [file.path for file in manifest.files] == [
        "engines/fp32.tensorrt_rtx.engine",
        "golden/inputs.npz",
        "golden/outputs.npz",
        "graphs/fp32.onnx",
    ]
    assert manifests.write(bundle, manifest) == manifest


def test_the_bytes_of_a_manifest_are_fixed(tmp_path: Path) -> None:
    """A change here means that older runtimes read something else: raise FORMAT, and keep reading the old one."""
    (tmp_path / "graphs").mkdir()
    (tmp_path / "graphs" / "fp32.onnx").write_bytes(b"graph")
    manifests.write(tmp_path, tiny_bundle.manifest(CHOSEN * 2))
    expected = Path(__file__).with_name("manifest_format_1.json")
    assert (tmp_path / manifests.NAME).read_bytes() == expected.read_bytes()
    assert manifests.digest(tmp_path) == manifests.sha256(expected)


def test_a_newer_format_is_refused_before_anything_else_is_looked_at(bundle: Path) -> None:
    (bundle / manifests.NAME).write_text('{"format": 7, "a field of the future": []}')
    with pytest.raises(DeployError) as caught:
        manifests.read(bundle)
    assert caught.value.message == "this bundle has format 7, this runtime reads up to 1"
    assert "Update deploy-runtime" in caught.value.fix


@pytest.mark.parametrize("number", [None, "1", True, 0, -1, 1.0])
def test_a_format_that_is_no_number_is_refused(bundle: Path, number: object) -> None:
    change(bundle, format=number)
    with pytest.raises(DeployError, match="has no format number"):
        manifests.read(bundle)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not JSON"),
        (b"[]", "holds no object"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"format": 1, "format": 2}', "stands there twice"),
        (b'{"format": NaN}', "NaN is no number"),
        (b"1" * 10_000, "not JSON"),
        (b'{"format": 1}', r"manifest\.name should be present"),
    ],
)
def test_what_is_no_manifest_is_refused(bundle: Path, content: bytes, said: str) -> None:
    (bundle / manifests.NAME).write_bytes(content)
    with pytest.raises(DeployError, match=said):
        manifests.read(bundle)


def test_a_manifest_that_would_fill_the_memory_is_refused(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifests, "MOST_BYTES", 100)
    with pytest.raises(DeployError, match="larger than"):
        manifests.read(bundle)


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DeployError, match="holds no manifest"):
        manifests.read(tmp_path)
    with pytest.raises(DeployError, match="does not exist"):
        manifests.read(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(DeployError, match="is a file"):
        manifests.read(tmp_path / "file")


@pytest.mark.parametrize(
    "path",
    ["../secret", "graphs/../../secret", "/etc/passwd", "C:/x", "..\\x", "graphs\\x", "", ".", "./x", "a//b", "a/",
     "a\n", "//host/share", "a:stream"],
)  # fmt: skip
def test_a_path_that_leaves_the_bundle_is_refused(bundle: Path, path: str) -> None:
    entry = {"path": path, "sha256": "0" * 64, "bytes": 1}
    data = json.loads((bundle / manifests.NAME).read_text())
    change(bundle, files=[*data["files"], entry])
    with pytest.raises(DeployError, match="not a path inside the bundle"):
        manifests.read(bundle)
    data["candidates"][0]["file"] = path
    change(bundle, files=data["files"], candidates=data["candidates"])
    with pytest.raises(DeployError, match="not a path inside the bundle"):
        manifests.read(bundle)


@settings(max_examples=200)
@given(st.text(alphabet="./\\a:~C", max_size=12))
def test_no_path_that_is_let_through_leads_outside(path: str) -> None:
    bundle = Path("/nowhere/bundle")
    try:
        manifests._check_path(bundle, path)
    except DeployError:
        return
    assert os.path.normpath(bundle / path).startswith("/nowhere/bundle/")


def test_a_link_that_leaves_the_bundle_is_refused(bundle: Path, tmp_path: Path) -> None:
    graph = bundle / "graphs" / "fp32.onnx"
    graph.rename(tmp_path / "elsewhere.onnx")
    graph.symlink_to(tmp_path / "elsewhere.onnx")
    with pytest.raises(DeployError, match="a link that leaves the bundle"):
        manifests.read(bundle)
    graph.unlink()
    graph.symlink_to(graph)
    with pytest.raises(DeployError, match="link"):
        manifests.read(bundle)


def test_one_changed_byte_is_found_and_named(bundle: Path) -> None:
    manifest = manifests.read(bundle)
    graph = bundle / "graphs" / "fp32.onnx"
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)
    with pytest.raises(DeployError, match=r"fp32\.onnx was changed"):
        manifests.verify_files(bundle, manifest)
    graph.write_bytes(content[:-1])
    with pytest.raises(DeployError, match=r"fp32\.onnx has \d+ bytes instead of"):
        manifests.verify_files(bundle, manifest)


def test_a_missing_and_an_extra_file_are_found_and_named(bundle: Path) -> None:
    manifest = manifests.read(bundle)
    (bundle / "golden" / "note.txt").touch()
    with pytest.raises(DeployError, match=r"holds golden/note\.txt, which its manifest does not list"):
        manifests.verify_files(bundle, manifest)
    (bundle / "golden" / "note.txt").unlink()
    (bundle / "more").symlink_to(bundle.parent, target_is_directory=True)
    with pytest.raises(DeployError, match="holds more, which"):
        manifests.verify_files(bundle, manifest)
    (bundle / "more").unlink()
    (bundle / "graphs" / "fp32.onnx").unlink()
    with pytest.raises(DeployError, match=r"lacks graphs/fp32\.onnx"):
        manifests.verify_files(bundle, manifest)


def test_a_pipe_in_place_of_a_file_is_refused_and_not_waited_for(bundle: Path) -> None:
    manifest = manifests.read(bundle)
    (bundle / "golden" / "inputs.npz").unlink()
    os.mkfifo(bundle / "golden" / "inputs.npz")
    with pytest.raises(DeployError, match="is not a file"):
        manifests.verify_files(bundle, manifest)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"chosen": 9}, "chosen candidate is number 9 of 3"),
        ({"chosen": -1}, "chosen candidate is number -1"),
        ({"fallback": 3}, "fallback candidate is number 3"),
        ({"candidates": []}, "chosen candidate is number 0 of 0"),
        ({"batch": {"least": 2, "best": 1, "most": 3}}, "do not rise"),
        ({"batch": {"least": 0, "best": 1, "most": 3}}, "do not rise"),
        ({"inputs": []}, "inputs are none"),
        ({"limits": {}}, "without limits"),
        ({"labels": "abc"}, r"manifest\.labels should be a list"),
        ({"surprise": 1}, r"manifest\.surprise"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(bundle: Path, fields: dict[str, Any], said: str) -> None:
    change(bundle, **fields)
    with pytest.raises(DeployError, match=said):
        manifests.read(bundle)

"""The bill of materials of a package: valid, and it names everything."""

import json

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from deploy_runtime import manifest as manifests
from tests.compile.conftest import Unpacked


@pytest.mark.parametrize("target", ["cpu", "rtx", "jetson-jp6"])
def test_the_bill_of_materials_is_valid_and_names_everything(unpacked: Unpacked, target: str) -> None:
    root = unpacked(target)
    text = (root / "sbom.cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    found, made = json.loads(text), manifests.read(root / "bundle")
    parts = {part["bom-ref"]: part for part in found["components"]}
    (wheel,) = (root / "wheels").iterdir()
    assert parts["runtime"]["hashes"][0]["content"] == manifests.sha256(wheel)
    assert parts["model"]["type"] == "machine-learning-model"
    sums = {one["name"].removeprefix("bundle/"): one["hashes"][0]["content"] for one in parts["model"]["components"]}
    assert sums == {file.path: file.sha256 for file in made.files}
    versions = {name.removeprefix("library:"): one.get("version") for name, one in parts.items() if ":" in name}
    measured = made.provenance.versions
    assert all(version == measured.get(name) for name, version in versions.items())
    assert {"cpu": "openvino", "rtx": "tensorrt_rtx_cu13", "jetson-jp6": "tensorrt"}[target] in versions
    assert found["metadata"]["timestamp"] == made.provenance.created

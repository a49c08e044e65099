"""The bill of materials of a package, CycloneDX 1.6: the wheel, the model with its files, the libraries it needs.

Reproducible: the serial number comes from the bundle's digest and the time from its manifest. The trap: a library is
listed with the version that the bundle was measured with, not the one that a device has; where nothing was measured it
has no version, and a property says so.
"""

# pyright: reportCallIssue=false, reportAttributeAccessIssue=false, reportArgumentType=false
# It does not see through the decorators of the library's classes; mypy does, and checks the calls.

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import LicenseExpression
from cyclonedx.model.tool import ToolRepository
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from packageurl import PackageURL

from deploy_compile.targets import Target
from deploy_runtime import __version__, manifest
from deploy_runtime.archive import BUNDLE
from deploy_runtime.evidence import Manifest

PREFIX = "deploy-compile:"  # of our properties
# The packages that a backend is, by the names that a manifest may record their versions under; the first stands.
PACKAGES = {
    "openvino": ("openvino",),
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "tensorrt_rtx": ("tensorrt_rtx_cu13",),
    "tensorrt": ("tensorrt",),
}
LICENSES = {"openvino": "Apache-2.0", "onnxruntime": "MIT", "onnxruntime-gpu": "MIT", "numpy": "BSD-3-Clause"}


def sbom(made: Manifest, bundle: Path, wheel: Path, target: Target) -> str:
    """Return the JSON of a package whose bundle stands in `bundle`; `wheel` is its edge wheel."""
    digest = manifest.digest(bundle)
    package = Component(
        name=made.name, type=ComponentType.APPLICATION, bom_ref="package", version=digest[:16],
        properties=_properties(target=target.name, bundle_sha256=digest),
    )  # fmt: skip
    runtime = Component(
        name="deploy-runtime", type=ComponentType.LIBRARY, bom_ref="runtime", version=__version__,
        purl=PackageURL("pypi", name="deploy-runtime", version=__version__),
        hashes=[_sha256(manifest.sha256(wheel))], licenses=[LicenseExpression("Apache-2.0")],
        properties=_properties(file=f"wheels/{wheel.name}"),
    )  # fmt: skip
    model, libraries = _model(made, digest), list(_libraries(made, target))
    tool = Component(name="deploy-compile", type=ComponentType.APPLICATION, bom_ref="tool", version=__version__)
    bom = Bom(
        serial_number=uuid5(NAMESPACE_URL, f"urn:sha256:{digest}"),
        metadata=BomMetaData(
            timestamp=datetime.fromisoformat(made.provenance.created),
            component=package,
            tools=ToolRepository(components=[tool]),
        ),
        components=[runtime, model, *libraries],
    )
    bom.register_dependency(package, [runtime, model])
    bom.register_dependency(runtime, libraries)
    text: str = make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string(indent=2)
    return text + "\n"


def _model(made: Manifest, digest: str) -> Component:
    said, calibration = made.provenance, made.provenance.calibration
    files = [
        Component(
            name=f"{BUNDLE}/{file.path}", type=ComponentType.FILE, bom_ref=f"file:{file.path}",
            hashes=[_sha256(file.sha256)], properties=_properties(bytes=str(file.bytes)),
        )
        for file in made.files
    ]  # fmt: skip
    origin = "none" if calibration is None else "synthetic" if calibration.synthetic else "real samples"
    return Component(
        name=made.recipe,
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref="model",
        version=digest[:16],
        description=made.verdict,
        components=files,
        properties=_properties(
            weights=said.weights,
            weights_sha256=said.weights_sha256,
            parameters=str(said.parameters),
            calibration=origin,
            candidates=", ".join(f"{row.name}: {row.status}" for row in made.candidates),
        ),
    )


def _libraries(made: Manifest, target: Target) -> Iterator[Component]:
    names = [PACKAGES[backend] for backend in sorted({row.backend for row in made.candidates})]
    for known in (("numpy",), *names):
        name = next((one for one in known if one in made.provenance.versions), known[0])
        measured = made.provenance.versions.get(name)
        wanted = f"none measured; {target.name} has {target.library}" if target.library else "none measured"
        yield Component(
            name=name,
            type=ComponentType.LIBRARY,
            bom_ref=f"library:{name}",
            version=measured,
            purl=PackageURL("pypi", name=name, version=measured),
            licenses=[LicenseExpression(LICENSES[name])] if name in LICENSES else [],
            properties=_properties(in_package="no", version_measured_with=measured or wanted),
        )


def _properties(**values: str) -> list[Property]:
    return [Property(name=PREFIX + name, value=value) for name, value in values.items()]


def _sha256(content: str) -> HashType:
    return HashType(alg=HashAlgorithm.SHA_256, content=content)

import getpass
import platform

from deploy_compile import machine


def test_facts_name_the_processor_and_nobody() -> None:
    found = machine.facts()
    assert found["cpu"]
    assert int(found["cores"]) >= 1
    text = " ".join(found.values()).split()
    assert platform.node() not in text
    assert getpass.getuser() not in text


def test_versions_leaves_out_what_is_not_installed() -> None:
    found = machine.versions("numpy", "no-such-package")
    assert list(found) == ["numpy"]


def test_identity_is_the_same_twice() -> None:
    assert machine.identity() == machine.identity()
    assert set(machine.instructions()) <= set(machine.ISA_FLAGS)

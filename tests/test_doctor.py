"""The doctor looks at everything and says what to do."""

import json
from importlib.metadata import PackageNotFoundError

from ommatid import api, catalogue, doctor
from ommatid.doctor import EXTRAS, Finding, examine


def found(name: str) -> Finding:
    return next(finding for finding in examine() if finding.name == name)


def test_a_working_installation_is_found_in_order():
    findings = examine()
    assert all(finding.ok for finding in findings)
    names = [finding.name for finding in findings]
    assert {"torch", "torchvision", "lightning", "devices", "torchvision operators", *catalogue.names()} <= set(names)
    assert {f"extra {extra}: {module}" for module, extra in EXTRAS.items()} <= set(names)
    assert len(set(names)) == len(names)


def test_findings_are_plain():
    assert json.loads(json.dumps(Finding("torch", True, "2").to_json())) == {"name": "torch", "ok": True, "text": "2"}


def test_a_missing_package_is_named_with_its_cure(monkeypatch):
    def version(name):
        if name in ("timm", "ray"):
            raise PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(doctor, "version", version)
    assert found("timm") == Finding("timm", False, "not installed: pip install timm")
    optional = found("extra cluster: ray")
    assert optional.ok
    assert "pip install 'ommatid[cluster]'" in optional.text


def test_a_method_that_cannot_be_imported_is_a_fault(monkeypatch):
    def broken(name):
        raise ImportError("libfoo is missing")

    monkeypatch.setattr(api, "method_class", broken)
    name = catalogue.names()[0]
    assert found(name) == Finding(name, False, "libfoo is missing")


def test_wrong_operators_are_a_fault(monkeypatch):
    import torch
    import torchvision

    monkeypatch.setattr(torchvision.ops, "nms", lambda *_: torch.tensor([0, 1, 2]))
    assert not found("torchvision operators").ok


def test_devices_are_named():
    assert "CPU threads, GPUs: " in found("devices").text

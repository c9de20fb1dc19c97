"""The example manifests fit the schemas of Kubernetes and KServe, and each other."""

import copy
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

yaml = pytest.importorskip("yaml", reason="needs the extra limpq-deploy[test]")
jsonschema = pytest.importorskip("jsonschema", reason="needs the extra limpq-deploy[test]")

ROOT = Path(__file__).resolve().parents[2]
MANIFESTS = sorted((ROOT / "docs/kubernetes").glob("*.yaml"))
Document = dict[str, Any]


def documents(file: Path) -> list[Document]:
    return [one for one in yaml.safe_load_all(file.read_text()) if one is not None]


def document(kind: str) -> Document:
    """The one of this kind in the examples."""
    [found] = [one for file in MANIFESTS for one in documents(file) if one["kind"] == kind]
    return copy.deepcopy(found)


@cache
def schema() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((ROOT / "tests/golden/kubernetes.schema.json").read_text())
    return loaded


def problems(found: Document) -> list[str]:
    """What the schema of its kind says against a document; unknown kinds raise KeyError."""
    name = schema()["kinds"][f"{found['apiVersion']}/{found['kind']}"]
    validator = jsonschema.Draft202012Validator({"$ref": f"#/$defs/{name}", "$defs": schema()["$defs"]})
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(found)]


@pytest.mark.parametrize("file", MANIFESTS, ids=lambda file: file.name)
def test_every_document_of_an_example_fits_its_schema(file: Path) -> None:
    found = documents(file)
    assert len(found) >= 2
    for one in found:
        assert problems(one) == []


WRONG: list[tuple[str, Callable[[Document], object], str]] = [
    ("Deployment", lambda one: pod(one).update(container=[]), "'container' was unexpected"),
    ("Deployment", lambda one: triton(one)["livenessProbe"].update(periodSecond=3), "'periodSecond' was unexpected"),
    ("Deployment", lambda one: triton(one)["ports"][0].update(containerPort="http"), "'http' is not of type 'integer'"),
    ("Deployment", lambda one: triton(one).pop("name"), "'name' is a required property"),
    ("Deployment", lambda one: one["spec"].pop("selector"), "'selector' is a required property"),
    ("Service", lambda one: one["spec"]["ports"][0].pop("port"), "'port' is a required property"),
    ("NetworkPolicy", lambda one: one["spec"].update(ingres=[]), "'ingres' was unexpected"),
    ("ServingRuntime", lambda one: one["spec"].update(multimodel=False), "'multimodel' was unexpected"),
    ("ServingRuntime", lambda one: one["spec"].pop("containers"), "'containers' is a required property"),
    ("InferenceService", lambda one: one["spec"].pop("predictor"), "'predictor' is a required property"),
    (
        "InferenceService",
        lambda one: one["spec"]["predictor"]["model"].pop("modelFormat"),
        "'modelFormat' is a required",
    ),
    ("InferenceService", lambda one: one["spec"]["predictor"].update(minReplicas="1"), "'1' is not of type 'integer'"),
]


@pytest.mark.parametrize(("kind", "change", "finding"), WRONG)
def test_the_schema_refuses_a_wrong_document(kind: str, change: Callable[[Document], object], finding: str) -> None:
    one = document(kind)
    change(one)
    assert any(finding in problem for problem in problems(one)), problems(one)


def test_labels_ports_and_volumes_of_the_example_meet() -> None:
    deployment, service, policy = map(document, ("Deployment", "Service", "NetworkPolicy"))
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels
    assert service["spec"]["selector"] == labels
    assert policy["spec"]["podSelector"]["matchLabels"] == labels
    ports = {port["name"]: port["containerPort"] for port in triton(deployment)["ports"]}
    assert ports == {"http": 8000, "grpc": 8001, "metrics": 8002}
    assert {port["targetPort"] for port in service["spec"]["ports"]} == {"http", "grpc"}
    for container, volumes in (
        (triton(deployment), pod(deployment)["volumes"]),
        (document("ServingRuntime")["spec"]["containers"][0], document("ServingRuntime")["spec"]["volumes"]),
    ):
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in volumes}


def test_the_service_behind_kserve_takes_the_runtime_beside_it() -> None:
    runtime, model = document("ServingRuntime"), document("InferenceService")["spec"]["predictor"]["model"]
    assert model["runtime"] == runtime["metadata"]["name"]
    formats = [(one["name"], one["version"]) for one in runtime["spec"]["supportedModelFormats"]]
    assert (model["modelFormat"]["name"], model["modelFormat"]["version"]) in formats
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]
    [container] = runtime["spec"]["containers"]
    assert container["name"] == "kserve-container"  # the name that KServe looks for


def pod(deployment: Document) -> Any:
    return deployment["spec"]["template"]["spec"]


def triton(deployment: Document) -> Any:
    return pod(deployment)["containers"][0]

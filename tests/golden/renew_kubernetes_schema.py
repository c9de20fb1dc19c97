"""Write kubernetes.schema.json: the schemas that the example manifests of docs/kubernetes are held against.

    pip download --no-deps kubernetes-validate==1.37.0 kserve==0.21.0
    python tests/golden/renew_kubernetes_schema.py kubernetes_validate-*.whl kserve-*.whl

Kubernetes' own kinds come from the JSON schemas in kubernetes-validate (made from Kubernetes' OpenAPI, unknown fields
forbidden); KServe's from the classes of its Python SDK, which are generated from its resource definitions and list
every field with its type, and those that must not be missing. Descriptions and status are left out.
"""

import ast
import json
import re
import sys
import zipfile
from pathlib import Path
from typing import Any

KUBERNETES = "kubernetes_validate/kubernetes-json-schema/v1.37.0-local-strict/_definitions.json"
CORE, META = "io.k8s.api.core.v1.", "io.k8s.apimachinery.pkg.apis.meta.v1."
KINDS = {
    "v1/Service": CORE + "Service",
    "v1/ConfigMap": CORE + "ConfigMap",
    "apps/v1/Deployment": "io.k8s.api.apps.v1.Deployment",
    "networking.k8s.io/v1/NetworkPolicy": "io.k8s.api.networking.v1.NetworkPolicy",
    "serving.kserve.io/v1beta1/InferenceService": "V1beta1InferenceService",
    "serving.kserve.io/v1alpha1/ServingRuntime": "V1alpha1ServingRuntime",
}
"""apiVersion/kind -> definition."""

PLAIN = {"str": "string", "int": "integer", "bool": "boolean", "float": "number", "object": "object"}
ELSEWHERE = {
    "V1ObjectMeta": META + "ObjectMeta",
    "ResourceQuantity": "io.k8s.apimachinery.pkg.api.resource.Quantity",
    "K8sIoApiAppsV1DeploymentStrategy": "io.k8s.api.apps.v1.DeploymentStrategy",
}
"""Types of the SDK that Kubernetes defines, where the name does not say where."""


def main(kubernetes: Path, kserve: Path) -> None:
    with zipfile.ZipFile(kubernetes) as wheel:
        definitions = json.loads(wheel.read(KUBERNETES))["$defs"]
    with zipfile.ZipFile(kserve) as wheel:
        definitions |= _kserve(wheel, definitions)
    reached: dict[str, Any] = {}
    todo = list(KINDS.values())
    while todo:
        name = todo.pop()
        if name not in reached:
            reached[name] = _bare(definitions[name])
            todo += re.findall(r'"#/\$defs/([^"]+)"', json.dumps(reached[name]))
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$comment": f"from {kubernetes.name} and {kserve.name} (both Apache-2.0) by renew_kubernetes_schema.py",
        "kinds": KINDS,
        "$defs": dict(sorted(reached.items())),
    }
    lines = [f"{json.dumps(key)}:{_lines(value)}" for key, value in schema.items()]
    Path(__file__).with_name("kubernetes.schema.json").write_text("{" + ",\n".join(lines) + "}\n")


def _lines(value: Any) -> str:
    """JSON with a line for each entry of a table, so that a change shows which definition it is about."""
    if not isinstance(value, dict):
        return json.dumps(value)
    entries = (f"{json.dumps(key)}:{json.dumps(part, separators=(',', ':'))}" for key, part in value.items())
    return "{\n" + ",\n".join(entries) + "}"


def _bare(schema: Any) -> Any:
    """Without descriptions, Kubernetes' remarks, and what the server writes (status)."""
    if isinstance(schema, list):
        return [_bare(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    left = {key: value for key, value in schema.items() if key != "description" and not key.startswith("x-kubernetes")}
    if isinstance(left.get("properties"), dict):
        return {
            **{key: _bare(value) for key, value in left.items() if key != "properties"},
            "properties": {key: _bare(value) for key, value in left["properties"].items() if key != "status"},
        }
    return {key: _bare(value) for key, value in left.items()}


def _kserve(wheel: zipfile.ZipFile, kubernetes: dict[str, Any]) -> dict[str, Any]:
    """Schemas of the SDK's classes, by their names."""
    found = {}
    for file in wheel.namelist():
        if re.fullmatch(r"kserve/models/v1(alpha|beta)1_\w+\.py", file):
            for node in ast.parse(wheel.read(file)).body:
                if isinstance(node, ast.ClassDef):
                    found[node.name] = node
    return {name: _class_schema(node, found, kubernetes) for name, node in found.items()}


def _class_schema(node: ast.ClassDef, classes: dict[str, Any], kubernetes: dict[str, Any]) -> dict[str, Any]:
    tables = {
        statement.targets[0].id: ast.literal_eval(statement.value)
        for statement in node.body
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name)
    }
    names = tables["attribute_map"]
    required = re.findall(r"Invalid value for `(\w+)`, must not be `None`", ast.unparse(node))
    properties = {names[key]: _type(text, classes, kubernetes) for key, text in tables["openapi_types"].items()}
    schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return schema | ({"required": sorted({names[key] for key in required})} if required else {})


def _type(text: str, classes: dict[str, Any], kubernetes: dict[str, Any]) -> dict[str, Any]:
    """`list[V1Container]`, `dict(str, str)`, `str`, a class of the SDK or one of Kubernetes."""
    if found := re.fullmatch(r"list\[(.+)\]", text):
        return {"type": "array", "items": _type(found[1], classes, kubernetes)}
    if found := re.fullmatch(r"dict\(str, (.+)\)", text):
        return {"type": "object", "additionalProperties": _type(found[1], classes, kubernetes)}
    if text in PLAIN:
        return {"type": PLAIN[text]}
    if text in classes:
        return {"$ref": f"#/$defs/{text}"}
    for name in (ELSEWHERE.get(text, ""), CORE + text.removeprefix("V1"), META + text.removeprefix("V1")):
        if name in kubernetes:
            return {"$ref": f"#/$defs/{name}"}
    return {}  # a type of another project: anything


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))

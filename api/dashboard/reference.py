"""The reference of the HTTP API as two pages of Markdown, from its OpenAPI document."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

Schema = Mapping[str, Any]

METHODS = ("get", "post", "delete")
LIMITS = {
    "minimum": "≥ {}",
    "exclusiveMinimum": "> {}",
    "maximum": "≤ {}",
    "exclusiveMaximum": "< {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "minItems": "at least {} items",
    "maxItems": "at most {} items",
    "default": "default {}",
}
"""Keywords of JSON Schema that a field's description lists."""


def pages(document: Schema) -> Mapping[str, str]:
    """Return the pages by file name: the endpoints, and the objects that their bodies refer to."""
    return {"endpoints.md": "\n".join(_endpoints(document)), "objects.md": "\n".join(_objects(document))}


def _endpoints(document: Schema) -> Iterator[str]:
    yield f"# Endpoints\n\nVersion {document['info']['version']}."
    yield "[HTTP API](http.md) describes what all endpoints share.\n"
    by_tag: dict[str, list[tuple[str, str, Schema]]] = {}
    for path, operations in document["paths"].items():
        for method in METHODS:
            if method in operations:
                operation = operations[method]
                by_tag.setdefault(operation.get("tags", ["other"])[0], []).append((method.upper(), path, operation))
    for tag, operations in by_tag.items():
        yield f"## {tag.capitalize()}\n"
        for method, path, operation in operations:
            yield from _operation(document, method, path, operation)


def _operation(document: Schema, method: str, path: str, operation: Schema) -> Iterator[str]:
    yield f"### {method} {path}\n"
    yield operation.get("description", operation["summary"]) + "\n"
    parameters = [parameter for parameter in operation.get("parameters", ()) if parameter["in"] != "header"]
    if parameters:
        yield from _table("parameter", ((each["name"], each["schema"] | _description(each)) for each in parameters))
    for content_type, content in operation.get("requestBody", {}).get("content", {}).items():
        yield f"Request body, `{content_type}`: {_type(content['schema'])}.\n"
        if "properties" in content["schema"]:
            yield from _table("field", content["schema"]["properties"].items())
    answers = [
        f"`{content_type}` {_type(content['schema']) if content.get('schema') else ''}".strip()
        for content_type, content in operation["responses"].get("200", {}).get("content", {}).items()
    ]
    if answers:
        yield f"Response: {', or '.join(answers)}.\n"
    errors = [status for status in operation["responses"] if status.startswith(("4", "5"))]
    yield f"Errors: {', '.join(errors)}.\n"


def _objects(document: Schema) -> Iterator[str]:
    yield "# Objects\n\nThe bodies of requests and responses that [Endpoints](endpoints.md) refers to.\n"
    for name, schema in sorted(document["components"]["schemas"].items()):
        yield f"## {name}\n"
        if text := schema.get("description"):
            yield f"{text}\n"
        if schema.get("properties"):
            yield from _table("field", schema["properties"].items(), required=schema.get("required", ()))
        else:
            yield f"{_type(schema)}.\n"


def _table(heading: str, fields: Any, required: Any = ()) -> Iterator[str]:
    yield f"| {heading} | type | description |\n|---|---|---|"
    for name, schema in fields:
        words = [_description(schema).get("description", ""), *_limits(schema)]
        if name in required:
            words.append("required")
        text = " · ".join(word for word in words if word)
        yield f"| `{name}` | {_cell(_type(schema))} | {_cell(text)} |"
    yield ""


def _description(schema: Schema) -> dict[str, str]:
    return {"description": schema["description"]} if schema.get("description") else {}


def _limits(schema: Schema) -> Iterator[str]:
    for part in (schema, *schema.get("anyOf", ())):
        for keyword, words in LIMITS.items():
            if keyword in part and part[keyword] not in (None, {}, []):
                value = part[keyword]
                value = int(value) if isinstance(value, float) and value.is_integer() else value
                yield words.format(f"`{json.dumps(value, ensure_ascii=False)}`")


def _type(schema: Schema) -> str:
    """Return the type in words, with links to named objects."""
    match schema:
        case {"$ref": reference}:
            name = reference.rpartition("/")[2]
            words = f"[{name}](objects.md#{name.lower()})"
        case {"anyOf": alternatives} | {"oneOf": alternatives} | {"allOf": alternatives}:
            words = " or ".join(dict.fromkeys(map(_type, alternatives)))
        case {"const": value}:
            words = f"`{json.dumps(value)}`"
        case {"enum": values}:
            words = ", ".join(f"`{json.dumps(value)}`" for value in values)
        case {"type": "array", **rest}:
            words = f"array of {_type(rest.get('items', {}))}"
        case {"type": "object", "additionalProperties": {} as values}:
            words = f"object of {_type(values)}"
        case {"type": [*kinds]}:
            words = " or ".join(kinds)
        case _:
            words = schema.get("type", "any value")
    return words


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")

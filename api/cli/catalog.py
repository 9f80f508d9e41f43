"""`attune catalog`: the techniques, methods, formats, graders and base models of the server."""

import json
from typing import Annotated, Any

import typer

from api.cli.client import Document
from api.cli.connect import ApiKey, BaseUrl, DataDir, Json, connect
from api.cli.console import print_fields, print_json, print_line, print_note, print_raw, print_table
from api.cli.errors import Command, CommandError, ExitCode
from api.cli.json_schema import default_of, fields_of

catalog_app = typer.Typer(add_completion=False)

SECTIONS = {"techniques": "technique", "methods": "method", "formats": "format", "graders": "grader"}
BASE_MODEL = "base model"


@catalog_app.command(cls=Command, epilog="Example: attune catalog dpo")
def catalog(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME", help="A technique, method, format, grader or base model to show with its fields."
        ),
    ] = None,
    *,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """List techniques, methods, formats, graders and base models, or show one with its fields.

    The list ends with the combinations that are refused. With --json, each entry has its JSON schema.
    """
    with connect(base_url, api_key, data_dir) as client:
        entries = client.get("/fine_tuning/catalog")
    if name is not None:
        return _show(entries, name, as_json=as_json)
    if as_json:
        return print_json(entries)
    rows = [[kind, entry["type"], entry["summary"]] for section, kind in SECTIONS.items() for entry in entries[section]]
    rows += [[BASE_MODEL, base["id"], _summarize_base(base)] for base in entries["base_models"]]
    print_table(["WHAT", "NAME", "SUMMARY"], rows)
    for line in _refused_combinations(entries):
        print_note(line)
    return None


def _show(entries: Document, name: str, *, as_json: bool) -> None:
    """Print the entry with this name. Raise CommandError if there is none."""
    found = [(kind, entry) for section, kind in SECTIONS.items() for entry in entries[section] if entry["type"] == name]
    found += [(BASE_MODEL, base) for base in entries["base_models"] if base["id"] == name]
    if not found:
        names = [entry["type"] for section in SECTIONS for entry in entries[section]]
        raise CommandError(
            ExitCode.REFUSED, f"the catalog has no '{name}'. It has {', '.join(names)} and the base models."
        )
    if as_json:
        return print_json(found[0][1])
    for kind, entry in found:
        if kind == BASE_MODEL:
            facts = {name: value for name, value in entry["facts"].items() if isinstance(value, (str, int, float))}
            print_fields({"name": entry["id"], "kind": entry["kind"], **facts})
        elif kind == "format":
            _show_format(entry)
        else:
            _show_fields(kind, entry)
    return None


def _show_format(entry: Document) -> None:
    print_line(f"format {entry['type']}: {entry['summary']}")
    required = " or ".join(" and ".join(keys) for keys in entry["required"])
    print_fields(
        {"keys": required, "optional keys": ", ".join(entry["optional"]), "methods": ", ".join(entry["methods"])}
    )
    print_line("A row:")
    print_raw(json.dumps(entry["example"], ensure_ascii=False))


def _show_fields(kind: str, entry: Document) -> None:
    """Print the fields of a technique, method or grader with their defaults, and a body that sets all of them."""
    print_line(f"{kind} {entry['type']}: {entry['summary']}")
    if entry["description"]:
        print_line(entry["description"])
    if "formats" in entry:
        print_line(f"Rows: {', '.join(entry['formats'])}")
    print_line("")
    schema = entry["schema"]
    fields = [field for field in fields_of(schema, kind) if field.name != f"{kind}.type"]
    print_table(
        ["FIELD", "VALUES", "DEFAULT", "MEANING"],
        [[field.name, field.values, field.default, field.description] for field in fields],
    )
    print_line("")
    print_line("In the body of a job, with the defaults:")
    print_raw(json.dumps({kind: {"type": entry["type"], **default_of(schema)}}, indent=2, ensure_ascii=False))
    if kind == "method":
        print_line(f"On the command line: --method {entry['type']}, and --set NAME=VALUE for each field.")
    elif kind == "technique":
        print_line(f"On the command line: --technique {entry['type']}, and --set NAME=VALUE for each field.")


def _summarize_base(base: Document) -> str:
    facts: dict[str, Any] = base["facts"]
    parameters = f"{facts['parameters']:,} parameters" if "parameters" in facts else ""
    return ", ".join(text for text in (base["kind"], str(facts.get("model_type", "")), parameters) if text)


def _refused_combinations(entries: Document) -> list[str]:
    """Return a line for each reason to refuse a combination, and for each combination that only some model families
    support."""
    lines = []
    for combination in entries["combinations"]:
        technique, method, kind = (combination[name] for name in ("technique", "method", "kind"))
        if not combination["legal"]:
            lines.append(combination["reason"])
        elif combination["families"] is not None:
            lines.append(f"'{technique}' with '{method}' on {kind}: only {', '.join(combination['families'])}")
    return list(dict.fromkeys(lines))

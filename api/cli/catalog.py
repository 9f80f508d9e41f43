"""`attune catalog`: the techniques, methods, formats, graders and base models of the server."""

import typer

from api.cli.client import Document
from api.cli.connect import ApiKey, BaseUrl, DataDir, Json, connect
from api.cli.console import print_json, print_note, print_table
from api.cli.errors import ClientCommands

catalog_app = typer.Typer(cls=ClientCommands, add_completion=False)

SECTIONS = {"techniques": "technique", "methods": "method", "formats": "format", "graders": "grader"}


@catalog_app.callback(invoke_without_command=True, epilog="Example: attune catalog --json")
def catalog(
    *, base_url: BaseUrl = None, api_key: ApiKey = None, data_dir: DataDir = None, as_json: Json = False
) -> None:
    """List techniques, methods, formats, graders and base models, and the combinations that are refused.

    With --json, each entry has its JSON schema.
    """
    with connect(base_url, api_key, data_dir) as client:
        entries = client.get("/fine_tuning/catalog")
    if as_json:
        return print_json(entries)
    rows = [[kind, entry["type"], entry["summary"]] for name, kind in SECTIONS.items() for entry in entries[name]]
    rows += [["base model", base["id"], _summarize_base(base)] for base in entries["base_models"]]
    print_table(["WHAT", "NAME", "SUMMARY"], rows)
    for line in _refused_combinations(entries):
        print_note(line)
    return None


def _summarize_base(base: Document) -> str:
    facts = base["facts"]
    parameters = f"{facts['parameters']:,} parameters" if "parameters" in facts else ""
    return ", ".join(text for text in (base["kind"], str(facts.get("model_type", "")), parameters) if text)


def _refused_combinations(entries: Document) -> list[str]:
    """Return each reason for a refusal once, and the combinations that are limited to some model families."""
    lines = []
    for combination in entries["combinations"]:
        technique, method, kind = (combination[name] for name in ("technique", "method", "kind"))
        if not combination["legal"]:
            lines.append(combination["reason"])
        elif combination["families"] is not None:
            lines.append(f"'{technique}' with '{method}' on {kind}: only {', '.join(combination['families'])}")
    return list(dict.fromkeys(lines))

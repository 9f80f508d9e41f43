"""`attune catalog`: what the server can train, how, and on which base models."""

import typer

from api.cli.client import Document
from api.cli.connect import ApiKey, BaseUrl, DataDir, Json, connect
from api.cli.console import note, print_json, say_table
from api.cli.errors import ClientCommands

catalog_app = typer.Typer(cls=ClientCommands, help="Show what can be asked for, and what goes with what.")

PARTS = {"techniques": "technique", "methods": "method", "formats": "format", "graders": "grader"}


@catalog_app.callback(invoke_without_command=True)
def catalog(
    *, base_url: BaseUrl = None, api_key: ApiKey = None, data_dir: DataDir = None, as_json: Json = False
) -> None:
    """Show what can be asked for, and what goes with what. With --json: the schema of every entry as well."""
    with connect(base_url, api_key, data_dir) as client:
        found = client.get("/fine_tuning/catalog")
    if as_json:
        return print_json(found)
    rows = [[word, entry["type"], entry["summary"]] for part, word in PARTS.items() for entry in found[part]]
    rows += [["base model", base["id"], _told(base)] for base in found["base_models"]]
    say_table(["WHAT", "NAME", "SUMMARY"], rows)
    for line in _exceptions(found):
        note(line)
    return None


def _told(base: Document) -> str:
    facts = base["facts"]
    parameters = f"{facts['parameters']:,} parameters" if "parameters" in facts else ""
    return ", ".join(part for part in (base["kind"], str(facts.get("model_type", "")), parameters) if part)


def _exceptions(found: Document) -> list[str]:
    """What does not go together, in as few lines as it takes."""
    lines = []
    for each in found["combinations"]:
        if not each["legal"]:
            lines.append(each["reason"])
        elif each["families"] is not None:
            families = ", ".join(each["families"])
            lines.append(f"'{each['technique']}' with '{each['method']}' on {each['kind']}: only {families}")
    return list(dict.fromkeys(lines))

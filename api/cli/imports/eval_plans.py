"""The plan of an eval for `attune import push`: the same data source and testing criteria, with models here."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from api.cli.client import Client, Document
from api.cli.errors import ExitCode, RequestRefused
from api.cli.imports.bases import Models, describe_judges, judges_problem, with_judges_here
from api.cli.imports.fetch import EVALS
from api.cli.imports.folder import read_lines
from api.cli.imports.job_plans import MARK, MAX_METADATA


@dataclass(frozen=True)
class EvalPlan:
    old_id: str
    body: Document
    judges: str = ""
    """The criteria's models at the source and here, as the plan shows them."""
    new_id: str | None = None
    """Id of the eval on this server that an earlier push created."""
    problem: str | None = None

    @property
    def is_open(self) -> bool:
        return self.new_id is None and self.problem is None

    def describe(self) -> str:
        criteria = ", ".join(_name(each) for each in self.body["testing_criteria"])
        outcome = f"is {self.new_id} here" if self.new_id else self.problem or "new"
        return f"{self.old_id} ({self.body.get('name') or 'no name'}: {criteria}{self.judges}): {outcome}"


def _name(criterion: Document) -> str:
    return str(criterion.get("name") or criterion.get("type"))


def read_evals(folder: Path) -> list[Document]:
    return read_lines(folder / EVALS)


def plan_evals(client: Client, evals: Sequence[Document], judges: Models) -> Iterator[EvalPlan]:
    here, problem = _pushed(client) if evals else ({}, None)
    for each in evals:
        body = eval_body(each, judges)
        plan = EvalPlan(each["id"], body, describe_judges(each["testing_criteria"], judges))
        if each["id"] in here:
            yield replace(plan, new_id=here[each["id"]])
        else:
            yield replace(plan, problem=problem or _problem(client, each, body, judges))


def _problem(client: Client, each: Document, body: Document, judges: Models) -> str | None:
    source = each["data_source_config"]["type"]
    if source != "custom":
        return f"its data source is {source}, which exists at OpenAI only"
    if len(body["metadata"]) > MAX_METADATA:
        return f"its metadata leaves no room for {MARK}"
    return judges_problem(body["testing_criteria"], judges) or _refusal(client, body["testing_criteria"])


def _refusal(client: Client, criteria: Sequence[Document]) -> str | None:
    """Return why the server refuses a criterion; None if it refuses none. Raise CommandError if it cannot be asked."""
    for criterion in criteria:
        grader = {name: value for name, value in criterion.items() if name != "pass_threshold"}
        try:
            client.post("/fine_tuning/alpha/graders/validate", {"grader": grader})
        except RequestRefused as refusal:
            if refusal.code != ExitCode.REFUSED:
                raise
            return f"criterion {_name(criterion)}: {refusal.message}"
    return None


def eval_body(each: Document, judges: Models) -> Document:
    """Return the request that creates an eval like `each` on this server. The schema at the source contains the item's
    schema and the sample's."""
    properties = (each["data_source_config"].get("schema") or {}).get("properties") or {}
    return {
        "name": each.get("name") or each["id"],
        "data_source_config": {
            "type": "custom",
            "item_schema": properties.get("item") or {"type": "object"},
            "include_sample_schema": "sample" in properties,
        },
        "testing_criteria": [_criterion(criterion, judges) for criterion in each["testing_criteria"]],
        "metadata": {**(each.get("metadata") or {}), MARK: each["id"]},
    }


def _criterion(criterion: Document, judges: Models) -> Document:
    """Return the criterion without the id that the source gave it and without empty values."""
    mapped: Document = with_judges_here(criterion, judges)
    return {name: value for name, value in mapped.items() if value is not None and name != "id"}


def _pushed(client: Client) -> tuple[dict[str, str], str | None]:
    """Return {id at the source: id here} of the evals pushed earlier, and a problem: None, or a sentence with the
    server's message if it refuses to list evals."""
    try:
        marked = [(each.get("metadata") or {}, each["id"]) for each in client.pages("/evals")]
    except RequestRefused as refusal:
        if refusal.code != ExitCode.REFUSED:
            raise
        return {}, f"this server has no evals ({refusal.message})"
    return {metadata[MARK]: new_id for metadata, new_id in marked if MARK in metadata}, None

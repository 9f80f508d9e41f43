"""`attune webhooks`: create, list, delete, test, deliveries, replay."""

from typing import Annotated

import typer

from api.cli.client import segment
from api.cli.connect import ApiKey, BaseUrl, DataDir, Json, connect
from api.cli.console import print_json, print_note, print_raw, print_result
from api.cli.errors import CommandError, Commands, ExitCode
from api.cli.listing import After, Columns, Limit, add_list_command, print_listing, time_of

webhooks_app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    help="Have a URL notified when jobs, batches and runs of evals end.",
    epilog="Example: attune webhooks create https://example.com/hook",
)

Events = Annotated[
    list[str] | None,
    typer.Option(
        "--event",
        help="Notify of these events: a type such as batch.failed, or a part of several, such as batch or failed. "
        "Repeatable. Default: all.",
    ),
]
WebhookId = Annotated[str, typer.Argument(metavar="WEBHOOK_ID", help="An id from `attune webhooks list`.")]

DELIVERIES: Columns = {
    "ID": "id",
    "EVENT": lambda delivery: _short_event(delivery["event_type"]),
    "OF": lambda delivery: delivery["data"]["id"],
    "STATUS": "status",
    "ATTEMPTS": "attempts",
    "LAST RESPONSE": lambda delivery: delivery["last_error"] or delivery["last_status"],
    "NEXT ATTEMPT": time_of("next_attempt_at"),
    "CREATED": time_of("created_at"),
}


@webhooks_app.command(epilog="Example: attune webhooks create https://example.com/hook --event failed")
def create(
    url: Annotated[str, typer.Argument(help="A public https address that accepts POSTs.")],
    *,
    event: Events = None,
    name: Annotated[str, typer.Option(help="A note on the webhook's use.")] = "webhook",
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Create a webhook and print its signing secret, which is shown only once."""
    with connect(base_url, api_key, data_dir) as client:
        known = client.get("/webhook_event_types")["data"]
        event_types = known if event is None else _matching(known, event)
        webhook = client.post("/webhook_endpoints", {"url": url, "name": name, "event_types": event_types})
    if as_json:
        return print_json(webhook)
    print_note(f"Created {webhook['id']}. Its signing secret, which is shown only once:")
    return print_raw(webhook["signing_secret"])


add_list_command(
    webhooks_app,
    "/webhook_endpoints",
    {
        "ID": "id",
        "NAME": "name",
        "EVENTS": lambda hook: ", ".join(map(_short_event, hook["event_types"])),
        "CREATED": time_of("created_at"),
        "URL": "url",
    },
    summary="List the project's webhooks.",
    example="attune webhooks list",
)


@webhooks_app.command(epilog="Example: attune webhooks delete webhook_abc123")
def delete(
    webhook_id: WebhookId,
    *,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Delete a webhook with its deliveries. Pending ones are dropped."""
    with connect(base_url, api_key, data_dir) as client:
        deleted = client.delete(_path(webhook_id))
    print_result(deleted, f"Deleted {webhook_id}", as_json=as_json)


@webhooks_app.command(name="test", epilog="Example: attune webhooks test webhook_abc123 --event failed")
def send_test(
    webhook_id: WebhookId,
    *,
    event: Annotated[
        str | None, typer.Option(help="The event to send a sample of. Default: the first one of the webhook.")
    ] = None,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Send a sample event now, and print the status of the response."""
    with connect(base_url, api_key, data_dir) as client:
        events = client.get(_path(webhook_id))["event_types"]
        chosen = events[0] if event is None else _matching(events, [event])[0]
        result = client.post(f"{_path(webhook_id)}/test", {"event_type": chosen})
    print_result(result, f"The endpoint responded to {chosen} with {result['status_code']}.", as_json=as_json)


@webhooks_app.command(epilog="Example: attune webhooks deliveries webhook_abc123")
def deliveries(
    webhook_id: WebhookId,
    *,
    limit: Limit = 20,
    after: After = None,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """List the deliveries to a webhook, with the last response to each."""
    with connect(base_url, api_key, data_dir) as client:
        found = client.listed(f"{_path(webhook_id)}/deliveries", limit=limit, after=after)
    print_listing(found, DELIVERIES, as_json=as_json)


@webhooks_app.command(epilog="Example: attune webhooks replay webhook_abc123 whd_abc123")
def replay(
    webhook_id: WebhookId,
    delivery_id: Annotated[str, typer.Argument(metavar="DELIVERY_ID", help="An id from `attune webhooks deliveries`.")],
    *,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Deliver an event again, under the same event id."""
    with connect(base_url, api_key, data_dir) as client:
        delivery = client.post(f"{_path(webhook_id)}/deliveries/{segment(delivery_id)}/replay")
    print_result(delivery, f"{delivery['id']} is {delivery['status']}", as_json=as_json)


def _path(webhook_id: str) -> str:
    return f"/webhook_endpoints/{segment(webhook_id)}"


def _matching(types: list[str], chosen: list[str]) -> list[str]:
    """Return the event types that equal or contain any of the chosen names. Raise CommandError for a name that no event
    type contains."""
    for name in chosen:
        if not any(f".{name}." in f".{type}." for type in types):
            raise CommandError(ExitCode.REFUSED, f"--event: no event is named {name}. There are: {', '.join(types)}")
    return [type for type in types if any(f".{name}." in f".{type}." for name in chosen)]


def _short_event(event_type: str) -> str:
    return event_type.removeprefix("fine_tuning.")

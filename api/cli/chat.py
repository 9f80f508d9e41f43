"""`attune chat`: ask a model, and read its answer as it comes."""

import sys
from typing import Annotated, Any

import typer

from api.cli.client import Document
from api.cli.connect import ApiKey, BaseUrl, DataDir, Json, connect
from api.cli.console import note, print_json, say_piece
from api.cli.errors import ClientCommand, CommandError, ExitCode

chat_app = typer.Typer(add_completion=False)

PATH = "/chat/completions"


@chat_app.command("chat", cls=ClientCommand)
def chat(
    model: Annotated[str, typer.Argument(metavar="MODEL")],
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What to say to it; - reads standard input.")],
    *,
    system: Annotated[str | None, typer.Option(help="What the system says first.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Of the answer.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0: always the likeliest token. Default: 1.")] = None,
    top_p: Annotated[float | None, typer.Option()] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same answer.")] = None,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Ask a base model, a fine-tuned one or a checkpoint. With --json: the whole answer, once it is there."""
    said = [{"role": "system", "content": system}] if system is not None else []
    messages = [*said, {"role": "user", "content": sys.stdin.read() if text == "-" else text}]
    options = {"max_completion_tokens": max_tokens, "temperature": temperature, "top_p": top_p, "seed": seed}
    body: dict[str, Any] = {"model": model, "messages": messages}
    body |= {name: value for name, value in options.items() if value is not None}
    with connect(base_url, api_key, data_dir) as client:
        if as_json:
            print_json(client.ask(PATH, body))
            return
        reason = None
        for chunk in client.events(PATH, body | {"stream": True}):
            reason = _tell(chunk) or reason
    say_piece("\n")
    if reason == "length":
        note("(the answer was cut at its longest: see --max-tokens)")


def _tell(chunk: Document) -> str | None:
    """Print what is new of the answer; returns why it ended, once it has."""
    if "error" in chunk:
        raise CommandError(ExitCode.UNAVAILABLE, str(chunk["error"]["message"]))
    reason = None
    for choice in chunk["choices"]:
        say_piece(choice["delta"].get("content") or "")
        reason = choice["finish_reason"]
    return reason

"""`attune chat`: send a message to a model and print its answer while it is generated."""

import sys
from typing import Annotated

import typer

from api.cli.client import GENERATION_TIMEOUT, Document
from api.cli.connect import ApiKey, BaseUrl, DataDir, Json, connect
from api.cli.console import print_chunk, print_json, print_note
from api.cli.errors import Command, CommandError, ExitCode

chat_app = typer.Typer(add_completion=False)

PATH = "/chat/completions"


@chat_app.command("chat", cls=Command, epilog='Example: attune chat smollm2-135m-instruct "What is a list?"')
def chat(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A base model, a fine-tuned model (ft:…) or a checkpoint.")
    ],
    text: Annotated[str, typer.Argument(metavar="TEXT", help="The message, or - for stdin.")],
    *,
    system: Annotated[str | None, typer.Option(help="A system message to put before the user's message.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Maximum length of the answer.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 always picks the most likely token. Default: 1.")] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Sample from the most likely tokens of this total probability.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same answer.")] = None,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Send a message to a model and print its answer.

    The answer is printed while it is generated; with --json, the whole response is printed at its end.
    """
    messages = [{"role": "system", "content": system}] if system is not None else []
    messages.append({"role": "user", "content": sys.stdin.read() if text == "-" else text})
    options = {"max_completion_tokens": max_tokens, "temperature": temperature, "top_p": top_p, "seed": seed}
    body: Document = {"model": model, "messages": messages}
    body |= {name: value for name, value in options.items() if value is not None}
    with connect(base_url, api_key, data_dir) as client:
        if as_json:
            print_json(client.post(PATH, body, timeout=GENERATION_TIMEOUT))
            return
        finish_reason = None
        for chunk in client.stream_events(PATH, body | {"stream": True}):
            finish_reason = _print_delta(chunk) or finish_reason
    print_chunk("\n")
    if finish_reason == "length":
        print_note("(the answer was cut at the token limit: see --max-tokens)")


def _print_delta(chunk: Document) -> str | None:
    """Print the chunk's part of the answer. Return the finish reason, which is None before the last chunk."""
    if "error" in chunk:
        raise CommandError(ExitCode.UNAVAILABLE, str(chunk["error"]["message"]))
    finish_reason = None
    for choice in chunk["choices"]:
        print_chunk(choice["delta"].get("content") or "")
        finish_reason = choice["finish_reason"]
    return finish_reason

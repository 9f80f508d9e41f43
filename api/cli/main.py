"""The `attune` command. What it can do is listed in api/cli/lazy.py."""

import typer

from api.cli.lazy import LazyGroup

app = typer.Typer(
    cls=LazyGroup,
    name="attune",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def attune() -> None:
    """A fine-tuning service you host yourself, spoken to with OpenAI's clients."""

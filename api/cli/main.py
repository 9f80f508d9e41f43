"""The `attune` command."""

from importlib import import_module
from typing import Any, ClassVar

import typer
import typer.main
from typer.core import TyperGroup


class LazyGroup(TyperGroup):
    """A group whose commands are loaded when they are called.

    The client's commands must start fast, and need neither the database's libraries nor the broker's.
    """

    commands_at: ClassVar[dict[str, str]] = {
        "up": "api.cli.up:app",
        "api": "api.cli.serve:api_app",
        "worker": "api.cli.serve:worker_app",
        "migrate": "api.cli.serve:migrate_app",
        "keys": "api.cli.admin:keys_app",
        "models": "api.cli.admin:models_app",
        "storage": "api.cli.admin:storage_app",
        "catalog": "api.cli.catalog:catalog_app",
        "jobs": "api.cli.jobs:jobs_app",
        "pipelines": "api.cli.pipelines:pipelines_app",
        "estimate": "api.cli.estimate:estimate_app",
        "preview": "api.cli.estimate:preview_app",
        "files": "api.cli.files:files_app",
        "adapters": "api.cli.adapters:adapters_app",
        "chat": "api.cli.chat:chat_app",
    }
    """Each command's Typer app, in the order in which `attune --help` lists them."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.commands_at)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self.commands_at:
            return None
        module, _, name = self.commands_at[cmd_name].partition(":")
        command = typer.main.get_command(getattr(import_module(module), name))
        command.name = cmd_name
        return command


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

"""The `attune` command."""

from importlib import import_module
from typing import Any

import typer
import typer.main
from typer.core import TyperCommand, TyperGroup

COMMANDS = {
    "up": (
        "api.cli.up:app",
        "Start everything on this machine: broker, database, API and workers. Ctrl-C stops everything.",
    ),
    "api": ("api.cli.serve:api_app", "Serve the API alone. Run `attune migrate` first."),
    "worker": (
        "api.cli.serve:worker_app",
        "Run a worker alone: it prepares files, trains jobs, samples from models and delivers results.",
    ),
    "migrate": ("api.cli.serve:migrate_app", "Upgrade the database schema to this version."),
    "keys": ("api.cli.admin:keys_app", "Create, list and revoke API keys."),
    "models": ("api.cli.admin:models_app", "Add, list, verify and remove base models."),
    "projects": ("api.cli.projects:projects_app", "List projects, and limit what they may use in a month."),
    "storage": ("api.cli.admin:storage_app", "Find and remove stored objects that no record refers to."),
    "catalog": (
        "api.cli.catalog:catalog_app",
        "List techniques, methods, formats, graders and base models, and the combinations that are refused.",
    ),
    "jobs": ("api.cli.jobs:jobs_app", "Create, follow and control fine-tuning jobs."),
    "pipelines": ("api.cli.pipelines:pipelines_app", "Run several jobs, each starting from the result of another."),
    "estimate": (
        "api.cli.estimate:estimate_app",
        "Estimate a job's memory, steps and time, and check whether it would be accepted.",
    ),
    "preview": ("api.cli.estimate:preview_app", "Show the first rows of a training file as the model will see them."),
    "files": ("api.cli.files:files_app", "Upload, list, print and delete files of training rows."),
    "adapters": ("api.cli.adapters:adapters_app", "Download published models and verify them."),
    "chat": ("api.cli.chat:chat_app", "Send a message to a model and print its answer."),
}
"""Each command's Typer app and its summary, in the order in which `attune --help` lists them.

The summary is the first sentence of the command's own help. It is repeated here so that `attune --help` imports none of
the modules: those of the operator's commands load the database, the broker and the web framework.
"""


class LazyCommand(TyperCommand):
    """A command whose module is imported when the command runs or prints its own help."""

    def __init__(self, name: str, path: str, summary: str) -> None:
        super().__init__(name, help=summary)
        self._path = path

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Return the context of the loaded command, which runs in place of this one."""
        module, _, attribute = self._path.partition(":")
        command = typer.main.get_command(getattr(import_module(module), attribute))
        command.name = self.name
        return command.make_context(info_name, args, parent, **extra)


class LazyGroup(TyperGroup):
    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = {name: LazyCommand(name, *entry) for name, entry in COMMANDS.items()}


app = typer.Typer(
    cls=LazyGroup,
    name="attune",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    epilog="Example: attune jobs create rows.jsonl --model smollm2-135m-instruct --watch",
)


@app.callback()
def attune() -> None:
    """Host your own fine-tuning service. Its API is OpenAI's: OpenAI's clients work unchanged."""

"""The `attune` command."""

import gc
import os
import sys
from importlib import import_module, metadata
from types import ModuleType
from typing import Annotated, Any

import typer
import typer.main
from typer.core import TyperCommand, TyperGroup

COMPLETE = "_ATTUNE_COMPLETE"
"""Environment variable that the scripts of `attune completion` set to ask for completions."""
CLIENT, OPERATOR, SHELL = "Use a server", "Run a server", "This command"
"""Headings of `attune --help`."""

COMMANDS = {
    "jobs": ("api.cli.jobs:jobs_app", "Create, follow, compare and control fine-tuning jobs.", CLIENT),
    "pipelines": (
        "api.cli.pipelines:pipelines_app",
        "Run several jobs, each starting from the result of another.",
        CLIENT,
    ),
    "estimate": (
        "api.cli.estimate:estimate_app",
        "Estimate a job's memory, steps and time, and check whether it would be accepted.",
        CLIENT,
    ),
    "preview": (
        "api.cli.estimate:preview_app",
        "Show the first rows of a training file as the model will see them.",
        CLIENT,
    ),
    "files": ("api.cli.files:files_app", "Check, upload, list, print and delete files of training rows.", CLIENT),
    "adapters": ("api.cli.adapters:adapters_app", "Download, verify and delete fine-tuned models.", CLIENT),
    "batches": ("api.cli.batches:batches_app", "Answer the requests of a file in the background.", CLIENT),
    "evals": ("api.cli.evals:evals_app", "Grade the answers of models by criteria of your own.", CLIENT),
    "chat": ("api.cli.chat:chat_app", "Send a message to a model and print its answer.", CLIENT),
    "catalog": (
        "api.cli.catalog:catalog_app",
        "List techniques, methods, formats, graders and base models, or show one with its fields.",
        CLIENT,
    ),
    "import": (
        "api.cli.imports.commands:import_app",
        "Move jobs, files, evals and answers here from OpenAI, or from another server with its API.",
        CLIENT,
    ),
    "workers": (
        "api.cli.workers:workers_app",
        "List the workers: what each does, its hardware, and when it last reported.",
        CLIENT,
    ),
    "usage": ("api.cli.usage:usage_app", "Show what the project used, and its budgets.", CLIENT),
    "webhooks": (
        "api.cli.webhooks:webhooks_app",
        "Have a URL notified when jobs, batches and runs of evals end.",
        CLIENT,
    ),
    "open": (
        "api.cli.open_page:open_app",
        "Print a link that signs a browser in to the dashboard, and open it on a desktop.",
        CLIENT,
    ),
    "login": ("api.cli.login:login_app", "Store a server's address and your API key for later commands.", CLIENT),
    "logout": ("api.cli.login:logout_app", "Delete the stored address and API key.", CLIENT),
    "whoami": ("api.cli.login:whoami_app", "Show the server, the project and the key that commands use.", CLIENT),
    "up": (
        "api.cli.up:app",
        "Start everything on this machine: broker, database, API and workers. Ctrl-C stops everything.",
        OPERATOR,
    ),
    "demo": ("api.cli.demo:demo_app", "Fine-tune a small language model from start to finish.", OPERATOR),
    "doctor": ("api.cli.doctor:doctor_app", "Check every component and say what to do about each problem.", OPERATOR),
    "api": ("api.cli.serve:api_app", "Serve the API alone. Run `attune migrate` first.", OPERATOR),
    "worker": (
        "api.cli.run_worker:worker_app",
        "Run a worker alone: it prepares files, trains jobs, samples from models and delivers results.",
        OPERATOR,
    ),
    "migrate": (
        "api.cli.migrate:migrate_app",
        "Upgrade the database schema to this version, and tie a new database to its storage.",
        OPERATOR,
    ),
    "keys": ("api.cli.admin:keys_app", "Create, list and revoke API keys.", OPERATOR),
    "models": ("api.cli.admin:models_app", "Add, list, verify and remove base models.", OPERATOR),
    "projects": (
        "api.cli.projects:projects_app",
        "List projects, and limit what they may use in a month.",
        OPERATOR,
    ),
    "storage": (
        "api.cli.admin:storage_app",
        "Compare the storage with the database, or tie the database to a moved storage.",
        OPERATOR,
    ),
    "signing": ("api.cli.signing:signing_app", "List and replace the key that signs published models.", OPERATOR),
    "backup": (
        "api.cli.backup:backup_app",
        "Copy the database and the objects into a new folder, while the service runs.",
        OPERATOR,
    ),
    "restore": (
        "api.cli.backup:restore_app",
        "Copy a backup into an empty data folder, and compare the hash of every file.",
        OPERATOR,
    ),
    "completion": ("api.cli.completion:completion_app", "Print a script that completes commands in a shell.", SHELL),
}
"""Each command's Typer app, its summary and its heading, in the order in which `attune --help` lists them.

The summary is the first sentence of the command's own help. It is repeated here so that `attune --help` imports none of
the modules: those of the operator's commands load the database, the broker and the web framework.
"""


class LazyCommand(TyperCommand):
    """A command whose module is imported when the command runs or prints its own help."""

    def __init__(self, name: str, path: str, summary: str, heading: str) -> None:
        super().__init__(name, help=summary, rich_help_panel=heading)
        self._path = path

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Return the context of the loaded command, which runs in place of this one."""
        module, _, attribute = self._path.partition(":")
        command = typer.main.get_command(getattr(_imported(module), attribute))
        command.name = self.name
        return command.make_context(info_name, args, parent, **extra)


def _imported(name: str) -> ModuleType:
    """Import a module with the garbage collector off.

    The objects that an import creates stay in use, and collections would take a sixth of the time.
    """
    if name not in sys.modules:
        gc.disable()
        import_module(name)
        gc.freeze()
        gc.enable()
    return sys.modules[name]


class LazyGroup(TyperGroup):
    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = {name: LazyCommand(name, *entry) for name, entry in COMMANDS.items()}

    def main(self, *arguments: Any, **options: Any) -> Any:
        if COMPLETE in os.environ:  # a shell asks for completions, by the script of `attune completion`
            from typer.completion import completion_init  # noqa: PLC0415

            completion_init()
        return super().main(*arguments, **options)


app = typer.Typer(
    cls=LazyGroup,
    name="attune",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    epilog="Start a server with: attune up. "
    "Example of a job: attune jobs create rows.jsonl --model smollm2-135m-instruct --watch",
)


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"attune {metadata.version('attune')}")
        raise typer.Exit


@app.callback()
def attune(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Host your own fine-tuning service. Its API is OpenAI's: OpenAI's clients work unchanged."""

"""Options that `attune jobs create`, `estimate` and `preview` share."""

from pathlib import Path
from typing import Annotated, Any

import typer

from api.cli.errors import Command

TrainingFile = Annotated[
    str | None, typer.Argument(metavar="FILE_OR_ID", help="A local file, which is uploaded, or the id of a file.")
]
Model = Annotated[
    str | None, typer.Option("--model", "-m", help="A base model, or a fine-tuned one (ft:…) to train further.")
]
Validation = Annotated[
    str | None, typer.Option(metavar="FILE_OR_ID", help="Rows to evaluate on: a local file or the id of a file.")
]
Technique = Annotated[
    str | None,
    typer.Option(help="Training technique: {techniques}. Default: lora, or the technique of the ft:… model."),
]
Method = Annotated[str | None, typer.Option(help="Training method: {methods}. Default: supervised.")]
Rank = Annotated[int | None, typer.Option(help="Rank of the adapter, for {ranked}.")]
Epochs = Annotated[
    str | None, typer.Option(metavar="NUMBER|auto", parser=str, help="Passes over the training file. Default: auto.")
]
BatchSize = Annotated[
    str | None, typer.Option(metavar="NUMBER|auto", parser=str, help="Rows per optimizer step. Default: auto.")
]
MaxSteps = Annotated[int | None, typer.Option(help="Stop after this many optimizer steps, even within an epoch.")]
LearningRate = Annotated[
    str | None, typer.Option(metavar="NUMBER|auto", parser=str, help="Peak learning rate. Default: auto.")
]
Suffix = Annotated[str | None, typer.Option(help="Becomes part of the fine-tuned model's name.")]
Seed = Annotated[
    int | None, typer.Option(help="Makes the job reproducible. Default: a random seed, which the job records.")
]
Watch = Annotated[bool, typer.Option("--watch", "-w", help="Follow the job until it ends.")]
JobId = Annotated[str, typer.Argument(metavar="JOB_ID", help="A job's id, from `attune jobs list`.")]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Any other field, such as training.max_length=512. Repeatable."),
]
BodyFile = Annotated[
    Path | None,
    typer.Option("--body", help="A JSON file with the request body, or - for stdin. Options override its fields."),
]


class JobCommand(Command):
    """A command whose help lists the techniques and methods of the catalogue."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        # Imported only for this help page: no client command needs the catalogue, and its models are slow to build.
        from api.spec.catalog import METHODS, TECHNIQUES  # noqa: PLC0415

        ranked = [name for name, technique in TECHNIQUES.items() if "rank" in technique.model_fields]
        names = {"{techniques}": TECHNIQUES, "{methods}": METHODS, "{ranked}": ranked}
        for option in self.params:
            for placeholder, entries in names.items():
                option.help = (option.help or "").replace(placeholder, ", ".join(entries))  # type: ignore[attr-defined]
        super().format_help(ctx, formatter)

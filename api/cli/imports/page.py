"""The page of a comparison: one HTML file without scripts, which requests nothing."""

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment

from api.cli.client import Document

TEMPLATE = Path(__file__).with_name("page.html")


def comparison_page(jobs: Sequence[Document]) -> str:
    environment = Environment(autoescape=True, trim_blocks=True)
    environment.filters |= {"reward": format_reward, "prompt": prompt_text}
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(jobs=jobs)


def format_reward(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def prompt_text(request: Document) -> str:
    """Return the prompt as one text, each message after its role."""
    if "prompt" in request:
        return str(request["prompt"])
    return "\n".join(f"{message['role']}: {message.get('content') or ''}" for message in request["messages"])

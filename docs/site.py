"""Pages of the site: `python -m docs.site`, as a part of `make site`.

The pages of docs/ have links that work on GitHub. Here each page is copied with links that work on the site: a linked
file outside of docs/ becomes a page if `OUTSIDE` names it, and a text file otherwise.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from api.dashboard.documentation import OUTSIDE
from api.dashboard.reference import pages
from api.main import create_app
from api.settings import Settings
from api.spec.fields import JsonObject

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
OUTPUT = ROOT / "build" / "pages"

_LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)\s#]+)")


def build(output: Path) -> None:
    """Write the pages, and the files that they link, into an empty folder."""
    shutil.rmtree(output, ignore_errors=True)
    sources = {path: output / path.relative_to(DOCS) for path in DOCS.rglob("*.md")}
    sources |= {ROOT / name: output / target for name, target in OUTSIDE.items()}
    for source, target in sources.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(_relinked(source, sources, output), encoding="utf-8")
    for name, text in pages(openapi()).items():
        (output / name).write_text(text, encoding="utf-8")


def _relinked(source: Path, sources: Mapping[Path, Path], output: Path) -> str:
    """Return the page's text with links of the site, and copy the linked files that are no pages."""

    def target(match: re.Match[str]) -> str:
        linked = (source.parent / match[1]).resolve()
        target = sources.get(linked, output / "files" / f"{linked.relative_to(ROOT)}.txt")
        if linked not in sources:
            target.parent.mkdir(parents=True, exist_ok=True)
            names = "\n".join(sorted(path.name for path in linked.iterdir())) if linked.is_dir() else None
            target.write_text(names or linked.read_text(encoding="utf-8"), encoding="utf-8")
        return os.path.relpath(target, sources[source].parent)

    return _LINK.sub(target, source.read_text(encoding="utf-8"))


def openapi() -> JsonObject:
    """Return the OpenAPI document of this version."""
    with tempfile.TemporaryDirectory() as folder:
        app = create_app(Settings(data_dir=Path(folder)))
        document = app.openapi()
        app.state.context.database.dispose()
    return document


if __name__ == "__main__":
    build(OUTPUT)

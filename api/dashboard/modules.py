"""The scripts that a view needs. The page names all of them, so that a browser loads them at the same time instead of
finding one import after the other."""

import posixpath
import re
from pathlib import Path

ASSETS = Path(__file__).parent / "assets"
CHART_MODULE, CHART_SCRIPT = "line-chart.js", "uplot.iife.min.js"
"""The module that draws charts, and the classic script that it loads."""

IMPORT = re.compile(r'^(?:import|export)\b[^;]*?\bfrom "(\.[^"]+)"', re.MULTILINE)


def needed_by(view: str) -> list[str]:
    """Return the paths, below the assets, of the frame's module, the view's, and all that they import."""
    found: list[str] = []
    left = ["app.js", f"views/{view}.js"]
    for path in left:  # grows on the way
        if path not in found:
            found.append(path)
            imports = IMPORT.findall((ASSETS / path).read_text())
            left += [posixpath.normpath(posixpath.join(posixpath.dirname(path), name)) for name in imports]
    return found

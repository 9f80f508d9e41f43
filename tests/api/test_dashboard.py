"""The dashboard's page: the scripts that it names for each view."""

import re

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from tests.conftest import EMBEDDED

SETTINGS = EMBEDDED


@pytest.mark.parametrize(
    ("address", "named", "absent"),
    [
        ("/", {"app.js", "views/jobs.js", "table.js"}, "uplot.iife.min.js"),
        (
            "/jobs/ftjob-1",
            {"views/job.js", "line-chart.js", "training-curves.js", "uplot.iife.min.js"},
            "views/jobs.js",
        ),
        ("/new", {"views/new.js", "schema-form.js", "upload.js"}, "uplot.iife.min.js"),
    ],
)
def test_a_page_names_all_scripts_of_its_view(app: FastAPI, address: str, named: set[str], absent: str) -> None:
    browser = TestClient(app)
    scripts = re.findall(r'(?:src|href)="(/assets/[^"]+\.js)"', browser.get(address).text)
    assert named <= {script.split("/", 3)[3] for script in scripts}
    assert not any(script.endswith(absent) for script in scripts)
    assert [browser.get(script).status_code for script in scripts] == [200] * len(scripts)

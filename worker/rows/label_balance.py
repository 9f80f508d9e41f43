"""Checks of all labels of a file together: whether a model can learn anything from them."""

from typing import Literal

from worker.rows.findings import Findings
from worker.rows.labels import ClassColumn, LabelColumn

UNBALANCED_SHARE = 0.9
"""A warning is given if more than this share of all labels are the same label, because a model that always predicts
that label is then nearly always right."""
MANY_ROWS = 20
"""Smallest number of rows for the warning about many different labels. In fewer rows, hardly any label repeats."""


def check_labels(
    labels: LabelColumn | None, findings: Findings, kind: Literal["training", "validation", "unknown"]
) -> None:
    """Add the findings about the labels as a whole. Labels that leave nothing to learn are an error in a training file
    and a warning in a file of unknown use; a validation file is not checked."""
    if labels is None or kind == "validation":
        return
    report = findings.error if kind == "training" else findings.warning
    for warning in labels.warnings():
        findings.warning(None, warning.code, warning.message)
    counts = labels.counts()
    total = sum(counts.values())
    if isinstance(labels, ClassColumn) and labels.decided_problem() == "multi_label" and not total:
        report(None, "no_label", "No row has a label. Give at least one row a label.")
    if not total:
        return
    name, most = max(counts.items(), key=lambda entry: entry[1])
    single = isinstance(labels, ClassColumn) and labels.decided_problem() == "single_label"
    if isinstance(labels, ClassColumn) and single and len(labels.allowed or counts) == 1:
        message = f"Every row has the label '{name}'. Training needs rows of at least two labels."
        report(None, "one_label", message)
    elif most > UNBALANCED_SHARE * total:
        findings.warning(None, "unbalanced_labels", f"{most} of {total} labels are '{name}'.")
    if single and total >= MANY_ROWS and 2 * len(counts) > total:
        message = f"There are {len(counts)} different labels in {total} rows, so most labels have too few rows."
        findings.warning(None, "many_labels", message)

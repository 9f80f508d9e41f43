"""What the labels of a whole file leave to learn."""

from typing import Literal

from worker.rows.findings import Findings
from worker.rows.labels import Classes, Labels

UNBALANCED_SHARE = 0.9
"""Of the rows: a label that more of them have is learnt by always saying it."""
MANY_ROWS = 20
"""Fewer rows tell nothing about how often a label comes again."""


def check_labels(labels: Labels | None, findings: Findings, use: Literal["training", "validation", "unknown"]) -> None:
    """Add what is to be said of all labels together. Where they leave nothing to learn, a training file is invalid."""
    if labels is None or use == "validation":
        return
    refuse = findings.error if use == "training" else findings.warning
    for notice in labels.notices():
        findings.warning(None, notice.code, notice.message)
    counts = labels.counts()
    total = sum(counts.values())
    if isinstance(labels, Classes) and labels.decide() == "multi_label" and not total:
        refuse(None, "no_label", "No row has a label, so there is nothing to learn.")
    if not total:
        return
    name, most = max(counts.items(), key=lambda entry: entry[1])
    single = isinstance(labels, Classes) and labels.decide() == "single_label"
    if isinstance(labels, Classes) and single and len(labels.allowed or counts) == 1:
        message = f"Every row has the label '{name}', so there is nothing to tell apart."
        refuse(None, "one_label", message)
    elif most > UNBALANCED_SHARE * total:
        findings.warning(None, "unbalanced_labels", f"{most} of {total} labels are '{name}'.")
    if single and total >= MANY_ROWS and 2 * len(counts) > total:
        message = f"{len(counts)} different labels in {total} rows: most of them cannot be learnt."
        findings.warning(None, "many_labels", message)

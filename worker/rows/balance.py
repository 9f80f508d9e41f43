"""Whether a file's labels leave something to learn."""

from worker.rows.findings import Findings
from worker.rows.invalid import FileRequest
from worker.rows.labels import Classes, Labels

UNBALANCED_SHARE = 0.9
"""Of the rows: a label that more of them have is learnt by always saying it."""


def check_balance(file: FileRequest, labels: Labels | None, findings: Findings) -> None:
    counts = {} if labels is None else labels.counts()
    total = sum(counts.values())
    if file.kind == "validation":
        return
    if isinstance(labels, Classes) and labels.decide() == "multi_label" and not total:
        findings.error(None, "no_label", "No row has a label, so there is nothing to learn.")
    if not total:
        return
    name, most = max(counts.items(), key=lambda entry: entry[1])
    one = isinstance(labels, Classes) and labels.decide() == "single_label" and len(labels.allowed or counts) == 1
    if one:
        message = f"Every row has the label '{name}', so there is nothing to tell apart."
        findings.error(None, "one_label", message)
    elif most > UNBALANCED_SHARE * total:
        findings.warning(None, "unbalanced_labels", f"{most} of {total} labels are '{name}'.")

"""The evaluation worker: a process that samples and grades the items of runs of evals, in the background."""

"""What users may request (jobs, batches, evals) and what a job becomes: pure data and rules, without I/O or torch."""

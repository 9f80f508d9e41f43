"""The request for a job and its resolved form: data and rules, without I/O or torch."""

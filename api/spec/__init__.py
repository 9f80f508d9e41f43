"""What a job may ask for and what it becomes: data and rules, without I/O or torch."""

"""Sampling from the model and grading the samples."""

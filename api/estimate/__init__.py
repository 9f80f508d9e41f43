"""Estimates of a job before it runs: trained weights, memory, time. Pure functions, without torch."""

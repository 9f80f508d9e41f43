"""Builds of the Dockerfile without a Docker engine, and runs of its images. `make images-check` needs root."""

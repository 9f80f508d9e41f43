"""What is optimised: one file for each method of `api.methods`, of the same name, with its loss."""

from worker.methods import supervised

METHODS = {"supervised": supervised}

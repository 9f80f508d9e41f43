"""Answers of base and fine-tuned models to requests, in the sampler's child process."""

"""Reads and checks users' rows and turns them into arrays of tokens, mainly for `worker.prepare`, `worker.scan` and
`worker.preview`. Imports neither torch nor transformers."""

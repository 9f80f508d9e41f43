"""Evals and their runs: the fields of OpenAI's requests, and the rules for them. Pure: no database, no HTTP."""

"""Evals: what an eval and its runs may ask for, as OpenAI's API has it. Pure: no database, no HTTP."""

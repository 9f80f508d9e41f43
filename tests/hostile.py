"""Patterns over which a backtracking engine never ends, on the names of a language model's layers."""

CATASTROPHIC = ("([a-z0-9._]+)+!", "(.*)*(.*)*!", "(([a-z0-9._])*)*!", "(?i)([A-Z0-9._]|[a-z._])*!")
"""Python's `re` needs a time exponential in the length of a name to find that these do not match it."""
UNUSABLE = {
    "(": "missing )",
    "a)(b": "unexpected )",
    "(?!model).*q_proj": "no look-around",
    r"(q)_proj\1": "no look-around",
    "a{99999999999999}": "write repetitions as",
    "q{,2}_proj": "write repetitions as",
    "(?:[a-z0-9._]*){1000}": "too large",
}
"""Invalid patterns, each with a part of the error message."""

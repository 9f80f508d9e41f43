"""What a fork server is asked for: a message on its socket. The first message there lists the modules to import.

Open files come with a request, in this order: the socket on which the server reports the child's process id and then
its exit code, the child's standard input, its output (standard output and error), and one for each of `descriptors`.
"""

import msgspec


class ForkRequest(msgspec.Struct, forbid_unknown_fields=True):
    program: str
    """A module whose `main(*arguments)` returns the exit code."""
    arguments: list[str]
    environment: dict[str, str]
    """All of the child's environment variables, except those that were read when a library was loaded."""
    descriptors: list[str]
    """Variables that tell the program the number of an open file."""

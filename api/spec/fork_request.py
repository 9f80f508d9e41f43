"""A request to a fork server, which starts a child process by forking itself after its imports.

A request is a message on the server's socket. The first message on a socket lists the modules to import. Open files
come with a request, in this order: the socket on which the server reports the child's process id and then its exit
code, the child's standard input, its output (standard output and error), and one file for each of `descriptors`.
"""

import msgspec


class ForkRequest(msgspec.Struct, forbid_unknown_fields=True):
    program: str
    """A module whose `main(*arguments)` returns the exit code."""
    arguments: list[str]
    environment: dict[str, str]
    """All of the child's environment variables, except those that were read when a library was loaded."""
    descriptors: list[str]
    """Environment variables in which the child finds the numbers of the file descriptors that the request passes to it,
    one variable for each descriptor."""

"""A request to a fork server, which imports modules once and then starts each child process by forking itself.

The first message on the server's socket lists the modules to import. Each further message is a request. It passes file
descriptors in this order: the socket for reports, the child's standard input, the file for the child's standard output
and standard error, and one descriptor for each name in `descriptors`.

On the socket for reports, the child reports its process id and, at its end, the server reports its exit code. The child
runs its program once it receives GO on this socket. If the socket is closed instead, because the client waits no
longer, the child ends.
"""

import msgspec

GO = b"go"
PARENT = "ATTUNE_PARENT"
"""Environment variable in which a child finds the id of the process that has forked or started it. If the id of its
parent is another one, that process has ended."""


class ForkRequest(msgspec.Struct, forbid_unknown_fields=True):
    program: str
    """Name of the module to run. Its function `main(*arguments)` returns the exit code."""
    arguments: list[str]
    environment: dict[str, str]
    """All environment variables of the child. A library that the server has imported already keeps the values that it
    read then."""
    descriptors: list[str]
    """Names of the environment variables that hold the numbers of the file descriptors passed to the child, one name
    for each descriptor."""

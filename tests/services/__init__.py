"""Real servers for the tests, from wheels: nothing has to be installed beforehand.

Each is a child process on loopback with a free port and a folder of its own, so that parallel test runs never meet.
"""

from tests.services.attune import AttunePart, AttuneUp
from tests.services.postgres import Postgres
from tests.services.s3 import SeaweedS3
from tests.services.valkey import Valkey

__all__ = ["AttunePart", "AttuneUp", "Postgres", "SeaweedS3", "Valkey"]

"""How OpenMP's threads wait for each other. Import it before torch: the library reads its environment when it loads.

By default a waiting thread spins for milliseconds. On a machine with other work that takes the core from the very
thread that it waits for: steps became three times slower, and small operations took a scheduler's whole tick
(docs/engine-log.md).
"""

import os

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # about a tenth of a millisecond; then sleep

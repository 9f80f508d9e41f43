"""`python -m api.batch_worker`: one batch worker. `attune worker` starts it, with its settings as environment
variables."""

import gc

gc.disable()  # garbage collection would take a sixth of the import time and free little

# isort: split
from api.background.worker import serve
from api.batch_worker.worker import BatchWorker
from api.infra.logs import configure_logging
from api.settings import load_settings
from api.spec.lifecycle import BATCH

gc.freeze()
gc.enable()
settings = load_settings()
configure_logging(settings.log_level)
serve(settings, BATCH, BatchWorker)

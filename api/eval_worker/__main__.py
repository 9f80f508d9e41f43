"""`python -m api.eval_worker`: one evaluation worker. `attune worker` starts it, with its settings as environment
variables."""

import gc
from dataclasses import replace

gc.disable()  # garbage collection would take a sixth of the import time and free little

# isort: split
from api.background.worker import serve
from api.context import Context
from api.eval_worker.worker import EvalWorker
from api.infra.leftover_previews import removing_leftover_previews
from api.infra.logs import configure_logging
from api.infra.preview_process import PreviewProcesses
from api.settings import load_settings
from api.spec.lifecycle import EVALUATE


def worker(context: Context) -> EvalWorker:
    return EvalWorker(replace(context, previews=PreviewProcesses(context.settings, ("worker.evaluate",))))


gc.freeze()
gc.enable()
settings = load_settings()
configure_logging(settings.log_level)
with removing_leftover_previews(settings):
    serve(settings, EVALUATE, worker)

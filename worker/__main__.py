"""`python -m worker STAGE`: one worker process. Its settings are variables; `attune worker` sets them from flags."""

import sys

from api.lifecycle import Stage
from api.logs import configure_logging
from api.settings import load_settings
from worker.app import run

settings = load_settings()
configure_logging(settings.log_level)
run(settings, Stage(sys.argv[1]))

"""`python -m worker STAGE`: one worker process. Its settings are variables; `attune worker` sets them from flags."""

import sys

from api.lifecycle import SAMPLE, Stage
from api.logs import configure_logging
from api.settings import load_settings
from api.tracking import MissingLibrary, require_libraries
from worker.app import run
from worker.supervisor import sampling

settings = load_settings()
configure_logging(settings.log_level)
if sys.argv[1] == SAMPLE:
    sampling.run(settings)
else:
    try:
        require_libraries(settings)
    except MissingLibrary as error:
        sys.exit(str(error))
    run(settings, Stage(sys.argv[1]))

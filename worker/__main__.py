"""`python -m worker STAGE`: one worker process. Its settings are variables; `attune worker` sets them from flags."""

import sys

from api.lifecycle import DELIVER, SAMPLE, Stage
from api.logs import configure_logging
from api.settings import load_settings
from worker import app
from worker.delivery import app as delivery
from worker.supervisor import sampling

settings = load_settings()
configure_logging(settings.log_level)
stage = sys.argv[1]
if stage == SAMPLE:
    sampling.run(settings)
elif stage == DELIVER:
    delivery.run(settings)
else:
    app.run(settings, Stage(stage))

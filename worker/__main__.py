"""`python -m worker STAGE`: one worker process. Its settings are environment variables, which `attune worker` sets."""

import os
import sys

os.environ.setdefault("NOSETPS", "1")  # Celery, once imported, would give this process another name in ps

# isort: split
from api.infra.logs import configure_logging
from api.settings import load_settings
from api.spec.lifecycle import DELIVER, SAMPLE, Stage
from worker import app
from worker.delivery import app as delivery
from worker.supervisor import sample

settings = load_settings()
configure_logging(settings.log_level)
stage = sys.argv[1]
if stage == SAMPLE:
    sample.run(settings)
elif stage == DELIVER:
    delivery.run(settings)
else:
    app.run(settings, Stage(stage))

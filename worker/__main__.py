"""`python -m worker STAGE`: one worker process for prepare, train, sample or deliver.

Its settings are environment variables, which `attune worker` sets.
"""

import gc
import os
import sys
from functools import partial

os.environ.setdefault("NOSETPS", "1")  # otherwise Celery would change the name that ps shows for this process
gc.disable()  # garbage collection would take a sixth of the import time and free little

# isort: split
from api.infra.logs import configure_logging
from api.settings import load_settings
from api.spec.lifecycle import DELIVER, SAMPLE, Stage

settings = load_settings()
configure_logging(settings.log_level)
stage = sys.argv[1]
# Each process imports the code of its own stage only.
if stage == SAMPLE:
    from worker.supervisor import sample

    run = partial(sample.run, settings)
elif stage == DELIVER:
    from worker.delivery import app as delivery

    run = partial(delivery.run, settings)
else:
    from worker import app

    run = partial(app.run, settings, Stage(stage))
gc.freeze()
gc.enable()
run()

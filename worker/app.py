"""A worker process for one stage, started by `attune worker`.

Celery receives "rings": messages that carry no work, but make a thread query the queue. Some threads work on the jobs
that they find there, and another thread finds lost jobs.
"""

import contextlib
import threading
import warnings

import structlog
from celery import Celery
from celery.exceptions import SecurityWarning
from celery.signals import setup_logging, worker_shutting_down
from celery.worker import state
from sqlalchemy.exc import SQLAlchemyError

from api.context import Context
from api.infra.doorbell import celery_app, queue_name
from api.records import workers
from api.settings import Settings
from api.spec.lifecycle import Stage
from worker.shared.torch_version import require_torch
from worker.supervisor.loop import work_until_idle
from worker.supervisor.lost_jobs import Sweeper, housekeep, requeue_own
from worker.supervisor.node import Node

log = structlog.get_logger(__name__)

RESTART_S = 2


def run(settings: Settings, stage: Stage) -> None:
    """Work on the jobs of one stage until SIGTERM or SIGINT. Then let trainers save their state, and requeue their
    jobs."""
    if stage is Stage.TRAIN:
        require_torch()
    context = Context.open(settings)
    node = Node.open(context, stage)
    requeue_own(node)
    wake = threading.Event()
    threading.Thread(target=Sweeper(node, wake).run, name="sweep", daemon=True).start()
    threading.Thread(target=housekeep, args=(node,), name="housekeeping", daemon=True).start()
    concurrency = node.slots.count + (stage is Stage.PREPARE)  # one more thread scans files
    threads = [threading.Thread(target=_work_when_woken, args=(node, wake)) for _ in range(concurrency)]
    for thread in threads:
        thread.start()
    worker_shutting_down.connect(lambda **_: node.stopping.set(), weak=False)
    setup_logging.connect(lambda **_: None, weak=False)  # keeps Celery from replacing our logging
    log.info("worker_ready", stage=stage, owner=node.owner, slots=node.slots.count)
    try:
        _run_celery(settings, node, concurrency)
    finally:
        node.stopping.set()
        wake.set()
        for thread in threads:
            thread.join()  # a thread ends after its trainer has saved a state
        with contextlib.suppress(SQLAlchemyError), context.database.write() as session:
            workers.record_stop(session, node.owner)


def _run_celery(settings: Settings, node: Node, concurrency: int) -> None:
    """Run Celery until the worker shuts down. Restart it if it ends for another reason."""
    # Celery warns when it runs as root, because a message might hold a pickle. Only JSON is accepted here.
    warnings.simplefilter("ignore", SecurityWarning)
    while not node.stopping.is_set():
        app = build(settings, node)
        state.should_stop = state.should_terminate = None
        try:
            app.worker_main(
                [
                    "--quiet",  # Celery's banner is not JSON, unlike our log lines
                    "worker",
                    "--pool=threads",
                    f"--concurrency={concurrency}",
                    f"--queues={queue_name(node.stage)}",
                    f"--hostname={node.stage}@%h",
                    "--without-gossip",
                    "--without-mingle",
                    "--without-heartbeat",
                ]
            )
        except (Exception, SystemExit):
            log.exception("celery_failed")
        if not node.stopping.wait(RESTART_S):
            log.error("celery_ended", why="the broker answers with errors: see above")


def build(settings: Settings, node: Node) -> Celery:
    app = celery_app(settings.broker_url)
    app.conf.update(
        worker_disable_prefetch=True,  # a prefetched ring would wait behind an hour of training
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_max_retries=None,
        broker_transport="worker.supervisor.redis_transport:Transport",
    )

    @app.task(name=queue_name(node.stage))  # type: ignore[untyped-decorator]
    def ring(job_id: str) -> None:
        log.info("rung", job_id=job_id)
        work_until_idle(node)

    return app


def _work_when_woken(node: Node, wake: threading.Event) -> None:
    """Work on waiting jobs whenever the sweep has set `wake`, in case the jobs' rings were lost."""
    while not node.stopping.is_set():
        if wake.wait(1.0) and not node.stopping.is_set():
            wake.clear()
            try:
                work_until_idle(node)
            except Exception:
                log.exception("work_failed")

"""A worker process: Celery hears the bell for one stage, its threads supervise, a thread sweeps.

Run by `attune worker`. Celery's part is small on purpose: a message only says that it is worth looking at the queue.
"""

import threading

import structlog
from celery import Celery
from celery.signals import setup_logging, worker_shutting_down
from celery.worker import state

from api.context import Context
from api.infra.doorbell import celery_app, queue_name
from api.settings import Settings
from api.spec.lifecycle import Stage
from worker.shared.torch_version import require_torch
from worker.supervisor.loop import work_until_idle
from worker.supervisor.node import Node
from worker.supervisor.sweep import Sweeper, housekeep, take_back_own
from worker.supervisor.warm_trainers import WarmTrainers

log = structlog.get_logger(__name__)

HEAR_AGAIN_S = 2


def run(settings: Settings, stage: Stage) -> None:
    """Serve one stage until SIGTERM or SIGINT; then let trainers save, and put their jobs back."""
    if stage is Stage.TRAIN:
        require_torch()
    context = Context.open(settings)
    node = Node.open(context, stage)
    take_back_own(node)
    warm = WarmTrainers(node)
    if stage is Stage.TRAIN:
        warm.warm_up(node.slots.first)
    look = threading.Event()
    threading.Thread(target=Sweeper(node, look).run, name="sweep", daemon=True).start()
    threading.Thread(target=housekeep, args=(node,), name="housekeeping", daemon=True).start()
    threads = node.slots.count + (stage is Stage.PREPARE)  # one scans files, beside the slots
    lookers = [threading.Thread(target=_look_when_told, args=(node, warm, look)) for _ in range(threads)]
    for looker in lookers:
        looker.start()
    worker_shutting_down.connect(lambda **_: node.stopping.set(), weak=False)
    setup_logging.connect(lambda **_: None, weak=False)  # our logging stays as it is
    log.info("worker_ready", stage=stage, owner=node.owner, slots=node.slots.count)
    try:
        _hear(settings, node, warm, threads)
    finally:
        node.stopping.set()
        for looker in lookers:
            looker.join()  # a trainer that it supervises saves first
        warm.close()


def _hear(settings: Settings, node: Node, warm: WarmTrainers, threads: int) -> None:
    """Hear the bell until the worker is to stop. Celery that ended for another reason begins again."""
    while not node.stopping.is_set():
        app = build(settings, node, warm)
        state.should_stop = state.should_terminate = None
        try:
            app.worker_main(
                [
                    "worker",
                    "--pool=threads",
                    f"--concurrency={threads}",
                    f"--queues={queue_name(node.stage)}",
                    f"--hostname={node.stage}@%h",
                    "--without-gossip",
                    "--without-mingle",
                    "--without-heartbeat",
                ]
            )
        except (Exception, SystemExit):
            log.exception("celery_broke")
        if not node.stopping.wait(HEAR_AGAIN_S):
            log.error("celery_ended", why="the broker answers with errors: see above")


def build(settings: Settings, node: Node, warm: WarmTrainers) -> Celery:
    app = celery_app(settings.broker_url)
    app.conf.update(
        worker_disable_prefetch=True,  # else a ring would wait behind an hour of training
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_max_retries=None,
        broker_transport="worker.supervisor.redis_transport:Transport",
    )
    add_task(app, node, warm)
    return app


def _look_when_told(node: Node, warm: WarmTrainers, look: threading.Event) -> None:
    """The sweep saw that something waits: look at the queue without having heard the bell."""
    while not node.stopping.is_set():
        if look.wait(1.0):
            look.clear()
            try:
                work_until_idle(node, warm)
            except Exception:
                log.exception("look_failed")


log = structlog.get_logger(__name__)


def add_task(app: Celery, node: Node, warm: WarmTrainers) -> None:
    @app.task(name=queue_name(node.stage))  # type: ignore[untyped-decorator]
    def rung(job_id: str) -> None:
        log.info("rung", job_id=job_id)
        work_until_idle(node, warm)

"""How fast the dashboard is in a headless Chromium: time to the first chart or row, long frames, memory.

    python -m benchmarks.page

The server runs in a process of its own, with a job of 100,000 steps that streams 50 more in a second, and a list of
1,000 jobs.
"""

import logging
import math
import multiprocessing
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

import structlog
from playwright.sync_api import Browser, Page
from sqlalchemy import insert

from api.main import create_app
from api.records import Database, charted_steps
from api.records.charted_steps import KEPT, ChartedStep
from api.records.events import Event
from api.records.jobs import Job
from api.records.migrate import migrate
from api.services import keys
from api.settings import Settings
from api.spec.lifecycle import JobStatus
from tests.api.served import listening
from tests.browser.chromium import Visitor, chromium
from tests.factories import a_job, a_project

STEPS, STEPS_PER_S, STREAMED_S = 100_000, 50, 30
JOBS = 1000
ROUNDS = 5

WATCH = """
window.tasks = [];
new PerformanceObserver((list) => window.tasks.push(...list.getEntries().map(({ duration }) => duration)))
  .observe({ type: "longtask", buffered: true });
new MutationObserver((_, observer) => {
  if (!document.querySelector("figure.chart canvas, tbody tr")) return;
  observer.disconnect();
  requestAnimationFrame(() => setTimeout(() => { window.seen = performance.now(); }));
}).observe(document, { childList: true, subtree: true });
"""


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="attune-") as folder, chromium() as browser:
        settings = Settings(data_dir=Path(folder))
        database = Database(settings.database)
        migrate(database)
        job_id = filled(database)
        with serving(settings) as (address, key):
            print("| page | first chart or row | longest task | tasks over 50 ms | memory |\n|---|---|---|---|---|")
            for name, path in (("job of 100,000 steps", f"/jobs/{job_id}"), ("list of 1,000 jobs", "/jobs")):
                visitors = [opened(browser, address, key, path) for _ in range(ROUNDS)]
                report(f"{name}, opened", visitors)
                for visitor in visitors[1:]:
                    visitor.context.close()
                page = visitors[0].page
                page.evaluate("window.tasks = []")
                if path == "/jobs":
                    show_all(page)
                    report(f"{name}, ten pages of it shown", visitors[:1])
                else:
                    stream(database, job_id, page)
                    report(f"{name}, {STREAMED_S} s of its stream", visitors[:1])
                visitors[0].context.close()
        database.dispose()


def filled(database: Database) -> str:
    """Add JOBS jobs, and return the id of a running one with STEPS steps."""
    project = a_project(database)
    job_id = a_job(database, project, JobStatus.RUNNING)
    for start in range(0, STEPS, KEPT):
        add_steps(database, job_id, range(start, min(STEPS, start + KEPT)))
    with database.write() as session:
        job = session.get_one(Job, job_id)
        shared = {"project_id": project, "status": "succeeded", "recipe": job.recipe, "base_model": "tiny"}
        fixed = {**shared, "training_file": "file-none", "seed": 0, "model_id": "ft:tiny:attune::x"}
        rows = [{**fixed, "id": f"ftjob-many-{number}", "created_at": 1e9 + number} for number in range(JOBS - 1)]
        session.execute(insert(Job), rows)
    return job_id


def add_steps(database: Database, job_id: str, steps: range) -> None:
    """Add the metrics of KEPT steps, and thin the charted ones, as a supervisor does."""
    shared = {"job_id": job_id, "created_at": time.time(), "level": "info", "type": "metrics"}
    rows = [{**shared, "id": f"ftevent-{step}", "message": f"Step {step}", "data": measured(step)} for step in steps]
    with database.write() as session:
        numbers = session.scalars(insert(Event).returning(Event.seq, sort_by_parameter_order=True), rows)
        charted = [{"job_id": job_id, "step": step, "seq": seq} for step, seq in zip(steps, numbers, strict=True)]
        session.execute(insert(ChartedStep), charted)
        charted_steps.thin(session, job_id)


def measured(step: int) -> dict[str, float]:
    """Return the metrics of a step: a falling loss with noise, and an evaluation every 1,000 steps."""
    noise = math.sin(step * 12.9898) * 0.2
    loss = 1 + 4 / (1 + step / 2000) + noise
    found = {"step": step, "total_steps": 4 * STEPS, "train_loss": loss, "train_mean_token_accuracy": 1 / loss}
    found |= {"learning_rate": 2e-4, "grad_norm": 2 + noise, "tokens_per_second": 4000 + 900 * noise}
    return found | ({"valid_loss": loss + 0.1} if step % 1000 == 0 else {})


@contextmanager
def serving(settings: Settings) -> Iterator[tuple[str, str]]:
    """Serve the API from a process of its own. Yield its address and a key."""
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(settings, theirs))
    process.start()
    yield ours.recv()
    ours.send("stop")
    process.join(30)


def serve(settings: Settings, parent: Connection) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    app = create_app(settings)
    _, key = keys.create(app.state.context, project="default", name="bench", scope="write")
    with listening(app) as address:
        parent.send((address, key))
        parent.recv()


def opened(browser: Browser, address: str, key: str, path: str) -> Visitor:
    """Open a page in a browser without a cache, and wait until it is quiet."""
    visitor = Visitor(browser, address)
    visitor.sign_in(key)
    visitor.page.add_init_script(WATCH)
    visitor.page.goto(path)
    visitor.page.locator("figure.chart canvas, tbody tr").first.wait_for()
    visitor.page.wait_for_timeout(2000)
    return visitor


def stream(database: Database, job_id: str, page: Page) -> None:
    """Add steps for STREAMED_S seconds while the page shows them."""

    def add() -> None:
        for step in range(STEPS, STEPS + STREAMED_S * STEPS_PER_S):
            with database.write() as session:
                charted_steps.add(session, job_id, f"Step {step}", measured(step))
            time.sleep(1 / STEPS_PER_S)

    writer = threading.Thread(target=add)
    writer.start()
    while writer.is_alive():
        page.wait_for_timeout(500)


def show_all(page: Page) -> None:
    more = page.get_by_role("button", name="more")
    for shown in range(200, JOBS + 1, 100):
        more.click()
        page.locator("tbody tr").nth(shown - 1).wait_for()


def report(name: str, visitors: list[Visitor]) -> None:
    seen = [visitor.page.evaluate("window.seen") for visitor in visitors]
    tasks = [task for visitor in visitors for task in visitor.page.evaluate("window.tasks")]
    heap = max(visitor.page.evaluate("performance.memory.usedJSHeapSize") for visitor in visitors)
    first = f"{median(seen):.0f} ms (largest {max(seen):.0f})" if len(seen) > 1 else ""
    count = len(tasks) / len(visitors)
    print(f"| {name} | {first} | {max(tasks, default=0):.0f} ms | {count:.1f} | {heap / 1e6:.0f} MB |", flush=True)


if __name__ == "__main__":
    main()

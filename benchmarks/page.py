"""How fast the dashboard is in a headless Chromium: time to the first chart or row, long frames, memory.

    python -m benchmarks.page

The server runs in a process of its own, with a job of 100,000 steps that streams 50 more in a second, and a list of
1,000 jobs.
"""

import json
import logging
import math
import multiprocessing
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
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
new MutationObserver((_, observer) => {
  if (!document.querySelector("figure.chart canvas, tbody tr")) return;
  observer.disconnect();
  requestAnimationFrame(() => setTimeout(() => { window.seen = performance.now(); }));
}).observe(document, { childList: true, subtree: true });
"""
SEEN = "new Promise((found) => { (function look() { window.seen ? found(window.seen) : setTimeout(look, 50); })(); })"
LONG_MS = 50


@dataclass
class Tasks:
    """The tasks of a page's main thread: their time on the clock, and on the processor, which other programs do not
    stretch."""

    clock_ms: list[float] = field(default_factory=list)
    processor_ms: list[float] = field(default_factory=list)

    def add(self, trace: bytes) -> None:
        events = json.loads(trace)["traceEvents"]
        named = [event for event in events if event.get("name") == "thread_name"]
        threads = {(event["pid"], event["tid"]) for event in named if event["args"]["name"] == "CrRendererMain"}
        for event in events:
            if event["name"] == "RunTask" and (event["pid"], event["tid"]) in threads:
                self.clock_ms.append(event.get("dur", 0) / 1000)
                self.processor_ms.append(event.get("tdur", 0) / 1000)


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="attune-") as folder, chromium() as browser:
        settings = Settings(data_dir=Path(folder))
        database = Database(settings.database)
        migrate(database)
        job_id = filled(database)
        with serving(settings) as (address, key):
            print("| page | first chart or row | longest task, of processor | tasks over 50 ms | memory |")
            print("|---|---|---|---|---|")
            measure_job(browser, address, key, database, job_id)
            measure_list(browser, address, key)
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


def measure_job(browser: Browser, address: str, key: str, database: Database, job_id: str) -> None:
    path = f"/jobs/{job_id}"
    open_often(browser, address, key, path, "job of 100,000 steps, opened")
    with opened(browser, address, key, path) as page:
        tasks = Tasks()
        with traced(browser, page, tasks):
            stream(database, job_id, page)
        report(f"{STREAMED_S} s of its stream, {STEPS_PER_S} steps a second", [], tasks, [heap_of(page)])


def measure_list(browser: Browser, address: str, key: str) -> None:
    open_often(browser, address, key, "/jobs", "list of 1,000 jobs, opened")
    with opened(browser, address, key, "/jobs") as page:
        tasks = Tasks()
        with traced(browser, page, tasks):
            more = page.get_by_role("button", name="more")
            for shown in range(200, JOBS + 1, 100):
                more.click()
                page.locator("tbody tr").nth(shown - 1).wait_for()
        report("its other 900 shown, 100 by 100", [], tasks, [heap_of(page)])


def open_often(browser: Browser, address: str, key: str, path: str, name: str) -> None:
    seen, tasks, heaps = [], Tasks(), []
    for _ in range(ROUNDS):
        with opened(browser, address, key, path, tasks) as page:
            seen.append(float(page.evaluate(SEEN)))
            heaps.append(heap_of(page))
    report(name, seen, tasks, heaps)


@contextmanager
def opened(browser: Browser, address: str, key: str, path: str, tasks: Tasks | None = None) -> Iterator[Page]:
    """Open a page in a browser without a cache, and wait until it is quiet."""
    visitor = Visitor(browser, address)
    visitor.sign_in(key)
    visitor.page.add_init_script(WATCH)
    with traced(browser, visitor.page, tasks):
        visitor.page.goto(path)
        visitor.page.locator("figure.chart canvas, tbody tr").first.wait_for()
        visitor.page.wait_for_timeout(2000)
    yield visitor.page
    visitor.context.close()


@contextmanager
def traced(browser: Browser, page: Page, tasks: Tasks | None) -> Iterator[None]:
    """Add the tasks of the block to `tasks`."""
    if tasks is None:
        yield
        return
    browser.start_tracing(page=page, categories=["devtools.timeline", "disabled-by-default-devtools.timeline"])
    yield
    tasks.add(browser.stop_tracing())


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


def heap_of(page: Page) -> float:
    return float(page.evaluate("performance.memory.usedJSHeapSize"))


def report(name: str, seen: list[float], tasks: Tasks, heaps: list[float]) -> None:
    first = f"{median(seen):.0f} ms (longest {max(seen):.0f})" if seen else ""
    longest = f"{max(tasks.clock_ms):.0f} ms, {max(tasks.processor_ms):.0f} ms"
    over = sum(each > LONG_MS for each in tasks.clock_ms), sum(each > LONG_MS for each in tasks.processor_ms)
    print(f"| {name} | {first} | {longest} | {over[0]}, {over[1]} | {max(heaps) / 1e6:.0f} MB |", flush=True)


if __name__ == "__main__":
    main()

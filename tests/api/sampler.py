"""A sampler without models: a real letterbox, and answers made up."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from api.infra.sample_queue import Consumer, SampleJob
from api.settings import Settings
from api.spec.sampling import SampledModel

Script = Callable[[SampleJob], list[dict[str, Any]]]


def text(said: str, index: int = 0, **fields: Any) -> dict[str, Any]:
    return {"type": "text", "index": index, "text": said, "tokens": None} | fields


def finished(index: int = 0, reason: str = "stop", tokens: int = 3, reasoning_tokens: int = 0) -> dict[str, Any]:
    counts = {"tokens": tokens, "reasoning_tokens": reasoning_tokens}
    return {"type": "finished", "index": index, "reason": reason, **counts}


def reasons(reasoning: str, said: str) -> Script:
    """An answer of three tokens after its reasoning, of which two are the reasoning's."""
    piece = {"type": "reasoning", "index": 0, "text": reasoning}
    reports = [{"type": "started", "prompt_tokens": 5}, piece, text(said), finished(reasoning_tokens=2)]
    return lambda letter: [*reports, {"type": "done"}]


def says(*pieces: str) -> Script:
    started = {"type": "started", "prompt_tokens": 5}
    return lambda letter: [started, *map(text, pieces), finished(), {"type": "done"}]


def ends(**last: Any) -> Script:
    """With this report alone."""
    return lambda letter: [last]


def a_request(name: str, project: str, **ask: object) -> SampleJob:
    """Of a base model without files."""
    model: SampledModel = {"base": {"digest": "d", "artifacts": []}, "adapter": None, "technique": None}
    return SampleJob(name, project, {"ask": ask, "model": model})


@contextmanager
def sampler(settings: Settings, script: Script) -> Iterator[list[SampleJob]]:
    """Answers everything as the script says. What it was asked is in the list."""
    receiver, stop, asked = Consumer(settings.broker_url, "scripted"), threading.Event(), list[SampleJob]()
    receiver.beat()

    def work() -> None:
        while not stop.is_set():
            receiver.beat()
            if (letter := receiver.take(0.2)) is not None:
                asked.append(letter)
                for report in script(letter):
                    receiver.report(letter, report)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield asked
    finally:
        stop.set()
        thread.join()
        receiver.deregister()

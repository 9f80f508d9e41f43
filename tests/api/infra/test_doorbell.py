from pydantic import SecretStr
from redis import Redis
from structlog.testing import capture_logs

from api.infra.doorbell import Doorbell, queue_name
from api.spec.lifecycle import Stage

RINGS = [(Stage.PREPARE, "one"), (Stage.TRAIN, "two"), (Stage.PREPARE, "three")]


def test_each_of_several_rings_is_sent(valkey_url: str) -> None:
    Doorbell(SecretStr(valkey_url)).ring_all(RINGS)
    broker = Redis.from_url(valkey_url)
    assert [broker.llen(queue_name(stage)) for stage in (Stage.PREPARE, Stage.TRAIN)] == [2, 1]


def test_a_broker_that_does_not_answer_is_rung_once() -> None:
    with capture_logs() as logs:
        Doorbell(SecretStr("redis://127.0.0.1:9")).ring_all(RINGS)
    assert [entry["job_id"] for entry in logs if entry["event"] == "ring_failed"] == ["one"]

import csv
import io
import json

from sqlalchemy import select

from api.infra.artifacts import MERGED
from api.infra.signatures import ManifestSignature, is_valid
from api.records import base_models, files, models
from api.records.jobs import Job
from api.records.usage import Usage
from api.services import job_logs, signing
from api.spec.evaluation import Evaluation
from api.spec.lifecycle import JobStatus
from api.spec.manifest import Manifest, recipe_hash
from api.spec.resolve import ResolvedRecipe
from tests.end_to_end.jobs import rows
from tests.factories import a_file
from tests.streams import collected
from tests.worker.supervisor.conftest import Workshop
from worker.supervisor.loop import work_until_idle
from worker.supervisor.retention import delete_ended_states


def test_a_job_becomes_a_model_and_tells_of_it_in_openais_words(workshop: Workshop) -> None:
    """One job from its submission to its end, on each way to run Attune, and all that can be seen of it then."""
    validation = a_file(workshop.context, workshop.caller.project_id, rows(10, seed=1))
    hyperparameters = {"n_epochs": 6, "batch_size": 12}
    job_id = workshop.submit(
        suffix="my suffix",
        export={"merged": True},
        validation_file=validation,
        method={"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},
    )
    workshop.work()
    job = workshop.job(job_id)
    assert job.status == JobStatus.SUCCEEDED, job.error
    assert (job.owner, job.lease_until) == (None, None)
    assert (job.trained_tokens or 0) > 0
    check_words(job, workshop.told(job_id))
    check_nothing_is_automatic(job)
    check_artifacts(workshop, job)
    check_evaluation(job)
    check_measurement_is_kept(workshop, job)
    check_results(workshop, job)
    check_checkpoints(workshop, job)
    check_log(workshop, job)
    check_usage(workshop, job)
    check_states_are_forgotten(workshop, job)


def check_usage(workshop: Workshop, job: Job) -> None:
    with workshop.context.database.read() as session:
        (entry,) = session.scalars(select(Usage)).all()
    assert (entry.key_id, entry.model) == (workshop.caller.key_id, "tiny")
    assert entry.trained_tokens == job.trained_tokens
    assert entry.cpu_seconds > 0


def check_words(job: Job, told: list[str]) -> None:
    assert told[:2] == [
        f"Created fine-tuning job: {job.id}",
        f"Validating training file: {job.training_file} and validation file: {job.validation_file}",
    ]
    started = told.index("Fine-tuning job started")
    assert told[started - 1] == "Files validated, moving job to queued state"
    assert told[-2:] == [f"New fine-tuned model created: {job.fine_tuned_model}", "The job has successfully completed"]


def check_nothing_is_automatic(job: Job) -> None:
    assert job.resolved is not None
    chosen = ResolvedRecipe.model_fields.keys() - {"method", "save_every"}  # states are saved by time
    assert "auto" not in {str(job.resolved[name]) for name in chosen}


def check_artifacts(workshop: Workshop, job: Job) -> None:
    assert job.fine_tuned_model is not None
    assert job.fine_tuned_model.startswith("ft:tiny:attune:my-suffix:")
    with workshop.context.database.read() as session:
        model = models.get(session, job.project_id, job.fine_tuned_model)
    assert model is not None
    stored = {artifact["name"]: artifact for artifact in model.artifacts}
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "manifest.json"} <= stored.keys()
    manifests = {}
    for part in ("", MERGED):
        text = b"".join(workshop.context.storage.read(stored[f"{part}manifest.json"]["key"]))
        manifests[part] = Manifest.model_validate_json(text)
        signature = b"".join(workshop.context.storage.read(stored[f"{part}manifest.sig.json"]["key"]))
        (key,) = signing.public_keys(workshop.context).keys
        assert is_valid(text, ManifestSignature.model_validate_json(signature), key)
    listed = {f"{part}{entry.name}": entry.sha256 for part, found in manifests.items() for entry in found.files}
    assert listed == {
        name: artifact["sha256"]
        for name, artifact in stored.items()
        if not name.endswith(("manifest.json", "manifest.sig.json"))
    }
    assert not any(entry.name.startswith(MERGED) for entry in manifests[""].files)
    check_origin(workshop, job, manifests[""])


def check_origin(workshop: Workshop, job: Job, manifest: Manifest) -> None:
    origin = manifest.origin
    assert (manifest.job, origin.model) == (job.id, job.fine_tuned_model)
    with workshop.context.database.read() as session:
        base = base_models.get(session, job.base_model)
        file = files.get(session, job.project_id, job.training_file)
    assert base is not None
    assert file is not None
    assert origin.base.files.items() <= {each["name"]: each["sha256"] for each in base.artifacts}.items()
    assert "model.safetensors" in origin.base.files
    assert origin.training is not None
    assert (origin.training.file, origin.training.sha256) == (job.training_file, file.sha256)
    assert (origin.training.format, origin.validation is None) == ("chat", False)
    assert manifest.recipe_sha256 == recipe_hash(manifest.recipe)


def check_evaluation(job: Job) -> None:
    found = Evaluation.model_validate(job.evaluation)
    assert 0 < found.rows <= 10
    assert (found.drawn_from, found.base_model) == ("validation", job.base_model)
    assert (found.tuned["loss"] or 0) < (found.base["loss"] or 0)
    assert len(found.samples) == 3


def check_measurement_is_kept(workshop: Workshop, job: Job) -> None:
    (file,) = (workshop.train.cache / "measured").glob("*/*.json")
    assert json.loads(file.read_bytes())["metrics"] == (job.evaluation or {})["base"]


def check_results(workshop: Workshop, job: Job) -> None:
    with workshop.context.database.read() as session:
        table, archive = (files.get(session, job.project_id, file_id) for file_id in job.result_files)
    assert table is not None
    assert archive is not None
    assert archive.model_id == job.fine_tuned_model
    content = b"".join(workshop.context.storage.read(table.storage_key or "")).decode()
    lines = list(csv.DictReader(io.StringIO(content)))
    assert [line["step"] for line in lines] == [str(step) for step in range(1, 7)]
    assert all(float(line["train_loss"]) > 0 and float(line["valid_loss"]) > 0 for line in lines)


def check_checkpoints(workshop: Workshop, job: Job) -> None:
    with workshop.context.database.read() as session:
        checkpoints = models.checkpoints_of(session, job.id)
    assert [checkpoint.step for checkpoint in checkpoints][-3:] == [4, 5, 6]
    assert len(checkpoints) <= 4, "the newest three, and the best"
    assert checkpoints[-1].model_id == f"{job.fine_tuned_model}:ckpt-step-6"
    assert "full_valid_loss" in checkpoints[-1].metrics


def check_log(workshop: Workshop, job: Job) -> None:
    """Of both of its attempts, whether or not they had something to say."""
    log = b"".join(collected(job_logs.read(workshop.context, workshop.caller, job.id))).decode()
    titles = [line for line in log.splitlines() if line.startswith("=== ")]
    assert [title.split()[1] for title in titles] == ["preparing", "training"]
    assert titles[1].endswith(": succeeded")


def check_states_are_forgotten(workshop: Workshop, job: Job) -> None:
    assert job.state is not None
    manifest = f"{job.state['prefix']}/manifest.json"
    assert workshop.context.storage.exists(manifest)
    delete_ended_states(workshop.context)
    assert workshop.job(job.id).state is None
    assert not workshop.context.storage.exists(manifest)


def test_a_second_job_on_the_same_rows_finds_their_arrays(workshop: Workshop) -> None:
    ids = [workshop.submit(), workshop.submit()]
    for _ in ids:
        work_until_idle(workshop.prepare)
    one, two = (workshop.job(job_id) for job_id in ids)
    assert one.status == two.status == JobStatus.QUEUED
    assert one.training_file != two.training_file
    assert one.arrays == two.arrays


def test_the_old_form_of_hyperparameters_trains(workshop: Workshop) -> None:
    job_id = workshop.submit(hyperparameters={"n_epochs": 2, "batch_size": 6})
    work_until_idle(workshop.prepare)
    job = workshop.job(job_id)
    assert job.status == JobStatus.QUEUED, job.error
    assert job.resolved is not None
    assert (job.resolved["n_epochs"], job.resolved["batch_size"]) == (2, 6)


def test_a_file_that_cannot_be_trained_on_fails_the_job_in_openais_words(workshop: Workshop) -> None:
    job_id = workshop.submit(rows(7))
    workshop.work()
    job = workshop.job(job_id)
    assert job.status == JobStatus.FAILED
    assert job.error == {
        "code": "invalid_n_examples",
        "message": "Training file has 7 example(s), but must have at least 10 examples",
        "param": "training_file",
    }
    assert workshop.told(job_id)[-1] == job.error["message"]


def test_rows_are_named_by_their_line(workshop: Workshop) -> None:
    job_id = workshop.submit(rows(10) + b'{"messages": [{"content": "no role"}]}\n')
    workshop.work()
    error = workshop.job(job_id).error
    assert error is not None
    assert error["code"] == "invalid_training_file"
    assert "11" in error["message"]

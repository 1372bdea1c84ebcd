from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from harken.errors import ConfigError, MissingExtraError, RunError
from harken.vertex.spec import Machine, custom_job, tuning_job
from harken.vertex.submit import Service, console_page, explained
from vertex_stand_in import stand_in

__all__ = ["stand_in"]

JOB = custom_job("voices", Machine("image", spot=True), ["train", "gs://b/a"], {"team": "voice"})
STUDY = {
    "algorithm": "GRID_SEARCH",
    "metrics": [{"metricId": "mae", "goal": "MINIMIZE"}],
    "parameters": [{"parameterId": "optimizer.lr", "discreteValueSpec": {"values": [0.1, 1]}}],
}


def test_a_job_arrives_as_it_was_meant(stand_in: Any) -> None:
    made = Service("p", "europe-west4", stand_in.url).create("job", JOB)
    ((parent, job),) = stand_in.jobs
    assert parent == "projects/p/locations/europe-west4"
    assert made.name == f"{parent}/customJobs/1001"
    assert job.display_name == "voices"
    assert dict(job.labels) == {"team": "voice"}
    (worker,) = job.job_spec.worker_pool_specs
    assert list(worker.container_spec.args) == ["train", "gs://b/a"]
    assert worker.machine_spec.accelerator_type.name == "NVIDIA_TESLA_T4"
    assert job.job_spec.scheduling.strategy.name == "SPOT"


def test_a_search_arrives_as_it_was_meant(stand_in: Any) -> None:
    spec = tuning_job("s", Machine("i"), ["train"], {}, STUDY, trials=5, parallel=2)
    made = Service("p", "us-central1", stand_in.url).create("tune", spec)
    ((_, job),) = stand_in.jobs
    assert made.name.endswith("/hyperparameterTuningJobs/1001")
    assert made.console == (
        "https://console.cloud.google.com/agent-platform/locations/us-central1/training/1001"
        "?project=p"
    )
    assert (job.max_trial_count, job.parallel_trial_count) == (5, 2)
    assert job.study_spec.metrics[0].goal.name == "MINIMIZE"
    assert job.study_spec.algorithm.name == "GRID_SEARCH"
    assert job.trial_job_spec.worker_pool_specs[0].replica_count == 1


def test_a_page_without_a_name_is_the_consoles_own() -> None:
    assert console_page("?") == "https://console.cloud.google.com/agent-platform"


def test_what_the_service_does_not_know_is_told_before_anything_is_sent(stand_in: Any) -> None:
    service = Service("p", "us-central1", stand_in.url)
    odd: dict[str, Any] = json.loads(json.dumps(JOB))
    odd["jobSpec"]["workerPoolSpecs"][0]["machineSpec"]["acceleratorType"] = "NVIDIA_T5"
    with pytest.raises(ConfigError, match="NVIDIA_T5"):
        service.create("job", odd)
    with pytest.raises(ConfigError, match="spotty"):
        service.create("job", {**JOB, "spotty": True})
    assert not stand_in.jobs


@pytest.mark.parametrize(
    ("status", "message", "told"),
    [
        (403, "Permission 'aiplatform.customJobs.create' denied", r"roles/aiplatform\.user"),
        (429, "Quota custom_model_training_nvidia_t4_gpus is exhausted", "ask for more quota"),
        (404, "no such location", "--region"),
        (400, "Machine type is not supported", "Vertex AI refused: .*not supported"),
        (503, "come back", "does not answer.*try again later"),
    ],
)
def test_a_refusal_is_one_line(stand_in: Any, status: int, message: str, told: str) -> None:
    stand_in.refusal = (status, message)
    with pytest.raises(RunError, match=told) as caught:
        Service("p", "us-central1", stand_in.url).create("job", JOB)
    assert message in str(caught.value)
    assert "http://" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_credentials_that_are_not_taken_are_one_line_too(stand_in: Any) -> None:
    stand_in.refusal = (401, "Request had invalid authentication credentials")
    with pytest.raises(RunError, match="gcloud auth application-default login"):
        Service("p", "us-central1", stand_in.url).create("job", JOB)


def test_an_address_where_nobody_is(stand_in: Any) -> None:
    with pytest.raises(RunError, match="does not answer"):
        Service("p", "us-central1", "http://127.0.0.1:9").create("job", JOB)


def test_the_project_is_named_or_of_the_environment(
    stand_in: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GOOGLE_CLOUD_PROJECT", raising=False)
    with pytest.raises(ConfigError, match="--project"):
        Service(None, "us-central1", stand_in.url)
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "mine")
    assert Service(None, "us-central1", stand_in.url).project == "mine"
    assert Service("p", "us-central1", stand_in.url).project == "p"


def test_without_credentials_it_says_what_to_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    with pytest.raises(RunError, match=r"no credentials.*gcloud auth application-default login"):
        Service("p", "us-central1")


def test_the_credentials_of_a_person_reach_the_regions_own_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {
        "type": "authorized_user",
        "client_id": "c",
        "client_secret": "s",
        "refresh_token": "r",
        "quota_project_id": "q",
    }
    file = tmp_path / "credentials.json"
    file.write_text(json.dumps(told))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "mine")
    service = Service(None, "europe-west4")
    assert service.project == "mine"
    assert service._client.transport.host == "https://europe-west4-aiplatform.googleapis.com"


def test_expired_credentials_are_told_apart() -> None:
    from google.auth.exceptions import RefreshError

    with pytest.raises(RunError, match=r"no longer valid.*gcloud auth"), explained("here"):
        raise RefreshError("invalid_grant")


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "google.cloud.aiplatform_v1", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'harken\[vertex\]'"):
        Service("p", "us-central1", "http://127.0.0.1:9")

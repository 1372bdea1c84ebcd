from __future__ import annotations

import json
from typing import Any

import pytest

from harken.errors import ConfigError
from harken.vertex.spec import ACCELERATORS, Machine, bucket, custom_job, tuning_job

IMAGE = "us-docker.pkg.dev/p/voices/harken:1"
STUDY: dict[str, Any] = {
    "algorithm": "GRID_SEARCH",
    "metrics": [{"metricId": "roc_auc", "goal": "MAXIMIZE"}],
    "parameters": [{"parameterId": "seed", "discreteValueSpec": {"values": [1, 2]}}],
}


def spec(**settings: Any) -> dict[str, Any]:
    return Machine(IMAGE, **settings).job_spec(["train", "gs://b/r/job.yaml"])


def pool(**settings: Any) -> dict[str, Any]:
    found: dict[str, Any] = spec(**settings)["workerPoolSpecs"][0]
    return found


def test_the_job_has_the_older_systems_fields() -> None:
    assert spec() == {
        "workerPoolSpecs": [
            {
                "machineSpec": {
                    "machineType": "n1-highmem-2",
                    "acceleratorType": "NVIDIA_TESLA_T4",
                    "acceleratorCount": 1,
                },
                "replicaCount": "1",
                "diskSpec": {"bootDiskType": "pd-ssd", "bootDiskSizeGb": 100},
                "containerSpec": {"imageUri": IMAGE, "args": ["train", "gs://b/r/job.yaml"]},
            }
        ]
    }


def test_every_option_changes_the_spec() -> None:
    assert pool(machine="e2-standard-8")["machineSpec"] == {"machineType": "e2-standard-8"}
    assert pool(accelerator="NVIDIA_TESLA_V100")["machineSpec"]["acceleratorType"].endswith("V100")
    assert pool(accelerator="none")["machineSpec"] == {"machineType": "n1-highmem-2"}
    assert pool(num_accelerators=2)["machineSpec"]["acceleratorCount"] == 2
    assert pool(disk="pd-standard")["diskSpec"]["bootDiskType"] == "pd-standard"
    assert pool(disk_gigabytes=500)["diskSpec"]["bootDiskSizeGb"] == 500
    assert pool(environment={"A": "x=y"})["containerSpec"]["env"] == [{"name": "A", "value": "x=y"}]
    assert spec(spot=True)["scheduling"] == {"strategy": "SPOT"}
    assert spec(hours=1.5)["scheduling"] == {"timeout": "5400s"}
    assert spec(service_account="a@b.iam")["serviceAccount"] == "a@b.iam"
    network = "projects/1/global/networks/n"
    assert spec(network=network)["network"] == network
    base = spec(base_output="gs://b/base/")["baseOutputDirectory"]
    assert base == {"outputUriPrefix": "gs://b/base"}


@pytest.mark.parametrize(
    ("machine", "accelerator"),
    [
        ("n1-standard-4", "NVIDIA_TESLA_T4"),
        ("g2-standard-4", "NVIDIA_L4"),
        ("a2-highgpu-1g", "NVIDIA_TESLA_A100"),
        ("a2-ultragpu-1g", "NVIDIA_A100_80GB"),
        ("a3-highgpu-8g", "NVIDIA_H100_80GB"),
        ("c3-standard-8", None),
    ],
)
def test_a_machine_brings_its_usual_accelerator(machine: str, accelerator: str | None) -> None:
    assert Machine(IMAGE, machine).chosen_accelerator() == accelerator
    assert Machine(IMAGE, machine, "NVIDIA_TESLA_P4").chosen_accelerator() == "NVIDIA_TESLA_P4"


def test_an_accelerator_that_nobody_knows_is_noted() -> None:
    assert not Machine(IMAGE).notes()
    assert not Machine(IMAGE, accelerator="TPU_V3").notes()
    (note,) = Machine(IMAGE, accelerator="NVIDIA_TELSA_T4").notes()
    assert "did you mean 'NVIDIA_TESLA_T4'" in note


def test_a_tuning_job_holds_the_trials_job() -> None:
    machine = Machine(IMAGE, spot=True)
    job = tuning_job("s", machine, ["train"], {"a": "b"}, STUDY, trials=108, parallel=3)
    assert list(job) == [
        *("displayName", "studySpec", "maxTrialCount", "parallelTrialCount", "trialJobSpec"),
        "labels",
    ]
    assert (job["maxTrialCount"], job["parallelTrialCount"]) == (108, 3)
    assert job["trialJobSpec"] == machine.job_spec(["train"])
    assert job["studySpec"] == STUDY
    failing = tuning_job("s", machine, [], {}, STUDY, trials=9, parallel=9, failures=4)
    assert failing["maxFailedTrialCount"] == 4
    assert "labels" not in failing
    with pytest.raises(ConfigError, match=r"4 trials at a time.* → --parallel 3"):
        tuning_job("s", machine, [], {}, STUDY, trials=3, parallel=4)


def test_what_the_service_would_refuse_is_refused_here() -> None:
    machine = Machine(IMAGE)
    for hours in (0.0, -2.0):
        with pytest.raises(ConfigError, match="--hours"):
            custom_job("x", Machine(IMAGE, hours=hours), [], {})
    with pytest.raises(ConfigError, match="--name"):
        custom_job("", machine, [], {})
    with pytest.raises(ConfigError, match="--name"):
        custom_job("x" * 129, machine, [], {})
    with pytest.raises(ConfigError, match=r"small letters.*'Team'"):
        custom_job("x", machine, [], {"Team": "voice"})
    with pytest.raises(ConfigError, match="full name"):
        spec(network="default")
    with pytest.raises(ConfigError, match="--env"):
        spec(environment={"1 A": "x"})
    with pytest.raises(ConfigError, match="--base-output"):
        spec(base_output="s3://b")
    for out in ("runs/a", "s3://b/x", "gs://", "gs:///x"):
        with pytest.raises(ConfigError, match=r"gs://BUCKET/FOLDER"):
            bucket(out, "--out")
    assert bucket("gs://b/a/", "--out") == "gs://b/a"


@pytest.mark.parametrize("accelerator", sorted(set(ACCELERATORS.values())))
def test_the_services_own_types_take_the_specs(accelerator: str) -> None:
    vertex = pytest.importorskip("google.cloud.aiplatform_v1")
    machine = Machine(
        image=IMAGE,
        accelerator=accelerator,
        spot=True,
        hours=2.0,
        service_account="a@b.iam",
        network="projects/1/global/networks/n",
        base_output="gs://b/base",
        environment={"A": "1"},
    )
    text = json.dumps(custom_job("x", machine, ["train"], {"team": "voice"}))
    job = vertex.CustomJob.from_json(text, ignore_unknown_fields=False)
    worker = job.job_spec.worker_pool_specs[0]
    assert worker.machine_spec.accelerator_type.name == accelerator
    assert worker.replica_count == 1
    assert worker.disk_spec.boot_disk_size_gb == 100
    assert worker.container_spec.env[0].name == "A"
    assert job.job_spec.scheduling.strategy.name == "SPOT"
    assert job.job_spec.scheduling.timeout.total_seconds() == 7200
    assert job.job_spec.base_output_directory.output_uri_prefix == "gs://b/base"
    tuning = tuning_job("x", machine, [], {}, STUDY, trials=2, parallel=1, failures=1)
    read = vertex.HyperparameterTuningJob.from_json(json.dumps(tuning), ignore_unknown_fields=False)
    assert read.study_spec.parameters[0].discrete_value_spec.values == [1.0, 2.0]
    assert read.trial_job_spec.network.endswith("/n")

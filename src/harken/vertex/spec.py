"""The specs of Vertex AI jobs as plain dictionaries, in the JSON of its REST interface.

`CustomJob` and `HyperparameterTuningJob` are described in the reference of `aiplatform.v1`; whole
numbers of 64 bits are text there, durations seconds with an `s`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harken import storage
from harken.choice import nearest
from harken.errors import ConfigError

Spec = dict[str, Any]

ACCELERATORS = {
    "n1-": "NVIDIA_TESLA_T4",
    "g2-": "NVIDIA_L4",
    "g4-": "NVIDIA_RTX_PRO_6000",
    "a2-highgpu-": "NVIDIA_TESLA_A100",
    "a2-megagpu-": "NVIDIA_TESLA_A100",
    "a2-ultragpu-": "NVIDIA_A100_80GB",
    "a3-highgpu-": "NVIDIA_H100_80GB",
    "a3-megagpu-": "NVIDIA_H100_MEGA_80GB",
    "a3-ultragpu-": "NVIDIA_H200_141GB",
    "a4-highgpu-": "NVIDIA_B200",
}
"""The accelerator of a family of machines when none is named; other machines have none."""

_OTHERS = ("NVIDIA_TESLA_P4", "NVIDIA_TESLA_P100", "NVIDIA_TESLA_V100", "NVIDIA_GB200")
_KNOWN = {*ACCELERATORS.values(), *_OTHERS}
_LABEL = re.compile(r"[a-z0-9_-]{0,63}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Machine:
    """What a job runs on, for how long, and as whom.

    Attributes:
        image: The container image, whose entry point is `harken`.
        machine: Compute Engine's name of the machine.
        accelerator: Its accelerator; `none`, or None for the one that is usual with the machine.
        num_accelerators: How many of them.
        disk: Kind of the boot disk.
        disk_gigabytes: Its size.
        spot: Whether to take spare machines at a lower price, which may be taken away at any time.
        hours: Longest time that a job (or a trial) may run; None leaves the service's own limit.
        service_account: Whose rights the job has; None takes the service's own agent.
        network: Full name of the network to join, `projects/NUMBER/global/networks/NAME`.
        base_output: Bucket folder of which the service tells the container (`AIP_MODEL_DIR` …).
        environment: Variables of the container.
    """

    image: str
    machine: str = "n1-highmem-2"
    accelerator: str | None = None
    num_accelerators: int = 1
    disk: str = "pd-ssd"
    disk_gigabytes: int = 100
    spot: bool = False
    hours: float | None = None
    service_account: str | None = None
    network: str | None = None
    base_output: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)

    def notes(self) -> list[str]:
        """Return what a person may want to know before paying for it."""
        chosen = self.chosen_accelerator()
        if chosen is None or chosen in _KNOWN or chosen.startswith("TPU"):
            return []
        return [f"the accelerator {chosen!r} is not one that harken knows{nearest(chosen, _KNOWN)}"]

    def chosen_accelerator(self) -> str | None:
        """Return the accelerator that is meant."""
        if self.accelerator is not None:
            return None if self.accelerator.lower() == "none" else self.accelerator
        fitting = [name for start, name in ACCELERATORS.items() if self.machine.startswith(start)]
        return fitting[0] if fitting else None

    def job_spec(self, arguments: Sequence[str]) -> Spec:
        """Return the `CustomJobSpec` of one container that is started with these arguments.

        Raises:
            ConfigError: a setting cannot be what it says.
        """
        container: Spec = {"imageUri": self.image, "args": list(arguments)}
        if self.environment:
            container["env"] = [
                {"name": _variable(name), "value": value}
                for name, value in self.environment.items()
            ]
        pool: Spec = {
            "machineSpec": self._machine_spec(),
            "replicaCount": "1",
            "diskSpec": {"bootDiskType": self.disk, "bootDiskSizeGb": self.disk_gigabytes},
            "containerSpec": container,
        }
        spec: Spec = {"workerPoolSpecs": [pool]}
        if scheduling := self._scheduling():
            spec["scheduling"] = scheduling
        if self.service_account is not None:
            spec["serviceAccount"] = self.service_account
        if self.network is not None:
            spec["network"] = _network(self.network)
        if self.base_output is not None:
            prefix = bucket(self.base_output, "--base-output")
            spec["baseOutputDirectory"] = {"outputUriPrefix": prefix}
        return spec

    def _machine_spec(self) -> Spec:
        spec: Spec = {"machineType": self.machine}
        if (accelerator := self.chosen_accelerator()) is not None:
            spec |= {"acceleratorType": accelerator, "acceleratorCount": self.num_accelerators}
        return spec

    def _scheduling(self) -> Spec:
        spec: Spec = {"strategy": "SPOT"} if self.spot else {}
        if self.hours is not None:
            if round(self.hours * 3600) < 1:
                raise ConfigError(f"no job ends within {self.hours:g} hours", where="--hours")
            spec["timeout"] = f"{round(self.hours * 3600)}s"
        return spec


def custom_job(
    name: str, machine: Machine, arguments: Sequence[str], labels: Mapping[str, str]
) -> Spec:
    """Return a `CustomJob`.

    Raises:
        ConfigError: a setting cannot be what it says.
    """
    job: Spec = {"displayName": _display_name(name), "jobSpec": machine.job_spec(arguments)}
    return job | _labels(labels)


def tuning_job(
    name: str,
    machine: Machine,
    arguments: Sequence[str],
    labels: Mapping[str, str],
    study: Spec,
    *,
    trials: int,
    parallel: int,
    failures: int | None = None,
) -> Spec:
    """Return a `HyperparameterTuningJob`, whose trials add `--a.b=c` words to the arguments.

    Args:
        name: What the console shows.
        machine: What each trial runs on.
        arguments: The container's arguments without the trial's own.
        labels: The job's labels.
        study: The `StudySpec`.
        trials: Trials in all.
        parallel: Trials at a time.
        failures: Failed trials after which the job gives up; None lets the service decide.

    Raises:
        ConfigError: a setting cannot be what it says.
    """
    if parallel > trials:
        raise ConfigError(
            f"{parallel} trials at a time are more than the {trials} in all",
            where="--parallel",
            fix=f"--parallel {trials}",
        )
    job: Spec = {
        "displayName": _display_name(name),
        "studySpec": study,
        "maxTrialCount": trials,
        "parallelTrialCount": parallel,
    }
    if failures is not None:
        job["maxFailedTrialCount"] = failures
    return job | {"trialJobSpec": machine.job_spec(arguments)} | _labels(labels)


def bucket(url: str, where: str) -> str:
    """Return a folder of Cloud Storage without its last slash.

    Raises:
        ConfigError: it is none.
    """
    if not re.fullmatch(r"gs://[^/]+(/.*)?", url):
        raise ConfigError(
            f"a job there writes to Cloud Storage, not to {url!r}",
            where=where,
            fix="gs://BUCKET/FOLDER",
        )
    return str(storage.Url(url))


def _display_name(name: str) -> str:
    if not 1 <= len(name) <= 128:
        raise ConfigError("a job's name has 1 to 128 letters", where="--name")
    return name


def _labels(labels: Mapping[str, str]) -> Spec:
    for text in (text for pair in labels.items() for text in pair):
        if not _LABEL.fullmatch(text):
            raise ConfigError(
                f"a label has small letters, digits, - and _ only, 63 at most: {text!r}",
                where="--label",
                fix="--label team=voice",
            )
    return {"labels": dict(labels)} if labels else {}


def _network(name: str) -> str:
    if not re.fullmatch(r"projects/[^/]+/global/networks/[^/]+", name):
        raise ConfigError(
            f"a network is given by its full name, not {name!r}",
            where="--network",
            fix="--network projects/NUMBER/global/networks/NAME",
        )
    return name


def _variable(name: str) -> str:
    if not _VARIABLE.fullmatch(name):
        raise ConfigError(f"{name!r} is no name of a variable", where="--env", fix="--env NAME=x")
    return name

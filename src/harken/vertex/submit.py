"""Handing a job to Vertex AI; the only place where Google's library is used (extra `vertex`)."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from harken.errors import ConfigError, HarkenError, RunError, import_extra
from harken.vertex.spec import Spec

Kind = Literal["job", "tune"]

LOGIN = "gcloud auth application-default login"
_MESSAGES = {"job": "CustomJob", "tune": "HyperparameterTuningJob"}
_SECONDS = 60.0  # to wait for an answer
_REQUEST = re.compile(r"^POST \S+: ")
_NAME = re.compile(r"projects/(?P<project>[^/]+)/locations/(?P<region>[^/]+)/[^/]+/(?P<id>[^/]+)")


class RefusedError(RunError):
    """The service did not take a job."""


@dataclass(frozen=True)
class Submitted:
    """A job that the service has taken.

    Attributes:
        name: Its resource name, `projects/…/locations/…/customJobs/…`.
        console: Its page in the console.
    """

    name: str
    console: str


class Service:
    """The job service of one project and region.

    Args:
        project: The project; None takes that of the credentials.
        region: Where the jobs run.
        endpoint: Another address than the region's own; at an `http://` address stands a stand-in
            that asks for no credentials.

    Raises:
        MissingExtraError: the extra `vertex` is not installed.
        RunError: there are no credentials.
        ConfigError: no project is known.
    """

    def __init__(self, project: str | None, region: str, endpoint: str | None = None) -> None:
        self._types = import_extra("google.cloud.aiplatform_v1", "vertex")
        credentials, known = _credentials(endpoint)
        self.project = project or os.environ.get("GOOGLE_CLOUD_PROJECT") or known
        if not self.project:
            raise ConfigError("which project pays for the job?", where="--project")
        self.region = region
        jobs = import_extra("google.cloud.aiplatform_v1.services.job_service.transports", "vertex")
        scheme, _, host = (endpoint or f"https://{region}-aiplatform.googleapis.com").rpartition(
            "://"
        )
        transport = jobs.JobServiceRestTransport(
            host=host, credentials=credentials, url_scheme=scheme or "https"
        )
        self._client = self._types.JobServiceClient(transport=transport)

    def message(self, kind: Kind, spec: Spec) -> Any:
        """Return a spec as the service's own message.

        Raises:
            ConfigError: the service knows no such field or value.
        """
        message = getattr(self._types, _MESSAGES[kind])
        try:
            return message.from_json(json.dumps(spec), ignore_unknown_fields=False)
        except import_extra("google.protobuf.json_format", "vertex").ParseError as error:
            raise ConfigError(
                f"Vertex AI does not know this: {_line(error)}", where=_MESSAGES[kind]
            ) from None

    def create(self, kind: Kind, spec: Spec) -> Submitted:
        """Submit a job.

        Raises:
            ConfigError: the service knows no such field or value.
            RefusedError: the service refused it.
            RunError: it does not answer.
        """
        parent = f"projects/{self.project}/locations/{self.region}"
        message = self.message(kind, spec)
        with explained(parent):
            if kind == "job":
                made = self._client.create_custom_job(
                    parent=parent, custom_job=message, timeout=_SECONDS
                )
            else:
                made = self._client.create_hyperparameter_tuning_job(
                    parent=parent, hyperparameter_tuning_job=message, timeout=_SECONDS
                )
        return Submitted(made.name, console_page(made.name))


def console_page(name: str) -> str:
    """Return the console's page of a job, given its resource name."""
    found = _NAME.fullmatch(name)
    base = "https://console.cloud.google.com/agent-platform"
    if found is None:
        return base
    return f"{base}/locations/{found['region']}/training/{found['id']}?project={found['project']}"


def _credentials(endpoint: str | None) -> tuple[Any, str | None]:
    if endpoint is not None and endpoint.startswith("http://"):
        return import_extra("google.auth.credentials", "vertex").AnonymousCredentials(), None
    auth = import_extra("google.auth", "vertex")
    scopes = ["https://www.googleapis.com/auth/cloud-platform"]
    with explained("Google Cloud"):
        credentials, project = auth.default(scopes=scopes)
    return credentials, project


@contextmanager
def explained(where: str) -> Iterator[None]:
    """Turn what Google's library raises into one line and what to do about it.

    Raises:
        RefusedError: the service refused, or there are no credentials.
        RunError: the service does not answer.
    """
    auth = import_extra("google.auth.exceptions", "vertex")
    core = import_extra("google.api_core.exceptions", "vertex")
    try:
        yield
    except HarkenError:
        raise
    except (auth.DefaultCredentialsError, auth.RefreshError) as error:
        expired = isinstance(error, auth.RefreshError)
        text = "the credentials are no longer valid" if expired else "there are no credentials"
        raise RefusedError(text, where=where, fix=LOGIN) from None
    except (auth.TransportError, core.RetryError, core.ServerError, OSError) as error:
        raise RunError(
            f"the service does not answer: {_line(error)}", where=where, fix="try again later"
        ) from None
    except core.GoogleAPICallError as error:
        raise RefusedError(
            f"Vertex AI refused: {_line(error)}", where=where, fix=_cure(error.code)
        ) from None


def _cure(code: int | None) -> str | None:
    cures = {
        401: LOGIN,
        403: "ask for the role roles/aiplatform.user in this project, and enable the API: "
        "gcloud services enable aiplatform.googleapis.com",
        404: "look at --project and --region",
        429: "choose another --machine, --accelerator or --region, or ask for more quota",
    }
    return cures.get(int(code)) if code is not None else None


def _line(error: Exception) -> str:
    if isinstance(error, OSError):
        return "there is no connection"
    text = str(getattr(error, "message", None) or error).strip() or type(error).__name__
    return _REQUEST.sub("", text.splitlines()[0])[:300]

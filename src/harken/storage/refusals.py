"""What goes wrong at a store, in words: which URL, why, and what to type."""

from __future__ import annotations

import os

from harken.errors import ConfigError, HarkenError, RunError
from harken.storage.retries import Damaged, code_of, is_transient, status_of
from harken.storage.url import Location, bucket_of, protocol_of

LOG_IN = {
    "gs": "gcloud auth application-default login, or name a key file: "
    "GOOGLE_APPLICATION_CREDENTIALS=key.json; a public bucket needs FSSPEC_GS_TOKEN=anon",
    "s3": "aws configure, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; "
    "a public bucket needs FSSPEC_S3_ANON=true",
    "abfs": "az login, or set AZURE_STORAGE_ACCOUNT_KEY, AZURE_STORAGE_SAS_TOKEN or "
    "AZURE_STORAGE_CONNECTION_STRING; a public container needs AZURE_STORAGE_ANON=true",
}
MAKE_BUCKET = {
    "gs": "gcloud storage buckets create {}",
    "s3": "aws s3 mb {}",
    "abfs": "az storage container create --name {}",
}
_ENDPOINTS = {"gs": "STORAGE_EMULATOR_HOST", "s3": "AWS_ENDPOINT_URL", "abfs": None}
_FAMILIES = {"gcs": "gs", "s3a": "s3", "abfss": "abfs", "az": "abfs"}
_NO_CREDENTIALS = {
    *("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "RefreshError"),
    *("DefaultCredentialsError", "TokenRetrievalError", "SSOTokenLoadError", "ProfileNotFound"),
    *("ClientAuthenticationError", "CredentialUnavailableError", "UnauthorizedSSOTokenError"),
}
_BAD_KEYS = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"}


class StoreError(RunError):
    """A store that does not answer, or does not permit what was asked of it.

    It is no `DataError`: nothing is wrong with the file, and it must not be taken for missing.
    """


def family(url: Location) -> str:
    """Return the store of a URL under one name: gs, s3, abfs, or the protocol itself."""
    protocol = protocol_of(url)
    return _FAMILIES.get(protocol, protocol)


def explain(error: Exception, url: Location, writing: bool = False) -> HarkenError:
    """Turn what a store's client raised into one error that a person can act on."""
    status, store, where = status_of(error), family(url), str(url)
    names = {kind.__name__ for kind in type(error).__mro__}
    if status == 401 or names & _NO_CREDENTIALS or code_of(error) in _BAD_KEYS:
        return no_credentials(url, error)
    if status == 403:
        verb = "written" if writing else "read"
        text = f"the store does not let you have this {verb}: {_reason(error)}"
        return StoreError(text, where=where, fix=_ask_for_rights(store, bucket_of(url), writing))
    if isinstance(error, Damaged):
        text = f"what arrives is not what the store says that it holds: {_reason(error)}"
        return StoreError(text, where=where, fix="run again; nothing of it was kept")
    if is_transient(error) and status is not None:
        text = f"the store keeps answering with an error ({_reason(error)})"
        return StoreError(text, where=where, fix="run again later; what is done is kept")
    if is_transient(error):
        text = f"the store cannot be reached: {_reason(error)}"
        return StoreError(text, where=where, fix=_check_network(store))
    return StoreError(f"the store refuses this: {_reason(error)}", where=where)


def no_credentials(url: Location, error: Exception | None = None) -> ConfigError:
    """Say how to log in."""
    store = family(url)
    reason = f" ({_reason(error)})" if error is not None else ""
    text = f"there are no valid credentials for {protocol_of(url)}://{reason}"
    return ConfigError(text, where=str(url), fix=LOG_IN.get(store))


def no_bucket(url: Location) -> StoreError:
    """Say that the bucket itself is missing."""
    bucket, store = bucket_of(url), family(url)
    make = MAKE_BUCKET.get(store, "").format(bucket if store != "abfs" else _container(bucket))
    text = f"there is no bucket {bucket}"
    return StoreError(text, where=str(url), fix=f"correct its name, or make it: {make}")


def _container(bucket: str) -> str:
    return bucket.partition("://")[2].partition("@")[0]


def _ask_for_rights(store: str, bucket: str, writing: bool) -> str:
    role = {
        "gs": "roles/storage.objectUser" if writing else "roles/storage.objectViewer",
        "s3": "s3:PutObject and s3:DeleteObject" if writing else "s3:GetObject and s3:ListBucket",
        "abfs": f"Storage Blob Data {'Contributor' if writing else 'Reader'}",
    }.get(store, "access")
    who = {
        "gs": "gcloud auth list",
        "s3": "aws sts get-caller-identity",
        "abfs": "az account show",
    }.get(store)
    return f"ask for {role} on {bucket}" + (f"; {who} shows who you are" if who else "")


def _check_network(store: str) -> str:
    name = _ENDPOINTS.get(store)
    if name and os.environ.get(name):
        return f"check the network, and {name}={os.environ[name]}"
    return "check the network and run again; what is done is kept"


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    text = " ".join(line.strip() for line in lines if line.strip())
    return text[:300] if text else type(error).__name__

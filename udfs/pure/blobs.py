"""A prefix of Azure Blob Storage: what lies below it, and what is in it.

By Azure's own client: pyarrow's (16.1) ends the process where nobody answers or no login is found.
Source of the URLs: "Use the Azure Data Lake Storage URI", abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/PATH.
"""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

from udfs.pure.deliveries import Object

if TYPE_CHECKING:
    from azure.storage.blob import BlobClient

# As the az command reads them; without both, DefaultAzureCredential (AZURE_CLIENT_ID and the like, a managed identity,
# az login).
KEY, SAS_TOKEN = "AZURE_STORAGE_KEY", "AZURE_STORAGE_SAS_TOKEN"

# A query may name another server, as for S3; the account is then the first part of its paths, as emulators have it.
_ENDPOINT, _SCHEME = "endpoint_override", "scheme"

_BUFFER = 4 << 20
# Three tries more: after 1, 3 and 5 s.
_RETRY: dict[str, Any] = {"initial_backoff": 1, "increment_base": 2, "retry_total": 3}


class Blobs:
    """A container's blobs below a prefix."""

    def __init__(self, url: str, environment: Mapping[str, str] = os.environ) -> None:
        """
        Raises:
            ValueError: the URL names no container and account, or a login can't be used with it; one line.
        """
        from azure.storage.blob import ContainerClient, ExponentialRetry

        # What it warns of, the errors say as well.
        logging.getLogger("azure").setLevel(logging.ERROR)
        parts, query = urlsplit(url), dict(parse_qsl(urlsplit(url).query))
        host = parts.hostname or ""
        if not parts.username or parts.password or "." not in host:
            raise ValueError(
                "must be abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/PATH, and the login in the environment"
            )
        if unknown := sorted(query.keys() - {_ENDPOINT, _SCHEME}):
            raise ValueError(f"{unknown[0]} is not known, only {_ENDPOINT} and {_SCHEME}")
        server = host.replace(".dfs.", ".blob.", 1)
        if _ENDPOINT in query:
            server = f"{query[_ENDPOINT]}/{host.partition('.')[0]}"
        self._prefix = f"{path}/" if (path := unquote(parts.path).strip("/")) else ""
        self._container = ContainerClient(
            f"{query.get(_SCHEME, 'https')}://{server}",
            parts.username,
            credential=_login(environment),
            retry_policy=ExponentialRetry(**_RETRY),
        )

    def files(self) -> list[Object]:
        """
        Raises:
            OSError: it can't be listed, or nothing is there.
        """
        with _os_errors():
            found = list(self._container.list_blobs(name_starts_with=self._prefix, include=["metadata"]))
        if not found:
            raise FileNotFoundError(f"nothing is below {self._prefix or 'the container'}")
        return [
            Object(blob.name[len(self._prefix) :], blob.size, int(blob.last_modified.timestamp() * 1000))
            for blob in found
            if not _is_folder(blob.metadata)
        ]

    def open(self, path: str) -> IO[bytes]:
        """
        Raises:
            OSError: it isn't there, or can't be read.
        """
        with _os_errors():
            return io.BufferedReader(_Reader(self._container.get_blob_client(self._prefix + path)), _BUFFER)


class _Reader(io.RawIOBase):
    """A blob as it was when it was opened: where another takes its place meanwhile, reading fails."""

    def __init__(self, blob: BlobClient) -> None:
        self._blob = blob
        properties = blob.get_blob_properties()
        self._size, self._etag, self._at = properties.size, properties.etag, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        from azure.core import MatchConditions

        length = min(len(buffer), self._size - self._at)
        if length <= 0:
            return 0
        with _os_errors():
            part = self._blob.download_blob(
                offset=self._at, length=length, etag=self._etag, match_condition=MatchConditions.IfNotModified
            ).readall()
        buffer[: len(part)] = part
        self._at += len(part)
        return len(part)


def _login(environment: Mapping[str, str]) -> Any:
    if given := environment.get(KEY) or environment.get(SAS_TOKEN):
        return given
    from azure.identity import DefaultAzureCredential

    return DefaultAzureCredential()


def _is_folder(metadata: Mapping[str, str] | None) -> bool:
    """Accounts with a hierarchical namespace list folders, too."""
    return any(name.lower() == "hdi_isfolder" for name in metadata or ())


@contextmanager
def _os_errors() -> Iterator[None]:
    """Azure's errors as those of the system: the first sentence of them, the rest is numbers of the request."""
    from azure.core.exceptions import AzureError, ClientAuthenticationError, ResourceNotFoundError

    try:
        yield
    except AzureError as error:
        lines = str(error.message or error).splitlines()
        text = lines[0] if lines else type(error).__name__
        if isinstance(error, ResourceNotFoundError):
            raise FileNotFoundError(text) from None
        if isinstance(error, ClientAuthenticationError):
            raise PermissionError(f"{text} (set {KEY} or {SAS_TOKEN}, or log in as for az)") from None
        raise OSError(text) from None

"""A PostgreSQL URL, read once for all who connect: psycopg and the engine's JDBC connector."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from jobs.errors import JobError, UsageError, one_line

if TYPE_CHECKING:
    import psycopg

FORM = "postgresql://USER@HOST[:PORT]/DATABASE[?sslmode=…]"
PORT = 5432

# Parameters of libpq that JDBC has too, and their name there. Any other one would hold for one of the two alone.
PARAMETERS = {
    "sslmode": "sslmode",
    "sslrootcert": "sslrootcert",
    "sslcert": "sslcert",
    "sslkey": "sslkey",
    "application_name": "ApplicationName",
    "connect_timeout": "connectTimeout",
}
_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")

# A name, an IPv4 or an IPv6 address: no list of hosts and no path of a socket, which JDBC doesn't know.
_HOST = re.compile(r"[\w.:-]+")
_PASSWORD = re.compile(r"://[^/?#]*:[^/?#]*@|[?&]password=")


@dataclass(frozen=True)
class Address:
    """A database on a server, and as whom to connect; the password comes from PGPASSWORD.

    Attributes:
        host: a name or an address, IPv6 without its brackets.
        port: 1 to 65535.
        database: its name, decoded.
        user: likewise.
        parameters: by their names in libpq, see PARAMETERS.
    """

    host: str
    port: int
    database: str
    user: str
    parameters: dict[str, str]

    @property
    def connection(self) -> dict[str, str | int]:
        """Parameters of libpq."""
        return {"host": self.host, "port": self.port, "dbname": self.database, "user": self.user, **self.parameters}

    def jdbc_url(self, **properties: str) -> str:
        """The same for JDBC, without the user, and with ``properties`` of its driver on top."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        named = {PARAMETERS[name]: value for name, value in self.parameters.items()} | properties
        query = f"?{urlencode(named, quote_via=quote, safe='')}" if named else ""
        return f"jdbc:postgresql://{host}:{self.port}/{quote(self.database, safe='')}{query}"


def holds_password(url: str) -> bool:
    """Whether ``url``, of any scheme, has a password in it."""
    return _PASSWORD.search(url) is not None


def address(url: str) -> Address:
    """What ``url`` names; user, database and parameters may be percent-encoded.

    Raises:
        UsageError: it is no such URL, holds a password, or a parameter that can't be passed on.
    """
    if holds_password(url):
        raise UsageError("the postgresql:// URL holds a password: leave it out and set PGPASSWORD")
    try:
        parts = urlsplit(url)
        port = PORT if parts.port is None else parts.port
        query = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:
        raise UsageError(f"{url!r} is not {FORM}") from None
    host, user, database = parts.hostname or "", unquote(parts.username or ""), unquote(parts.path[1:])
    is_postgres = parts.scheme in ("postgresql", "postgres") and not parts.fragment
    if not (is_postgres and user and database and port and _HOST.fullmatch(host)):
        raise UsageError(f"{url!r} is not {FORM}")
    for name, value in query:
        if name not in PARAMETERS:
            raise UsageError(f"{url!r}: parameter {name} can't be passed on, must be one of {', '.join(PARAMETERS)}")
        if name == "sslmode" and value not in _SSL_MODES:
            raise UsageError(f"{url!r}: sslmode must be one of {', '.join(_SSL_MODES)}")
    return Address(host, port, database, user, dict(query))


def connection(url: str, application: str, options: str = "", **settings: str | int) -> psycopg.Connection:
    """A connection of psycopg that commits each statement, in UTC.

    application: as the server shows it. options: of the session, "-c NAME=VALUE …", more than those. settings: of
    libpq, on top.

    Raises:
        UsageError: see ``address``.
        psycopg.Error: the server doesn't answer or refuses.
    """
    # What only these need.
    import psycopg
    from psycopg.conninfo import make_conninfo

    ours: dict[str, str | int] = {
        "application_name": application,
        "connect_timeout": 10,
        "options": f"-c timezone=UTC -c search_path=public {options}",
    }
    return psycopg.connect(make_conninfo("", **(ours | address(url).connection | settings)), autocommit=True)


def rows(url: str, application: str, query: str, batch: int) -> Iterator[tuple]:
    """Rows of a query, as of one moment, so many at a time. application: as the server shows it.

    Raises:
        UsageError: see ``address``.
        JobError: the server doesn't answer or refuses.
    """
    import psycopg

    try:
        with (
            connection(url, application) as server,
            server.transaction(),
            server.cursor(name="rows") as cursor,
        ):
            cursor.itersize = batch
            yield from cursor.execute(query)  # type: ignore[call-overload]
    except psycopg.Error as error:
        raise JobError(f"{url}: {one_line(error)}") from None

"""One database behind one door: engine, transactions, the database's own clock, migrations.

SQLite runs in WAL mode and every transaction takes the write lock at its start (`BEGIN IMMEDIATE`): two writers
wait for each other instead of failing half-way. PostgreSQL runs at READ COMMITTED; claims use SKIP LOCKED.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Double, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from jobs.errors import DatabaseOutdated, DatabaseUnavailable, SettingsInvalid
from jobs.repository import security
from jobs.settings import Settings
from jobs.sqlite import use_wal

SQLITE_BUSY_SECONDS = 60.0
SETTLE_SECONDS = 2.0
# A server or network that falls silent is noticed within half a minute, by probes and by unacknowledged data.
POSTGRES_CONNECT: dict[str, Any] = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}
# A transaction is a few statements with nothing long in between. Whoever is silent in the middle of one for so long was
# stopped, or its machine is gone; the server ends it, since others wait for the rows that it has locked: the reaper's
# office, a unit, a tenant's share.
SILENT_SECONDS = 20.0
# What a statement says that names a table or column which is not there: by SQLSTATE, and by SQLite's words.
_LACKS = ("42P01", "42703")
_LACKS_TOLD = ("no such table", "no such column", "has no column named")
# What helps where the tenants' role is missing or not this login's, and where a login may not do what it was to do.
_TAKE_ROLE = "see PORTRAITS_DATABASE_TENANT_ROLE and `portraits db roles --apply`, and grant that role to this login"
_MAY_NOT = (
    "log in as the owner of the tables, or as a member of the workers' role; `portraits db roles` prints the grants, "
    "which the owner gives again with --apply after an upgrade"
)
# SQLSTATE classes that trying again may mend: connection lost, serialization or deadlock, no resources, shut-down or
# start-up, read-only (a standby that is not yet the primary), and silent for too long.
_AWAY = ("08", "40", "53", "57P", "25006", "25P03")


class epoch_now(FunctionElement[float]):
    """Seconds since 1970 on the database's clock, so that workers' clocks may differ."""

    type = Double()
    inherit_cache = True


@compiles(epoch_now, "sqlite")
def _epoch_sqlite(element: epoch_now, compiler: SQLCompiler, **_: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(epoch_now, "postgresql")
def _epoch_postgresql(element: epoch_now, compiler: SQLCompiler, **_: Any) -> str:
    return "extract(epoch from clock_timestamp())::double precision"


def _migrations_folder() -> Path:
    """The Alembic scripts: inside the installed package, or beside it in a checkout."""
    here = Path(__file__).resolve().parent
    packaged = here / "_migrations"
    return packaged if packaged.is_dir() else here.parent / "migrations"


class Database:
    """A handle to the database that survives a fork: each process gets an engine of its own."""

    def __init__(self, url: str, *, tenant_role: str = "") -> None:
        """`tenant_role` is the role under which transactions of one tenant run, behind row-level security."""
        self._tenant_role = tenant_role
        try:
            self._url = make_url(url)
        except ArgumentError as error:
            raise SettingsInvalid(
                "PORTRAITS_DATABASE_URL cannot be read as a URL; wanted sqlite:///file.db or postgresql+psycopg://user@host/name"
            ) from error
        if self._url.drivername in {"postgresql", "postgres"}:
            self._url = self._url.set(drivername="postgresql+psycopg")
        self.is_sqlite = self._url.get_backend_name() == "sqlite"
        if not self.is_sqlite and self._url.get_backend_name() != "postgresql":
            raise SettingsInvalid(f"unsupported database {self._url.get_backend_name()!r}; wanted sqlite or postgresql")
        if self.is_sqlite and tenant_role:
            raise SettingsInvalid("PORTRAITS_DATABASE_TENANT_ROLE needs PostgreSQL, found SQLite; leave it empty")
        self._engine: Engine | None = None
        self._pid = 0

    @classmethod
    def from_settings(cls, settings: Settings) -> Database:
        """The database that `PORTRAITS_DATABASE_URL` names."""
        return cls(settings.database_url.get_secret_value(), tenant_role=settings.database_tenant_role)

    def __str__(self) -> str:
        return self._url.render_as_string(hide_password=True)

    @property
    def engine(self) -> Engine:
        """The engine of this process; a forked child drops its parent's connections without closing them."""
        if self._engine is None or self._pid != os.getpid():
            if self._engine is not None:
                self._engine.dispose(close=False)
            self._engine, self._pid = self._create(), os.getpid()
        return self._engine

    def _create(self) -> Engine:
        try:
            if not self.is_sqlite:
                return create_engine(self._url, pool_pre_ping=True, pool_size=8, connect_args=POSTGRES_CONNECT)
            if self._url.database and self._url.database != ":memory:":
                self._make_folder(Path(self._url.database).expanduser().parent)
            engine = create_engine(self._url, connect_args={"timeout": SQLITE_BUSY_SECONDS})
        except NoSuchModuleError as error:
            raise SettingsInvalid(f"no driver for {self}: {error}") from error
        event.listen(engine, "connect", _configure_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine

    def _make_folder(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SettingsInvalid(f"the folder of {self} cannot be made: {error.strerror}: {folder}") from error

    @contextmanager
    def transaction(self, tenant: str | None = None) -> Iterator[Connection]:
        """One transaction, committed when the block ends and rolled back when it raises.

        `tenant` says that it is about this tenant alone: where there is a role for that, the database holds it to it.
        Raises: DatabaseUnavailable (retryable) when the database does not answer or stays locked.
        """
        with self._translated(), self.engine.begin() as connection:
            if not self.is_sqlite:
                silent = f"SET LOCAL idle_in_transaction_session_timeout = {round(1000 * SILENT_SECONDS)}"
                connection.exec_driver_sql(silent)
            self._enter(connection, tenant)
            yield connection

    @contextmanager
    def reading(self, tenant: str | None = None) -> Iterator[Connection]:
        """A connection for queries; on SQLite it is one snapshot and never waits for a writer.

        On PostgreSQL each statement sees what was committed before it. `tenant` and what is raised: as `transaction`.
        """
        with self._translated(), self.engine.connect() as connection:
            reader = connection.execution_options(portraits_reading=True)
            self._enter(reader, tenant)
            yield reader

    def _enter(self, connection: Connection, tenant: str | None) -> None:
        if self._tenant_role and tenant is not None:
            security.enter(connection, self._tenant_role, tenant)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except PoolTimeout as error:
            raise DatabaseUnavailable(f"{self}: every connection of this process is in use") from error
        except DBAPIError as error:
            raise self._translate(error) from error

    def _translate(self, error: DBAPIError) -> Exception:
        """Our error for a driver's error; the driver's own where it is a fault of a statement."""
        text, state = _first_line(error.orig), str(getattr(error.orig, "sqlstate", None) or "")
        if state in _LACKS or any(told in text for told in _LACKS_TOLD):
            return DatabaseOutdated(f"{self} lacks a table or column ({text}); run `portraits db upgrade`")
        if "file is not a database" in text or "malformed" in text:
            return SettingsInvalid(f"{self} is not an SQLite database or is damaged; name another file")
        if state == "42501" or (state == "22023" and "role" in text):
            is_of_role = state == "22023" or "set role" in text
            return SettingsInvalid(f"{self} refuses: {text}; {_TAKE_ROLE if is_of_role else _MAY_NOT}")
        if isinstance(error, OperationalError) or error.connection_invalidated or state.startswith(_AWAY):
            return DatabaseUnavailable(f"{self} does not answer: {text}")
        return error

    def settle_erased(self) -> bool:
        """Let nothing that was erased stay in SQLite's log of recent changes; whether that is so now.

        False while another process reads from there: the next checkpoint sees to it. PostgreSQL has VACUUM for this.
        """
        if not self.is_sqlite:
            return True
        with self._translated():
            connection = self.engine.raw_connection()
            try:
                cursor = connection.cursor()
                # Whoever waits for readers here keeps every writer waiting: so only for a moment.
                cursor.execute(f"PRAGMA busy_timeout = {round(1000 * SETTLE_SECONDS)}")
                try:
                    busy, *_ = cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                finally:
                    cursor.execute(f"PRAGMA busy_timeout = {round(1000 * SQLITE_BUSY_SECONDS)}")
                return not busy
            finally:
                connection.close()

    def upgrade(self, revision: str = "head") -> None:
        """Bring the schema to `revision`; safe to run twice and from several machines at once.

        Each step is a transaction of its own: no step waits for its locks while it holds those of the one before. A
        call that ends half-way leaves a schema that every earlier version works on; the next goes on from there. A
        schema that is newer than this version knows is left as it is.
        """
        while self._upgrade_a_step(revision):
            pass

    def _upgrade_a_step(self, revision: str) -> bool:
        """Take the first step that is missing, if one is; whether others are left."""
        with self.transaction() as connection:
            if not self.is_sqlite:
                connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7236001)")
            config = self._alembic(connection)
            found = MigrationContext.configure(connection).get_current_revision() or "base"
            if self.is_newer(found):
                return False
            missing = [step.revision for step in ScriptDirectory.from_config(config).iterate_revisions(revision, found)]
            if missing:
                command.upgrade(config, missing[-1])
            if revision == "head":
                security.keep_up(connection)
        return len(missing) > 1

    def revisions(self) -> tuple[str | None, str | None]:
        """The schema revision found in the database, and the newest one this version knows."""
        with self.reading() as connection:
            found = MigrationContext.configure(connection).get_current_revision()
        return found, ScriptDirectory.from_config(self._alembic(None)).get_current_head()

    def is_newer(self, revision: str | None) -> bool:
        """Whether a revision found in a database is one of a later version."""
        known = {script.revision for script in ScriptDirectory.from_config(self._alembic(None)).walk_revisions()}
        return revision is not None and revision != "base" and revision not in known

    def require_current(self) -> None:
        """Raise DatabaseOutdated unless the schema is the newest this version knows, or newer.

        A later version only adds to the schema, so this one goes on working while a fleet is upgraded.
        """
        found, wanted = self.revisions()
        if found is None or (found != wanted and not self.is_newer(found)):
            raise DatabaseOutdated(
                f"{self} is at schema {found or 'none'}, wanted {wanted}; run `portraits db upgrade`"
            )

    def _alembic(self, connection: Connection | None) -> Config:
        config = Config()
        config.set_main_option("script_location", str(_migrations_folder()).replace("%", "%%"))
        config.attributes["connection"] = connection
        return config

    def dispose(self) -> None:
        """Close this process's connections."""
        if self._engine is not None and self._pid == os.getpid():
            self._engine.dispose()
        self._engine = None


def _configure_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # the driver must not open transactions of its own: _begin_sqlite does
    use_wal(connection)
    connection.execute("PRAGMA foreign_keys=ON")
    # What is deleted is overwritten with zeros, as most builds do anyway: measured, it costs nothing that shows.
    connection.execute("PRAGMA secure_delete=ON")


def _begin_sqlite(connection: Connection) -> None:
    reading = connection.get_execution_options().get("portraits_reading", False)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")


def _first_line(error: BaseException | None) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__

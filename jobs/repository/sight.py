"""Whether a login sees the rows of every tenant, or, behind row-level security, of none; and whether it may work."""

from __future__ import annotations

from sqlalchemy import Connection, text

from jobs.errors import SettingsInvalid

# The policies of `jobs.repository.security`: the workers' and that of who erases hide nothing, the tenants' all but the
# tenant that is named.
_HIDDEN = """
    SELECT row_security_active('tenants') AND NOT EXISTS (
      SELECT FROM pg_policies, unnest(roles) AS role
      WHERE schemaname = current_schema() AND tablename = 'tenants'
        AND policyname IN ('portraits_worker', 'portraits_privacy')
        AND pg_has_role(role, 'USAGE'))
"""
# A worker that cannot say that it lives can do nothing else either. Rights on single columns are rights enough.
_MAY_WORK = "SELECT has_any_column_privilege('workers', 'INSERT') AND has_any_column_privilege('workers', 'UPDATE')"


def require_sight(tx: Connection) -> None:
    """Raises SettingsInvalid for a login to which row-level security shows no tenant: it would find nothing wrong,
    nothing old and no object that a row names.
    """
    if tx.dialect.name == "postgresql" and tx.execute(text(_HIDDEN)).scalar_one():
        login = tx.execute(text("SELECT current_user::text")).scalar_one()
        raise SettingsInvalid(
            f"no tenant is visible to the login {login!r}: wanted one that sees every tenant's rows, found row-level "
            "security; log in as the owner of the tables or as a member of the workers' role (`portraits db roles`)"
        )


def require_work(tx: Connection) -> None:
    """Raises SettingsInvalid for a login that may not write the table `workers`: it can be no worker's."""
    if tx.dialect.name == "postgresql" and not tx.execute(text(_MAY_WORK)).scalar_one():
        login = tx.execute(text("SELECT current_user::text")).scalar_one()
        raise SettingsInvalid(
            f"the login {login!r} may not write the table workers, which every worker does; log in as the owner of the "
            "tables, or as a member of the workers' role (`portraits db roles` prints the grants)"
        )

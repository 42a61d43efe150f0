-- A login for each kind of process, a member of its role and of nothing else (docs/reference/access.md). For psql, after
-- `portraits db roles --apply`, as often as one likes; `secrets` is the folder of the passwords, so that none is an argument.
\set ON_ERROR_STOP on
-- No statement with a password goes into the server's log.
SET log_statement = none;
SET log_min_duration_statement = -1;
SET log_min_error_statement = panic;

\set api `cat :'secrets'/api_database_password`
\set worker `cat :'secrets'/worker_database_password`
\set upkeep `cat :'secrets'/upkeep_database_password`

SELECT format('CREATE ROLE %I', login)
FROM unnest(ARRAY['portraits_api_login', 'portraits_worker_login', 'portraits_upkeep_login']) AS login
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = login)
\gexec

ALTER ROLE portraits_api_login LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS PASSWORD :'api';
ALTER ROLE portraits_worker_login LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS PASSWORD :'worker';
ALTER ROLE portraits_upkeep_login LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS PASSWORD :'upkeep';

GRANT portraits_tenant TO portraits_api_login;
GRANT portraits_worker TO portraits_worker_login;
GRANT portraits_privacy TO portraits_upkeep_login;

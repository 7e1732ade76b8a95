-- Grafana's login: may read what anomaly_cost_reader may (docker/postgres), and nothing else. Run by psql, which takes
-- the password from BI_PASSWORD; run again, it sets the password anew.
\set ON_ERROR_STOP on
\getenv password BI_PASSWORD
set log_statement = 'none';
set client_min_messages = warning;
select 'create role grafana' where not exists (select from pg_roles where rolname = 'grafana') \gexec
grant anomaly_cost_reader to grafana;
alter role grafana set default_transaction_read_only = on;
alter role grafana set timezone = 'UTC';
alter role grafana set statement_timeout = '60s';
alter role grafana login password :'password';

-- On SQLite the spool is a file; only PostgreSQL keeps it in tables.
select 1;

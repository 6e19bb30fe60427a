-- The logs' tables have an index by instance; only SQLite has it made in chunks.
select 1;

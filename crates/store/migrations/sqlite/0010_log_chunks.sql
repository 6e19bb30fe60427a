-- What of the logs' tables is indexed by instance: stretches of rows in the order in which they came.
-- A table without a row here has an index of SQLite's own. Chunk 0 has no rows.
create table log_chunks (
    log text not null,
    day bigint not null,
    chunk bigint not null,
    -- The place of the last row: a number or an id.
    last_place not null,
    -- Of the rows of this chunk.
    least_id blob not null,
    -- Of the rows of this chunk and all before.
    greatest_id blob not null,
    primary key (log, day, chunk)
) without rowid;

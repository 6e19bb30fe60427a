-- What processes put down of executions before the logs have it: each session has two tables of its own,
-- spool_<id>_0 and spool_<id>_1, and holds an advisory lock for as long as it lives.
-- All records up to the number `settled` are in the logs.
create table spools (
    id bytea not null primary key,
    worker text collate "C" not null,
    settled bigint not null,
    begun_at bigint not null
);

-- Rows may carry long params and answers, which do not belong in a tree of keys: no "without rowid" here.
create table if not exists {table} (
    -- The rowid, written out so that no rewrite of the database numbers the rows anew.
    sequence integer not null primary key,
    id blob not null unique,
    tenant_id text not null,
    instance_id text not null,
    definition_id text not null,
    definition_version text not null,
    method text not null,
    status text not null,
    mode text not null,
    error text,
    attempts bigint not null,
    cached bigint not null,
    upstream_status bigint,
    data_size bigint,
    created_at bigint not null,
    finished_at bigint,
    duration_ms bigint,
    principal text not null,
    correlation_id text not null,
    task_id text,
    replay_of blob,
    params text,
    data text
);
create index if not exists {table}_error on {table} (id) where status = 'ERROR';
-- Filled some time after the rows came. An index of SQLite's own would cost each call a page.
create table if not exists {table}_by_instance (
    chunk integer not null,
    instance text not null,
    place integer not null,
    primary key (chunk, instance, place)
) without rowid;

-- Rows may carry long params and answers, which do not belong in a tree of keys: no "without rowid" here.
create table if not exists {table} (
    id blob not null primary key,
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
create index if not exists {table}_instance on {table} (instance_id, id);
create index if not exists {table}_error on {table} (id) where status = 'ERROR';

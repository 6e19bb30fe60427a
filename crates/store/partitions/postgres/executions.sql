create table if not exists {table} (
    id bytea not null primary key,
    tenant_id text collate "C" not null,
    instance_id text collate "C" not null,
    definition_id text collate "C" not null,
    definition_version text collate "C" not null,
    method text collate "C" not null,
    status text collate "C" not null,
    mode text collate "C" not null,
    error text collate "C",
    attempts bigint not null,
    cached bigint not null,
    upstream_status bigint,
    data_size bigint,
    created_at bigint not null,
    finished_at bigint,
    duration_ms bigint,
    principal text collate "C" not null,
    correlation_id text collate "C" not null,
    task_id text collate "C",
    replay_of bytea,
    params text collate "C",
    data text collate "C"
);
create index if not exists {table}_instance on {table} (instance_id, id);
create index if not exists {table}_error on {table} (id) where status = 'ERROR';

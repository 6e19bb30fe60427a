create table if not exists {table} (
    id bytea not null primary key,
    event_type text collate "C" not null,
    tenant_id text collate "C" not null,
    instance_id text collate "C",
    created_at bigint not null,
    correlation_id text collate "C" not null,
    task_id text collate "C",
    data text collate "C" not null
);
create index if not exists {table}_instance on {table} (instance_id, id);

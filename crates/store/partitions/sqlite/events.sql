create table if not exists {table} (
    id blob not null primary key,
    event_type text not null,
    tenant_id text not null,
    instance_id text,
    created_at bigint not null,
    correlation_id text not null,
    task_id text,
    data text not null
) without rowid;
create index if not exists {table}_instance on {table} (instance_id, id);

create table if not exists {table} (
    id blob not null primary key,
    created_at bigint not null,
    tenant_id text not null,
    principal text not null,
    action text not null,
    instance_id text,
    credential_id blob,
    execution_id blob,
    outcome text not null,
    reason text not null,
    correlation_id text not null,
    details text
) without rowid;
create index if not exists {table}_instance on {table} (instance_id, id);

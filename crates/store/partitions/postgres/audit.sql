create table if not exists {table} (
    id bytea not null primary key,
    created_at bigint not null,
    tenant_id text collate "C" not null,
    principal text collate "C" not null,
    action text collate "C" not null,
    instance_id text collate "C",
    credential_id bytea,
    execution_id bytea,
    outcome text collate "C" not null,
    reason text collate "C" not null,
    correlation_id text collate "C" not null,
    details text collate "C"
);
create index if not exists {table}_instance on {table} (instance_id, id);

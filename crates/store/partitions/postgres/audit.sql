-- Rows are looked up by id only among the newest: an index that each row pays for is not worth it.
create table if not exists {table} (
    sequence bigint not null primary key,
    id bytea not null,
    created_at bigint not null,
    tenant_id text collate "C",
    principal text collate "C" not null,
    action text collate "C" not null,
    target_type text collate "C",
    target_id text collate "C",
    credential_id bytea,
    execution_id bytea,
    outcome text collate "C" not null,
    reason text collate "C" not null,
    correlation_id text collate "C" not null,
    details text collate "C",
    hash bytea not null
);

-- Rows are only ever added at the end, and a commit that adds some touches one page: no index here.
create table if not exists {table} (
    sequence integer not null primary key,
    id blob not null,
    created_at bigint not null,
    tenant_id text,
    principal text not null,
    action text not null,
    target_type text,
    target_id text,
    credential_id blob,
    execution_id blob,
    outcome text not null,
    reason text not null,
    correlation_id text not null,
    details text,
    hash blob not null
);

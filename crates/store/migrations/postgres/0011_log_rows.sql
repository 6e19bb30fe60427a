-- What the journal sends: each log's rows, in the order in which the code writes their columns.
-- One array of these is taken apart at half the cost of an array for each column.
-- The names of a later shape are others, so that processes of both versions can write.
create type execution_row as (
    id bytea,
    tenant_id text,
    instance_id text,
    definition_id text,
    definition_version text,
    method text,
    status text,
    mode text,
    error text,
    attempts bigint,
    cached bigint,
    upstream_status bigint,
    data_size bigint,
    created_at bigint,
    finished_at bigint,
    duration_ms bigint,
    principal text,
    correlation_id text,
    task_id text,
    replay_of bytea,
    params text,
    data text
);
create type event_row as (
    id bytea,
    event_type text,
    tenant_id text,
    instance_id text,
    created_at bigint,
    correlation_id text,
    task_id text,
    data text
);
create type audit_row as (
    id bytea,
    created_at bigint,
    tenant_id text,
    principal text,
    action text,
    target_type text,
    target_id text,
    credential_id bytea,
    execution_id bytea,
    outcome text,
    reason text,
    correlation_id text,
    details text,
    sequence bigint,
    hash bytea
);

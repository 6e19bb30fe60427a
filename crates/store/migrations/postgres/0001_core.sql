-- Texts compare bytewise (collate "C"), as they do on SQLite.
create table settings (
    name text collate "C" not null primary key,
    value text collate "C" not null
);

-- One row: the id of the newest event. Its update is the lock that orders commits with events.
create table event_head (
    name text collate "C" not null primary key,
    last_id bytea not null
);
insert into event_head (name, last_id) values ('events', decode('00000000000000000000000000000000', 'hex'));

-- The tables that hold one UTC day of a log each; day counts from 1970-01-01.
create table partitions (
    log text collate "C" not null,
    day bigint not null,
    primary key (log, day)
);

-- A sealed row that tells whether the given master keys are the ones of this database.
create table vault_canary (
    name text collate "C" not null primary key,
    secret_id bytea not null,
    key_id text collate "C" not null,
    wrapped_key bytea not null,
    sealed bytea not null
);

-- Processes that are alive: until lease_until, renewed by their heartbeat.
create table workers (
    name text collate "C" not null primary key,
    lease_until bigint not null
);

create table definitions (
    id text collate "C" not null,
    version text collate "C" not null,
    precedence bytea not null,
    name text collate "C" not null,
    description text collate "C" not null,
    adapter_type text collate "C" not null,
    auth_type text collate "C" not null,
    status text collate "C" not null,
    method_count bigint not null,
    labels text collate "C" not null,
    search text collate "C" not null,
    created_at bigint not null,
    updated_at bigint not null,
    published_at bigint,
    secret_id bytea,
    key_id text collate "C",
    wrapped_key bytea,
    sealed bytea,
    spec text collate "C" not null,
    primary key (id, version)
);
create index definitions_precedence on definitions (id, precedence);
create index definitions_secret on definitions (secret_id) where secret_id is not null;

create table definition_labels (
    definition_id text collate "C" not null,
    version text collate "C" not null,
    name text collate "C" not null,
    value text collate "C" not null,
    primary key (definition_id, version, name),
    foreign key (definition_id, version) references definitions (id, version) on delete cascade
);
create index definition_labels_value on definition_labels (name, value);

create table instances (
    id text collate "C" not null primary key,
    tenant_id text collate "C" not null,
    definition_id text collate "C" not null,
    definition_version text collate "C" not null,
    name text collate "C" not null,
    status text collate "C" not null,
    error text collate "C",
    version bigint not null,
    labels text collate "C" not null,
    search text collate "C" not null,
    created_at bigint not null,
    updated_at bigint not null,
    last_used_at bigint,
    last_connected_at bigint,
    config text collate "C" not null,
    foreign key (definition_id, definition_version) references definitions (id, version)
);
create index instances_tenant on instances (tenant_id, id);
create index instances_definition on instances (definition_id, definition_version);

create table instance_labels (
    instance_id text collate "C" not null references instances (id) on delete cascade,
    name text collate "C" not null,
    value text collate "C" not null,
    primary key (instance_id, name)
);
create index instance_labels_value on instance_labels (name, value);

create table credentials (
    instance_id text collate "C" not null primary key references instances (id) on delete cascade,
    secret_id bytea not null,
    tenant_id text collate "C" not null,
    auth_type text collate "C" not null,
    expires_at bigint,
    scope text collate "C",
    refreshable bigint not null,
    refused_at bigint,
    created_at bigint not null,
    updated_at bigint not null,
    key_id text collate "C" not null,
    wrapped_key bytea not null,
    sealed bytea not null
);
create unique index credentials_secret on credentials (secret_id);

-- Asynchronous executions that have not ended. The reference is checked at commit, so that
-- an instance can be deleted first and its waiting executions ended after.
create table execution_queue (
    id bytea not null primary key,
    instance_id text collate "C" not null references instances (id) deferrable initially deferred,
    state text collate "C" not null,
    worker text collate "C",
    lease_until bigint,
    params bytea not null,
    request bytea not null
);
create index execution_queue_state on execution_queue (state, id);
create index execution_queue_instance on execution_queue (instance_id);

create table idempotency_keys (
    tenant_id text collate "C" not null,
    instance_id text collate "C" not null references instances (id) on delete cascade,
    method text collate "C" not null,
    key text collate "C" not null,
    fingerprint bytea not null,
    execution_id bytea not null,
    worker text collate "C" not null,
    claimed_at bigint not null,
    expires_at bigint not null,
    answer bytea,
    primary key (tenant_id, instance_id, method, key)
);
create index idempotency_keys_instance on idempotency_keys (instance_id);
create index idempotency_keys_expires on idempotency_keys (expires_at);
create index idempotency_keys_open on idempotency_keys (claimed_at) where answer is null;

create table api_keys (
    id text collate "C" not null primary key,
    name text collate "C" not null,
    prefix text collate "C" not null,
    hash bytea not null unique,
    tenant_id text collate "C",
    created_at bigint not null,
    revoked_at bigint
);

create table settings (
    name text not null primary key,
    value text not null
);

-- One row: the id of the newest event. Its update is the lock that orders commits with events.
create table event_head (
    name text not null primary key,
    last_id blob not null
);
insert into event_head (name, last_id) values ('events', x'00000000000000000000000000000000');

-- The tables that hold one UTC day of a log each; day counts from 1970-01-01.
create table partitions (
    log text not null,
    day bigint not null,
    primary key (log, day)
) without rowid;

-- A sealed row that tells whether the given master keys are the ones of this database.
create table vault_canary (
    name text not null primary key,
    secret_id blob not null,
    key_id text not null,
    wrapped_key blob not null,
    sealed blob not null
);

-- Processes that are alive: until lease_until, renewed by their heartbeat.
create table workers (
    name text not null primary key,
    lease_until bigint not null
);

create table definitions (
    id text not null,
    version text not null,
    precedence blob not null,
    name text not null,
    description text not null,
    adapter_type text not null,
    auth_type text not null,
    status text not null,
    method_count bigint not null,
    labels text not null,
    search text not null,
    created_at bigint not null,
    updated_at bigint not null,
    published_at bigint,
    secret_id blob,
    key_id text,
    wrapped_key blob,
    sealed blob,
    spec text not null,
    primary key (id, version)
);
create index definitions_precedence on definitions (id, precedence);
create index definitions_secret on definitions (secret_id) where secret_id is not null;

create table definition_labels (
    definition_id text not null,
    version text not null,
    name text not null,
    value text not null,
    primary key (definition_id, version, name),
    foreign key (definition_id, version) references definitions (id, version) on delete cascade
) without rowid;
create index definition_labels_value on definition_labels (name, value);

create table instances (
    id text not null primary key,
    tenant_id text not null,
    definition_id text not null,
    definition_version text not null,
    name text not null,
    status text not null,
    error text,
    version bigint not null,
    labels text not null,
    search text not null,
    created_at bigint not null,
    updated_at bigint not null,
    last_used_at bigint,
    last_connected_at bigint,
    config text not null,
    foreign key (definition_id, definition_version) references definitions (id, version)
);
create index instances_tenant on instances (tenant_id, id);
create index instances_definition on instances (definition_id, definition_version);

create table instance_labels (
    instance_id text not null references instances (id) on delete cascade,
    name text not null,
    value text not null,
    primary key (instance_id, name)
) without rowid;
create index instance_labels_value on instance_labels (name, value);

create table credentials (
    instance_id text not null primary key references instances (id) on delete cascade,
    secret_id blob not null,
    tenant_id text not null,
    auth_type text not null,
    expires_at bigint,
    scope text,
    refreshable bigint not null,
    refused_at bigint,
    created_at bigint not null,
    updated_at bigint not null,
    key_id text not null,
    wrapped_key blob not null,
    sealed blob not null
);
create unique index credentials_secret on credentials (secret_id);

-- Asynchronous executions that have not ended. The reference is checked at commit, so that
-- an instance can be deleted first and its waiting executions ended after.
create table execution_queue (
    id blob not null primary key,
    instance_id text not null references instances (id) deferrable initially deferred,
    state text not null,
    worker text,
    lease_until bigint,
    params blob not null,
    request blob not null
);
create index execution_queue_state on execution_queue (state, id);
create index execution_queue_instance on execution_queue (instance_id);

create table idempotency_keys (
    tenant_id text not null,
    instance_id text not null references instances (id) on delete cascade,
    method text not null,
    key text not null,
    fingerprint blob not null,
    execution_id blob not null,
    worker text not null,
    claimed_at bigint not null,
    expires_at bigint not null,
    answer blob,
    primary key (tenant_id, instance_id, method, key)
);
create index idempotency_keys_instance on idempotency_keys (instance_id);
create index idempotency_keys_expires on idempotency_keys (expires_at);
create index idempotency_keys_open on idempotency_keys (claimed_at) where answer is null;

create table api_keys (
    id text not null primary key,
    name text not null,
    prefix text not null,
    hash blob not null unique,
    tenant_id text,
    created_at bigint not null,
    revoked_at bigint
);

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
-- Filled some time after the rows came. An index of SQLite's own would cost each call a page.
create table if not exists {table}_by_instance (
    chunk integer not null,
    instance text not null,
    place blob not null,
    primary key (chunk, instance, place)
) without rowid;

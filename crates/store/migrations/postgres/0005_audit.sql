-- How often a credential was used, and when last; when a person last exchanged it.
alter table credentials add column use_count bigint not null default 0;
alter table credentials add column last_used_at bigint;
alter table credentials add column rotated_at bigint;
create index credentials_rotated on credentials ((coalesce(rotated_at, updated_at)));

-- Events of other services that were taken, so that none is taken twice.
create table consumed_events (
    id bytea not null primary key,
    consumed_at bigint not null
);
create index consumed_events_age on consumed_events (consumed_at);

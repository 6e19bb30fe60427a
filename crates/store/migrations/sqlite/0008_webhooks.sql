-- Of several secrets that are in force together, until when each is; a JSON array of times and nulls.
alter table credentials add column secrets_until text;

-- Deliveries of webhooks that were taken, so that none is taken twice.
create table webhook_deliveries (
    instance_id text not null references instances (id) on delete cascade,
    digest blob not null,
    received_at bigint not null,
    primary key (instance_id, digest)
);
create index webhook_deliveries_age on webhook_deliveries (received_at);

-- What an API key may do, until when, and when it was last used. A key without roles and
-- grants may do nothing.
alter table api_keys add column roles text not null default '';
alter table api_keys add column grants text not null default '[]';
alter table api_keys add column created_by text not null default 'system';
alter table api_keys add column expires_at bigint;
alter table api_keys add column last_used_at bigint;
create index api_keys_tenant on api_keys (tenant_id, created_at, id);

-- The prefix names a key's caller, in the log and in the audit.
create unique index api_keys_prefix on api_keys (prefix);

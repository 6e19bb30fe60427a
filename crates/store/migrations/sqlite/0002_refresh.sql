-- Numbers the changes that other processes have to notice. Its update is the lock that puts
-- their commits in order.
create table change_head (
    name text not null primary key,
    last bigint not null
);
insert into change_head (name, last) values ('changes', 0);

-- The newest change of each instance and definition.
create table changes (
    subject text not null,
    id text not null,
    number bigint not null,
    changed_at bigint not null,
    primary key (subject, id)
) without rowid;
create unique index changes_number on changes (number);

-- The renewal of a credential. refresh_exchange names the exchange that began and is not
-- known to have ended; it is committed before the exchange is sent.
alter table credentials add column refresh_exchange blob;
alter table credentials add column refresh_worker text;
alter table credentials add column refresh_begun_at bigint;
alter table credentials add column refresh_lease_until bigint;
alter table credentials add column refresh_attempts bigint not null default 0;
alter table credentials add column refresh_retry_at bigint;
alter table credentials add column refresh_error text;
alter table credentials add column refresh_rotates bigint;
-- How long a token without an expiry was seen to live.
alter table credentials add column refresh_lifetime bigint;
-- When the renewal is looked at without a call.
alter table credentials add column next_refresh_at bigint;
update credentials set next_refresh_at = expires_at where auth_type = 'oauth2' and refreshable = 1;
create index credentials_next_refresh on credentials (next_refresh_at) where next_refresh_at is not null;
create index credentials_refresh_lease on credentials (refresh_lease_until) where refresh_lease_until is not null;

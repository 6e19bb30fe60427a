-- Connections that a person has begun and not ended: the way to an authorization server and
-- back, or a code on another device. digest is that of what the person brings back, or of the
-- device code. What is needed to end it is sealed.
create table oauth_requests (
    digest bytea not null primary key,
    grant_type text collate "C" not null,
    instance_id text collate "C" not null references instances (id) on delete cascade,
    tenant_id text collate "C" not null,
    principal text collate "C" not null,
    principal_tenant text collate "C",
    created_at bigint not null,
    expires_at bigint not null,
    -- When the token endpoint is asked next for a device; none where a person brings the answer.
    next_poll_at bigint,
    poll_interval_ms bigint,
    secret_id bytea not null,
    key_id text collate "C" not null,
    wrapped_key bytea not null,
    sealed bytea not null
);
create index oauth_requests_instance on oauth_requests (instance_id);
create index oauth_requests_expires on oauth_requests (expires_at);
create index oauth_requests_poll on oauth_requests (next_poll_at) where next_poll_at is not null;
create unique index oauth_requests_secret on oauth_requests (secret_id);

-- Clients that registered themselves, one for a definition, server and redirect URI.
create table oauth_clients (
    definition_id text collate "C" not null,
    registration_url text collate "C" not null,
    redirect_uri text collate "C" not null,
    created_at bigint not null,
    expires_at bigint,
    secret_id bytea not null,
    key_id text collate "C" not null,
    wrapped_key bytea not null,
    sealed bytea not null,
    primary key (definition_id, registration_url, redirect_uri)
);
create unique index oauth_clients_secret on oauth_clients (secret_id);

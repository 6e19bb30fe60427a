-- One row: where the chain of the audit's rows ends and begins, and the sealed key of its
-- hashes. Its lock puts the commits of audit rows in order.
-- The anchor is the last row that retention dropped; anchor_code proves that it was so.
create table audit_chain (
    name text collate "C" not null primary key,
    head_sequence bigint not null,
    head_hash bytea not null,
    head_day bigint not null,
    anchor_sequence bigint not null,
    anchor_hash bytea not null,
    anchor_code bytea,
    secret_id bytea,
    key_id text collate "C",
    wrapped_key bytea,
    sealed bytea
);
insert into audit_chain (name, head_sequence, head_hash, head_day, anchor_sequence, anchor_hash)
values ('audit', 0, decode(repeat('00', 32), 'hex'), 0, 0, decode(repeat('00', 32), 'hex'));

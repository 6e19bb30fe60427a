-- One row: where the chain of the audit's rows ends and begins, and the sealed key of its
-- hashes. The head is put down now and then; rows after it are told by the rows themselves.
-- The anchor is the last row that retention dropped; anchor_code proves that it was so.
create table audit_chain (
    name text not null primary key,
    head_sequence bigint not null,
    head_hash blob not null,
    head_day bigint not null,
    anchor_sequence bigint not null,
    anchor_hash blob not null,
    anchor_code blob,
    secret_id blob,
    key_id text,
    wrapped_key blob,
    sealed blob
);
insert into audit_chain (name, head_sequence, head_hash, head_day, anchor_sequence, anchor_hash)
values ('audit', 0, zeroblob(32), 0, 0, zeroblob(32));

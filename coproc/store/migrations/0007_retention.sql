-- Uploads whose bytes are not kept as they came: a handle never comes to mean anything else, whatever becomes of its
-- bytes. digest: SHA-256 of what was uploaded. dropped_at: since when nothing is stored under the handle.
create table originals (
    handle bytea primary key,
    key_id bytea not null,
    digest bytea not null,
    dropped_at timestamptz
);

-- One sweep goes through all ciphertexts, oldest first, whichever process takes its next step.
create index ciphertexts_created on ciphertexts (created_at, handle);
create table sweeps (
    name text primary key,
    after_time timestamptz not null default 'epoch',
    after_handle bytea not null default '',
    ended_at timestamptz not null default 'epoch'
);
insert into sweeps (name) values ('retention');

-- Compressed ciphertexts that somebody wants to read as plain ones; a worker brings them back.
create table thaws (
    handle bytea primary key,
    asked_at timestamptz not null default now(),
    lease_until timestamptz
);
insert into sweeps (name) values ('compression');

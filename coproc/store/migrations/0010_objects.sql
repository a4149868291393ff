-- Bytes of large values may be in an object store: then data is empty, and these say where they are, how many, and
-- their SHA-256.
alter table ciphertexts add column object text, add column size bigint, add column digest bytea;
alter table key_chunks add column object text, add column size bigint, add column digest bytea;

-- Objects that no row refers to: those about to be stored, so that none is forgotten, and those whose row went. Nothing
-- can come to refer to one that is doomed: it is being deleted.
create table loose_objects (
    name text primary key,
    since timestamptz not null default clock_timestamp(),
    is_doomed boolean not null default false
);
create index loose_objects_since on loose_objects (since);

-- The folder of the object store that is this database's. is_marked: an object in it says so.
create table object_home (
    only_one boolean primary key default true check (only_one),
    id uuid not null default gen_random_uuid(),
    is_marked boolean not null default false
);

create function let_object_go() returns trigger language plpgsql as $$
begin
    insert into loose_objects (name) values (old.object) on conflict do nothing;
    return null;
end $$;
create trigger ciphertext_went after delete on ciphertexts for each row
    when (old.object is not null) execute function let_object_go();
create trigger ciphertext_changed after update on ciphertexts for each row
    when (old.object is not null and old.object is distinct from new.object) execute function let_object_go();
create trigger key_chunk_went after delete on key_chunks for each row
    when (old.object is not null) execute function let_object_go();
create trigger key_chunk_changed after update on key_chunks for each row
    when (old.object is not null and old.object is distinct from new.object) execute function let_object_go();

-- Whoever puts bytes here, a release that knows no objects included, means these bytes.
create function bytes_win() returns trigger language plpgsql as $$
begin
    new.object := null;
    new.size := null;
    new.digest := null;
    return new;
end $$;
create trigger ciphertext_bytes_win before update of data on ciphertexts for each row
    when (new.object is not null and octet_length(new.data) > 0) execute function bytes_win();

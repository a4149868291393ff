-- Keys are too large for one value (30 to 450 MB): the record names the upload whose chunks hold the bytes.
create table keys (
    key_id bytea primary key,
    size bigint not null,
    parameters text not null,
    upload uuid not null unique,
    created_at timestamptz not null default now()
);

create table key_chunks (
    upload uuid not null,
    position integer not null,
    data bytea not null,
    created_at timestamptz not null default now(),
    primary key (upload, position)
);
-- Ciphertexts and keys look random: compressing them costs time and saves nothing.
alter table key_chunks alter column data set storage external;

create table ciphertexts (
    handle bytea primary key,
    key_id bytea not null references keys,
    data bytea not null,
    clear numeric,
    is_allowed boolean not null,
    created_at timestamptz not null default now()
);
alter table ciphertexts alter column data set storage external;

-- state: 0 waiting, 1 ready, 2 computing, 3 completed, 4 failed.
create table work_groups (
    group_id bigint generated always as identity primary key,
    key_id bytea not null references keys,
    transaction_id bytea not null,
    state smallint not null,
    attempts integer not null default 0,
    worker text,
    lease_until timestamptz,
    asked bytea[] not null default '{}',
    created_at timestamptz not null default now()
);
-- Few groups are open at any time, however many there were.
create index work_groups_open on work_groups (group_id) where state in (1, 2);

create table computations (
    output bytea primary key,
    group_id bigint not null references work_groups,
    position integer not null,
    operation smallint not null,
    operands bytea not null,
    is_allowed boolean not null,
    is_needed boolean not null default false,
    failure_rule text,
    failure_message text,
    failure_cause bytea
);
create index computations_group on computations (group_id, position);

create table computation_inputs (
    input bytea not null,
    output bytea not null references computations,
    primary key (input, output)
);
create index computation_inputs_output on computation_inputs (output);

create table transaction_outputs (
    transaction_id bytea not null,
    output bytea not null references computations,
    position bigint generated always as identity,
    primary key (transaction_id, output)
);
create index transaction_outputs_output on transaction_outputs (output);

-- Numbers are given out under a lock that is held to the end of the transaction, so they appear in order.
create table results (
    sequence bigint primary key,
    transaction_id bytea not null,
    output bytea not null references computations,
    unique (transaction_id, output)
);
create index results_transaction on results (transaction_id, sequence);

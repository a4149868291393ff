-- Chains that are followed: their blocks, and what each block brought, so that it can be taken back.
create table chain_blocks (
    chain_id bigint not null,
    number bigint not null,
    hash bytea not null,
    parent bytea not null,
    written_at timestamptz not null default now(),
    primary key (chain_id, hash),
    unique (chain_id, number)
);

-- Which blocks ask for a computation. One handle may be asked for by many.
create table chain_origins (
    chain_id bigint not null,
    block_hash bytea not null,
    transaction_id bytea not null,
    output bytea not null,
    primary key (chain_id, block_hash, transaction_id, output)
);
create index chain_origins_output on chain_origins (output, transaction_id);

create table chain_allows (
    chain_id bigint not null,
    block_hash bytea not null,
    handle bytea not null,
    primary key (chain_id, block_hash, handle)
);
create index chain_allows_handle on chain_allows (handle);

create table chain_delegations (
    chain_id bigint not null,
    block_hash bytea not null,
    log_index bigint not null,
    delegator bytea not null,
    delegate bytea not null,
    contract bytea not null,
    counter numeric not null,
    old_expiry numeric not null,
    new_expiry numeric not null,
    primary key (chain_id, block_hash, log_index)
);
create index chain_delegations_pair on chain_delegations (chain_id, delegator, delegate, contract, counter);

create table chain_faults (
    fault_id bigint generated always as identity primary key,
    chain_id bigint not null,
    block_hash bytea not null,
    log_index bigint not null,
    transaction_id bytea not null,
    handle bytea,
    rule text not null,
    message text not null
);
create index chain_faults_block on chain_faults (chain_id, block_hash);

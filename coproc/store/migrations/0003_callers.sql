-- Who works were asked for by, and until when they are wanted. Null: by anybody, and for ever.
alter table work_groups add column tenant text;
alter table work_groups add column deadline timestamptz;
create index work_groups_deadline on work_groups (deadline) where deadline is not null and state in (0, 1, 2);
-- Claims take turns between tenants, and quotas count what each has open.
create index work_groups_tenant on work_groups ((coalesce(tenant, '')), group_id) where state in (0, 1, 2);

create table tenants (
    name text primary key,
    weight double precision not null default 1 check (weight > 0),
    max_open_groups bigint check (max_open_groups >= 0),
    max_bootstraps_per_request bigint check (max_bootstraps_per_request >= 0),
    is_active boolean not null default true,
    created_at timestamptz not null default now()
);

-- Keys are random, so that one SHA-256 hides them well; they are never stored themselves.
create table api_keys (
    key_hash bytea primary key,
    tenant text not null references tenants on delete cascade,
    label text not null default '',
    created_at timestamptz not null default now()
);
create index api_keys_tenant on api_keys (tenant);

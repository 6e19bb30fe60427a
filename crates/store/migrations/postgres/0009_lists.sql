-- Lists of instances in their usual orders, without reading all that there are.
create index instances_name on instances (lower(name), id);
create index instances_tenant_name on instances (tenant_id, lower(name), id);
create index instances_updated on instances (updated_at, id);

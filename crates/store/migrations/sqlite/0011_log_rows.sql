-- Only PostgreSQL is sent rows of a type.
select 1;

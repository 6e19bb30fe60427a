//! The table for people: `docs/access.md`. Must not know how a request is checked.

use std::fmt::Write as _;

use integration_model::principal::Role;

use super::table::{Allowed, Rule, TABLE};

const INTRODUCTION: &str = "# Who may do what

This page is generated from the table that every request is checked by; what is not in it is refused. A caller has roles,
which count for all that its tenant owns, and grants, which allow it to call single methods. ● may; a caller without the
role is told 403 [FORBIDDEN](errors/FORBIDDEN.md). What belongs to another tenant is answered as if it did not exist. See
[Operations](operations.md#api-keys) for how keys get roles and grants, and [Security](../SECURITY.md#roles-and-tenants)
for what the roles are for.

- **grant**: what lets a caller in without any of the roles. *method*: the method of the instance is granted. *instance*: a
  method of the instance is. *definition*: a method of one of its instances is. *own execution*: the caller made the call,
  and its method is granted.
- **unbound**: the route touches what belongs to no tenant, so that a caller who is bound to a tenant may not.
- **Basic**: the key is also taken as the password of Basic authentication, under any user name.
- *anyone* needs no key, *known* any valid key.

";

/// The whole page.
pub fn matrix() -> String {
    let mut page = INTRODUCTION.to_owned();
    page.push_str("| route |");
    for role in Role::ALL {
        let _ = write!(page, " {} |", role.as_str());
    }
    page.push_str(" grant | also |\n| --- |");
    page.push_str(&" :-: |".repeat(Role::ALL.len()));
    page.push_str(" --- | --- |\n");
    for (verb, path, rule) in TABLE {
        let _ = write!(page, "| `{verb} {path}` |");
        for role in Role::ALL {
            let _ = write!(page, " {} |", if may(rule, *role) { "●" } else { "" });
        }
        let grant = rule.grant.map(super::table::GrantScope::name).unwrap_or_default();
        let _ = writeln!(page, " {grant} | {} |", remarks(rule).join(", "));
    }
    page
}

fn may(rule: &Rule, role: Role) -> bool {
    match rule.allowed {
        Allowed::Anyone | Allowed::Authenticated => true,
        Allowed::Roles(roles) => roles.contains(role),
    }
}

fn remarks(rule: &Rule) -> Vec<&'static str> {
    let facts = [
        (rule.allowed == Allowed::Anyone, "anyone"),
        (rule.allowed == Allowed::Authenticated, "known"),
        (rule.unbound, "unbound"),
        (rule.basic, "Basic"),
    ];
    facts.into_iter().filter(|(holds, _)| *holds).map(|(_, remark)| remark).collect()
}

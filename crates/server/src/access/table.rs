//! Who may do what: one table, from which the checks, the API's description and
//! `docs/access.md` come. What is not in it is refused. Must not know how a caller is told.

use std::collections::HashMap;
use std::sync::LazyLock;

use http::Method;
use integration_model::principal::{Principal, Role, Roles};

/// Who may call one route.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    pub allowed: Allowed,
    /// What a grant must be for to allow it without a role.
    pub grant: Option<GrantScope>,
    /// Whether a browser may open it with a password.
    pub basic: bool,
    /// Whether it touches what belongs to no tenant, so that a caller of one tenant may not.
    pub unbound: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allowed {
    /// Without a key too.
    Anyone,
    /// Whoever is known.
    Authenticated,
    /// Whoever has one of these.
    Roles(Roles),
}

/// How a request is matched with grants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GrantScope {
    /// The path names an instance and a method: both have to be granted.
    Method,
    /// The path names an instance, of which any method has to be granted.
    Instance,
    /// The path names a definition, of which an instance has to be granted.
    Definition,
    /// The path names an execution: the caller's own, of a granted method.
    Execution,
    /// The same, to execute it again.
    Replay,
}

impl GrantScope {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Method => "method",
            Self::Instance => "instance",
            Self::Definition => "definition",
            Self::Execution | Self::Replay => "own execution",
        }
    }

    /// What has to be granted, in words.
    pub const fn in_words(self) -> &'static str {
        match self {
            Self::Method => "a grant of the method",
            Self::Instance => "a grant of the instance",
            Self::Definition => "a grant of one of its instances",
            Self::Execution | Self::Replay => "a grant of the method where the execution is the caller's own",
        }
    }

    /// Whether the route executes a method, and answers in the shape of calls.
    pub const fn executes(self) -> bool {
        matches!(self, Self::Method | Self::Replay)
    }
}

impl Rule {
    const fn new(allowed: Allowed) -> Self {
        Self { allowed, grant: None, basic: false, unbound: false }
    }

    const fn or_grant(self, scope: GrantScope) -> Self {
        Self { grant: Some(scope), ..self }
    }

    const fn with_basic(self) -> Self {
        Self { basic: true, ..self }
    }

    const fn for_all_tenants(self) -> Self {
        Self { unbound: true, ..self }
    }

    /// Whether a role, or that it is known, lets the caller in.
    pub fn allows(&self, principal: &Principal) -> bool {
        match self.allowed {
            Allowed::Anyone | Allowed::Authenticated => true,
            Allowed::Roles(roles) => principal.roles.any_of(roles),
        }
    }

    /// What a caller needs, in words: `the role admin or operator, or a grant of the instance`.
    pub fn needs(&self) -> String {
        let mut text = match self.allowed {
            Allowed::Anyone => "nothing".to_owned(),
            Allowed::Authenticated => "a valid key".to_owned(),
            Allowed::Roles(roles) => {
                let names: Vec<_> = roles.iter().map(Role::as_str).collect();
                match names.as_slice() {
                    [] => "a role that nobody has".to_owned(),
                    [one] => format!("the role {one}"),
                    [first @ .., last] => format!("one of the roles {} or {last}", first.join(", ")),
                }
            }
        };
        if let Some(scope) = self.grant {
            text.push_str(", or ");
            text.push_str(scope.in_words());
        }
        if self.unbound {
            text.push_str(", in a caller that is bound to no tenant");
        }
        text
    }
}

const ANYONE: Rule = Rule::new(Allowed::Anyone);
const AUTHENTICATED: Rule = Rule::new(Allowed::Authenticated);

/// Admins may do everything.
const fn roles<const N: usize>(roles: [Role; N]) -> Rule {
    Rule::new(Allowed::Roles(Roles::of(&roles).with(Role::Admin)))
}

use GrantScope::{Definition, Execution, Instance, Replay};
use Role::{Auditor, CredentialManager, Developer, Executor, Monitor, Operator};

const ADMIN: Rule = roles([]);
const READ_DEFINITIONS: Rule = roles([Developer, Operator, CredentialManager, Executor]);
const CHECK_DEFINITIONS: Rule = roles([Developer]);
/// Definitions belong to no tenant.
const WRITE_DEFINITIONS: Rule = roles([Developer]).for_all_tenants();
const READ_INSTANCES: Rule = roles([Developer, Operator, CredentialManager, Executor]);
const OPERATE: Rule = roles([Operator]);
const OBSERVE: Rule = roles([Operator, Monitor]);
const CREDENTIALS: Rule = roles([CredentialManager]);
const EXECUTE: Rule = roles([Executor]);
const READ_EXECUTIONS: Rule = roles([Operator, Executor, Auditor]);
const READ_EVENTS: Rule = roles([Operator, Auditor]);

/// Verb, path as the router has it, rule.
pub const TABLE: &[(Method, &str, Rule)] = &[
    (Method::GET, "/health", ANYONE),
    (Method::GET, "/health/live", ANYONE),
    (Method::GET, "/health/ready", ANYONE),
    (Method::GET, "/api/v1/oauth/callback", ANYONE),
    // Known by their signature.
    (Method::POST, "/webhooks/{integrationId}", ANYONE),
    (Method::GET, "/openapi.json", AUTHENTICATED.with_basic()),
    (Method::GET, "/docs", AUTHENTICATED.with_basic()),
    (Method::GET, "/docs/errors/{code}", AUTHENTICATED.with_basic()),
    (Method::GET, "/status/health", roles([Monitor]).with_basic()),
    // Its labels name the instances of all tenants.
    (Method::GET, "/status/metrics", roles([Monitor]).with_basic().for_all_tenants()),
    (Method::GET, "/api/v1/integration-definitions", READ_DEFINITIONS),
    (Method::POST, "/api/v1/integration-definitions", WRITE_DEFINITIONS),
    (Method::POST, "/api/v1/integration-definitions/validate", CHECK_DEFINITIONS),
    (Method::GET, "/api/v1/integration-definitions/{id}", READ_DEFINITIONS),
    (Method::GET, "/api/v1/integration-definitions/{id}/methods", READ_DEFINITIONS.or_grant(Definition)),
    (Method::GET, "/api/v1/integration-definitions/{id}/schema", READ_DEFINITIONS.or_grant(Definition)),
    (Method::GET, "/definitions/{id}/schema", READ_DEFINITIONS.or_grant(Definition)),
    (Method::GET, "/api/v1/integration-definitions/{id}/versions", READ_DEFINITIONS),
    (Method::POST, "/api/v1/integration-definitions/{id}/versions", WRITE_DEFINITIONS),
    (Method::GET, "/api/v1/integration-definitions/{id}/versions/{version}", READ_DEFINITIONS),
    (Method::PUT, "/api/v1/integration-definitions/{id}/versions/{version}", WRITE_DEFINITIONS),
    (Method::DELETE, "/api/v1/integration-definitions/{id}/versions/{version}", WRITE_DEFINITIONS),
    (Method::POST, "/api/v1/integration-definitions/{id}/versions/{version}/publish", WRITE_DEFINITIONS),
    (Method::POST, "/api/v1/integration-definitions/{id}/versions/{version}/deprecate", WRITE_DEFINITIONS),
    (Method::POST, "/api/v1/integration-definitions/{id}/versions/{version}/archive", WRITE_DEFINITIONS),
    (Method::GET, "/api/v1/integration-definitions/{id}/compare", CHECK_DEFINITIONS),
    (Method::POST, "/api/v1/imports/openapi", WRITE_DEFINITIONS),
    (Method::POST, "/api/v1/imports/graphql", WRITE_DEFINITIONS),
    (Method::POST, "/api/v1/imports/wsdl", WRITE_DEFINITIONS),
    (Method::GET, "/api/v1/catalogue", READ_DEFINITIONS),
    (Method::GET, "/api/v1/catalogue/{id}", READ_DEFINITIONS),
    (Method::POST, "/api/v1/catalogue/{id}/install", WRITE_DEFINITIONS),
    (Method::GET, "/api/v1/adapters", READ_DEFINITIONS),
    (Method::GET, "/api/v1/integration-instances", READ_INSTANCES),
    (Method::POST, "/api/v1/integration-instances", OPERATE),
    (Method::GET, "/api/v1/integration-instances/{id}", READ_INSTANCES.or_grant(Instance)),
    (Method::PUT, "/api/v1/integration-instances/{id}", OPERATE),
    (Method::PATCH, "/api/v1/integration-instances/{id}", OPERATE),
    (Method::DELETE, "/api/v1/integration-instances/{id}", OPERATE),
    (Method::POST, "/api/v1/integration-instances/{id}/connect", OPERATE),
    (Method::POST, "/api/v1/integration-instances/{id}/disconnect", OPERATE),
    (Method::POST, "/api/v1/integration-instances/{id}/test", OPERATE),
    (Method::POST, "/api/v1/integration-instances/{id}/upgrade", OPERATE),
    (Method::GET, "/api/v1/integration-instances/{id}/executions", READ_EXECUTIONS),
    (Method::POST, "/api/v1/integration-instances/{id}/credentials", CREDENTIALS),
    (Method::DELETE, "/api/v1/integration-instances/{id}/credentials", CREDENTIALS),
    (Method::GET, "/api/v1/integration-instances/{id}/credentials/status", CREDENTIALS),
    (Method::POST, "/api/v1/integration-instances/{id}/credentials/refresh", CREDENTIALS),
    (Method::POST, "/api/v1/integration-instances/{id}/credentials/rotate", CREDENTIALS),
    (Method::POST, "/api/v1/integration-instances/{id}/oauth/authorize", CREDENTIALS),
    (Method::POST, "/api/v1/integration-instances/{id}/oauth/device", CREDENTIALS),
    (Method::POST, "/execute/{integrationId}/{method}", EXECUTE.or_grant(GrantScope::Method)),
    (Method::GET, "/api/v1/executions", READ_EXECUTIONS),
    (Method::GET, "/api/v1/executions/{id}", READ_EXECUTIONS.or_grant(Execution)),
    (Method::POST, "/api/v1/executions/{id}/cancel", roles([Operator, Executor]).or_grant(Execution)),
    (Method::POST, "/api/v1/executions/{id}/replay", EXECUTE.or_grant(Replay)),
    (Method::GET, "/api/v1/events", READ_EVENTS),
    // Events of other services say that a credential was exchanged.
    (Method::POST, "/api/v1/events", roles([Operator, CredentialManager])),
    (Method::GET, "/api/v1/events/stream", READ_EVENTS),
    (Method::GET, "/api/v1/audit", roles([Auditor])),
    (Method::GET, "/api/v1/audit/export", roles([Auditor])),
    (Method::GET, "/integrations", READ_INSTANCES),
    (Method::POST, "/integrations", OPERATE),
    (Method::GET, "/integrations/{id}", READ_INSTANCES.or_grant(Instance)),
    (Method::PUT, "/integrations/{id}", OPERATE),
    (Method::DELETE, "/integrations/{id}", OPERATE),
    (Method::GET, "/integrations/{id}/health", OBSERVE),
    (Method::GET, "/integrations/{id}/status", OBSERVE),
    (Method::POST, "/integrations/{id}/test", OPERATE),
    (Method::GET, "/integrations/{id}/rate-limit", OBSERVE),
    (Method::GET, "/integrations/{id}/cache", OBSERVE),
    (Method::POST, "/integrations/{id}/cache/clear", OPERATE),
    (Method::GET, "/integrations/{id}/circuit-breaker", OBSERVE),
    (Method::POST, "/integrations/{id}/circuit-breaker/reset", OPERATE),
    (Method::GET, "/api/v1/api-keys", ADMIN),
    (Method::POST, "/api/v1/api-keys", ADMIN),
    (Method::GET, "/api/v1/api-keys/{id}", ADMIN),
    (Method::DELETE, "/api/v1/api-keys/{id}", ADMIN),
];

/// The rules of one path, with their verbs.
#[derive(Debug, Clone, Copy)]
pub struct PathRules<'a>(&'a [(Method, &'static Rule)]);

impl PathRules<'_> {
    /// What answers GET answers HEAD.
    pub fn of_verb(self, verb: &Method) -> Option<&'static Rule> {
        let verb = if verb == Method::HEAD { &Method::GET } else { verb };
        self.0.iter().find(|(known, _)| known == verb).map(|(_, rule)| *rule)
    }

    /// The verbs that the path takes, as `Allow` names them.
    pub fn verbs(self) -> String {
        let verbs = self.0.iter().map(|(verb, _)| if verb == Method::GET { "GET,HEAD" } else { verb.as_str() });
        verbs.collect::<Vec<_>>().join(",")
    }

    pub fn are_open(self) -> bool {
        self.0.iter().all(|(_, rule)| rule.allowed == Allowed::Anyone)
    }
}

type ByPath = HashMap<&'static str, Vec<(Method, &'static Rule)>>;

static BY_PATH: LazyLock<ByPath> = LazyLock::new(|| {
    let mut by_path = ByPath::new();
    for (verb, path, rule) in TABLE {
        by_path.entry(path).or_default().push((verb.clone(), rule));
    }
    by_path
});

/// The rules of a path as the router has it; none where nobody said who may call it.
pub fn rules(path: &str) -> Option<PathRules<'static>> {
    BY_PATH.get(path).map(|rules| PathRules(rules))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use super::*;

    #[test]
    fn every_route_is_there_once() {
        let mut seen = BTreeSet::new();
        for (verb, path, rule) in TABLE {
            assert!(seen.insert((verb.as_str(), path)), "{verb} {path} comes twice");
            assert!(!rule.basic || verb == Method::GET, "{verb} {path} takes a password");
        }
    }

    #[test]
    fn the_table_and_a_principal_agree_on_who_may_execute() {
        let rule = rules("/execute/{integrationId}/{method}").and_then(|rules| rules.of_verb(&Method::POST));
        for role in Role::ALL {
            let principal = Principal { roles: Roles::of(&[*role]), grants: Arc::new([]), ..Principal::system() };
            assert_eq!(rule.expect("a rule").allows(&principal), principal.may_execute("a", "b"), "{role:?}");
        }
    }

    #[test]
    fn a_rule_says_what_it_needs() {
        assert_eq!(ADMIN.needs(), "the role admin");
        assert_eq!(
            READ_INSTANCES.or_grant(Instance).needs(),
            "one of the roles admin, developer, operator, credential_manager or executor, or a grant of the instance"
        );
    }
}

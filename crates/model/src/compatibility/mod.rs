//! Whether a new version of a definition keeps what an older one promised its callers, and
//! whether its version number says so.
//!
//! Owns: the list of changes between two versions, which of them break callers, and the
//! bump of the version number that they ask for. Must not know: where versions are kept,
//! or which two are to be compared.
//!
//! What cannot be proved compatible counts as a break, and says so.

mod combination;
mod containment;
mod demand;
mod member;
mod number;
#[cfg(test)]
mod tests;
mod value;

use std::collections::{HashMap, HashSet};

use semver::Version;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use self::containment::{Certainty, Direction, Finding, compare_schemas};
use self::demand::{Document, TypeSet};
use self::number::Budget;
use crate::Problem;
use crate::definition::{DefinitionSpec, Method, ResultValidation};
use crate::problem::push_pointer;

/// What a change means for those who call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum ChangeKind {
    /// Calls that worked fail, or answers hold what they did not hold before.
    Breaking,
    /// Not proved compatible; counts as breaking.
    Unproven,
    /// Something is added: what worked goes on working.
    Compatible,
    /// The shape of calls and answers stays: texts, policies, how the call is made.
    Neutral,
}

/// A step of a semantic version, the smallest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum Bump {
    None,
    Patch,
    Minor,
    Major,
}

/// One difference between two versions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    pub kind: ChangeKind,
    /// JSON Pointer into the new version; into the old one where something was removed.
    pub pointer: String,
    /// The method concerned; none for the definition as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    pub message: String,
}

/// What changed between two versions, and whether the number of the new one is honest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CompatibilityReport {
    pub from: String,
    pub to: String,
    pub changes: Vec<Change>,
    /// The smallest bump that the changes allow.
    pub required_bump: Bump,
    /// The bump between the two version numbers; none where the new one is not higher.
    pub actual_bump: Bump,
    /// Whether the new number is higher, and by enough.
    pub honest: bool,
    /// Why the new number is not honest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version_problem: Option<Problem>,
}

impl CompatibilityReport {
    /// The changes that break callers, or may.
    pub fn breaks(&self) -> impl Iterator<Item = &Change> {
        self.changes.iter().filter(|change| matches!(change.kind, ChangeKind::Breaking | ChangeKind::Unproven))
    }
}

/// The most findings that one pair of schemas contributes to a report.
const MAX_FINDINGS: usize = 20;

/// Steps of work on one pair of schemas, and on all of a definition's.
const SCHEMA_BUDGET: usize = 200_000;
const DEFINITION_BUDGET: usize = 5_000_000;

/// Compares two versions of a definition. Takes bounded time whatever the schemas hold.
pub fn compare(old: &DefinitionSpec, new: &DefinitionSpec) -> CompatibilityReport {
    let mut comparison = Comparison { changes: Vec::new(), budget: Budget(DEFINITION_BUDGET) };
    comparison.compare_definition(old, new);
    comparison.compare_methods(old, new);
    let changes = comparison.changes;

    let required_bump = required_bump(&old.version, &changes);
    let actual_bump = actual_bump(&old.version, &new.version);
    let version_problem = judge_version(&old.version, &new.version, required_bump, actual_bump);
    CompatibilityReport {
        from: old.version.to_string(),
        to: new.version.to_string(),
        changes,
        required_bump,
        actual_bump,
        honest: version_problem.is_none(),
        version_problem,
    }
}

/// The smallest bump that the changes allow. Before 1.0.0 a minor version may break, and
/// a patch may add; a pre-release promises nothing yet.
fn required_bump(old: &Version, changes: &[Change]) -> Bump {
    let stable = changes.iter().map(|change| change.kind.bump()).max().unwrap_or(Bump::None);
    if !old.pre.is_empty() {
        return stable.min(Bump::Patch);
    }
    match (old.major, stable) {
        (0, Bump::Major) => Bump::Minor,
        (0, Bump::Minor) => Bump::Patch,
        (_, bump) => bump,
    }
}

fn actual_bump(old: &Version, new: &Version) -> Bump {
    if !new.cmp_precedence(old).is_gt() {
        Bump::None
    } else if new.major > old.major {
        Bump::Major
    } else if new.minor > old.minor {
        Bump::Minor
    } else {
        Bump::Patch
    }
}

fn judge_version(old: &Version, new: &Version, required: Bump, actual: Bump) -> Option<Problem> {
    if actual == Bump::None {
        return Some(Problem::new("/version", format!("expected a version higher than {old}, not {new}")));
    }
    let lowest = match required {
        Bump::None | Bump::Patch => return None,
        Bump::Minor => Version::new(old.major, old.minor.saturating_add(1), 0),
        Bump::Major => Version::new(old.major.saturating_add(1), 0, 0),
    };
    (actual < required).then(|| {
        Problem::new("/version", format!("the changes since {old} need version {lowest} or higher, not {new}"))
    })
}

impl ChangeKind {
    const fn bump(self) -> Bump {
        match self {
            Self::Breaking | Self::Unproven => Bump::Major,
            Self::Compatible => Bump::Minor,
            Self::Neutral => Bump::Patch,
        }
    }
}

struct Comparison {
    changes: Vec<Change>,
    budget: Budget,
}

/// What a schema describes, and so which way it may change.
struct SchemaPair<'a> {
    old: &'a Value,
    new: &'a Value,
    /// Where the new schema stands in its definition.
    pointer: String,
    method: Option<&'a str>,
    direction: Direction,
    /// What the described values are known to be.
    types: TypeSet,
}

impl Comparison {
    fn add(&mut self, kind: ChangeKind, pointer: impl Into<String>, method: Option<&str>, message: impl Into<String>) {
        let (pointer, message) = (pointer.into(), message.into());
        self.changes.push(Change { kind, pointer, method: method.map(str::to_owned), message });
    }

    fn compare_definition(&mut self, old: &DefinitionSpec, new: &DefinitionSpec) {
        use ChangeKind::{Breaking, Neutral};
        if old.adapter_type != new.adapter_type {
            let message = format!("the type was {:?} and is {:?}", old.adapter_type, new.adapter_type);
            self.add(Breaking, "/type", None, message);
        }
        if old.auth_type != new.auth_type {
            let (old, new) = (old.auth_type.as_str(), new.auth_type.as_str());
            self.add(
                Breaking,
                "/authType",
                None,
                format!("the authType was {old} and is {new}: stored credentials no longer fit"),
            );
        }
        self.compare_config(old, new);
        self.compare_custom_auth(old, new);
        for (changed, field) in [
            (old.name != new.name, "name"),
            (old.description != new.description, "description"),
            (old.labels != new.labels, "labels"),
            (old.adapter_version != new.adapter_version, "adapterVersion"),
            (old.api_key_auth != new.api_key_auth, "apiKeyAuth"),
            (old.rate_limits != new.rate_limits, "rateLimits"),
            (old.test_method != new.test_method, "testMethod"),
            (without_secret(old) != without_secret(new), "oauth2Config"),
        ] {
            if changed {
                self.add(Neutral, format!("/{field}"), None, format!("{field} changed"));
            }
        }
    }

    /// A config is the instance's own over the defaults, so a default meets a requirement.
    fn compare_config(&mut self, old: &DefinitionSpec, new: &DefinitionSpec) {
        let old_schema = without_requirements(&old.config_schema, &old.default_config);
        let new_schema = without_requirements(&new.config_schema, &new.default_config);
        self.compare_schema(&SchemaPair {
            old: &old_schema,
            new: &new_schema,
            pointer: "/configSchema".to_owned(),
            method: None,
            direction: Direction::Input,
            types: TypeSet::OBJECT,
        });
        for (name, value) in &old.default_config {
            let pointer = push_pointer("/defaultConfig", name);
            match new.default_config.get(name) {
                Some(same) if same == value => {}
                Some(_) => self.add(ChangeKind::Compatible, pointer, None, format!("the default of {name:?} changed")),
                None => {
                    let message = format!("the default of {name:?} was removed: instances that rely on it go without");
                    self.add(ChangeKind::Unproven, pointer, None, message);
                }
            }
        }
        for name in new.default_config.keys().filter(|name| !old.default_config.contains_key(*name)) {
            let message = format!("{name:?} has a default now");
            self.add(ChangeKind::Compatible, push_pointer("/defaultConfig", name), None, message);
        }
    }

    fn compare_custom_auth(&mut self, old: &DefinitionSpec, new: &DefinitionSpec) {
        let (Some(old), Some(new)) = (&old.custom_auth, &new.custom_auth) else { return };
        if old == new {
            return;
        }
        let known: HashSet<&String> = old.headers.values().chain(old.query.values()).collect();
        let parts = [("headers", &new.headers), ("query", &new.query)];
        for (part, name, field) in parts.iter().flat_map(|(part, map)| map.iter().map(move |(k, v)| (part, k, v))) {
            if !known.contains(field) {
                let message = format!("needs a credential field {field:?} that was not needed before");
                let pointer = push_pointer(&format!("/customAuth/{part}"), name);
                self.add(ChangeKind::Breaking, pointer, None, message);
            }
        }
        self.add(ChangeKind::Neutral, "/customAuth", None, "customAuth changed");
    }

    fn compare_methods(&mut self, old: &DefinitionSpec, new: &DefinitionSpec) {
        let new_by_name: HashMap<&str, (usize, &Method)> =
            new.methods.iter().enumerate().map(|(index, method)| (method.name.as_str(), (index, method))).collect();
        let old_names: HashSet<&str> = old.methods.iter().map(|method| method.name.as_str()).collect();
        for (index, method) in old.methods.iter().enumerate() {
            let name = method.name.as_str();
            match new_by_name.get(name) {
                Some((index, now)) => self.compare_method(method, now, *index, [old, new]),
                None => {
                    let message = format!("the method {name:?} was removed");
                    self.add(ChangeKind::Breaking, format!("/methods/{index}"), Some(name), message);
                }
            }
        }
        for (index, method) in new.methods.iter().enumerate() {
            if !old_names.contains(method.name.as_str()) {
                let message = format!("the method {:?} was added", method.name);
                self.add(ChangeKind::Compatible, format!("/methods/{index}"), Some(&method.name), message);
            }
        }
    }

    fn compare_method(&mut self, old: &Method, new: &Method, index: usize, definitions: [&DefinitionSpec; 2]) {
        use ChangeKind::{Compatible, Neutral};
        let at = |field: &str| format!("/methods/{index}/{field}");
        let method = Some(new.name.as_str());
        self.compare_removed_params(old, new, &at("paramSchema"));
        self.compare_schema(&SchemaPair {
            old: &old.param_schema,
            new: &new.param_schema,
            pointer: at("paramSchema"),
            method,
            direction: Direction::Input,
            types: TypeSet::OBJECT,
        });
        self.compare_schema(&SchemaPair {
            old: &old.result_schema,
            new: &new.result_schema,
            pointer: at("resultSchema"),
            method,
            direction: Direction::Output,
            types: TypeSet::ALL,
        });
        if old.result_validation != new.result_validation {
            let narrows = new.result_validation == ResultValidation::Enforce;
            let kind = if narrows { Compatible } else { Neutral };
            self.add(kind, at("resultValidation"), method, "resultValidation changed");
        }
        if old.deprecated != new.deprecated {
            let (kind, word) = if new.deprecated { (Compatible, "is") } else { (Neutral, "is no longer") };
            self.add(kind, at("deprecated"), method, format!("the method {word} deprecated"));
        }
        let [before, after] = definitions;
        let request = resolved(before, &old.request_transform) != resolved(after, &new.request_transform);
        let response = resolved(before, &old.response_transform) != resolved(after, &new.response_transform);
        for (changed, field) in [
            (old.description != new.description, "description"),
            (old.operation != new.operation, "operation"),
            (request, "requestTransform"),
            (response, "responseTransform"),
            (old.rate_limits != new.rate_limits, "rateLimits"),
            (old.timeout_ms != new.timeout_ms, "timeoutMs"),
            (old.retry_config != new.retry_config, "retryConfig"),
            (old.circuit_breaker != new.circuit_breaker, "circuitBreaker"),
            (old.cache != new.cache, "cache"),
            (old.idempotent != new.idempotent, "idempotent"),
        ] {
            if changed {
                self.add(Neutral, at(field), method, format!("{field} changed"));
            }
        }
    }

    /// An open object goes on taking a param that the schema no longer names, but to no effect.
    fn compare_removed_params(&mut self, old: &Method, new: &Method, pointer: &str) {
        let named = |schema: &Value| schema.get("properties").and_then(Value::as_object).cloned().unwrap_or_default();
        if !is_plain_object(&old.param_schema) || !is_plain_object(&new.param_schema) {
            return;
        }
        let now = named(&new.param_schema);
        for name in named(&old.param_schema).keys().filter(|name| !now.contains_key(*name)) {
            let message = format!("the param {name:?} is no longer named: calls that send it pass, to no known effect");
            self.add(ChangeKind::Unproven, pointer, Some(&new.name), message);
        }
    }

    fn compare_schema(&mut self, pair: &SchemaPair<'_>) {
        if pair.old == pair.new {
            return;
        }
        let (old, new) = (Document::new(pair.old), Document::new(pair.new));
        let (sub, sup, more) = match pair.direction {
            Direction::Input => (&old, &new, "takes more than before"),
            Direction::Output => (&new, &old, "promises more than before"),
        };
        let findings = self.with_budget(|budget| compare_schemas(sub, sup, pair.types, pair.direction, budget));
        if !findings.is_empty() {
            self.report(pair, &findings);
            return;
        }
        // Read strictly, without passing over undeclared properties: is anything added at all?
        let mut contains = |sub, sup| {
            self.with_budget(|budget| compare_schemas(sub, sup, pair.types, Direction::Output, budget).is_empty())
        };
        let (kind, message) = if contains(&old, &new) && contains(&new, &old) {
            (ChangeKind::Neutral, "describes the same in other words")
        } else {
            (ChangeKind::Compatible, more)
        };
        self.add(kind, pair.pointer.clone(), pair.method, message);
    }

    /// Lends the work on one pair of schemas its share of the budget.
    fn with_budget<T>(&mut self, work: impl FnOnce(&mut Budget) -> T) -> T {
        let lent = self.budget.0.min(SCHEMA_BUDGET);
        let mut budget = Budget(lent);
        let result = work(&mut budget);
        self.budget.0 -= lent - budget.0;
        result
    }

    fn report(&mut self, pair: &SchemaPair<'_>, findings: &[Finding<'_>]) {
        let mut told = HashSet::new();
        let mut untold = 0;
        for finding in findings {
            if !told.insert((std::ptr::from_ref(finding.at), finding.keyword, finding.message.as_str())) {
                continue;
            }
            if told.len() > MAX_FINDINGS {
                untold += 1;
                continue;
            }
            let mut pointer = pair.pointer.clone() + &find(pair.new, finding.at).unwrap_or_default();
            if finding.at.get(finding.keyword).is_some() {
                pointer = push_pointer(&pointer, finding.keyword);
            }
            let kind = match finding.certainty {
                Certainty::Broken => ChangeKind::Breaking,
                Certainty::Unproven => ChangeKind::Unproven,
            };
            self.add(kind, pointer, pair.method, finding.message.clone());
        }
        if untold > 0 {
            self.add(ChangeKind::Unproven, pair.pointer.clone(), pair.method, format!("and {untold} findings more"));
        }
    }
}

/// The pointer of the value at this address within `tree`.
fn find(tree: &Value, wanted: &Value) -> Option<String> {
    if std::ptr::eq(tree, wanted) {
        return Some(String::new());
    }
    let within = |token: &str, pointer: String| push_pointer("", token) + &pointer;
    match tree {
        Value::Array(items) => {
            let mut items = items.iter().enumerate();
            items.find_map(|(index, item)| find(item, wanted).map(|pointer| within(&index.to_string(), pointer)))
        }
        Value::Object(members) => {
            members.iter().find_map(|(key, member)| find(member, wanted).map(|pointer| within(key, pointer)))
        }
        _ => None,
    }
}

/// Whether what the schema takes hangs on no more than its own keywords, and is open.
fn is_plain_object(schema: &Value) -> bool {
    let combined = ["$ref", "allOf", "anyOf", "oneOf", "patternProperties"].iter().any(|key| schema.get(key).is_some());
    let open = !matches!(schema.get("additionalProperties"), Some(Value::Bool(false) | Value::Object(_)));
    schema.is_object() && !combined && open
}

fn without_requirements(schema: &Value, defaults: &Map<String, Value>) -> Value {
    let mut schema = schema.clone();
    if let Some(required) = schema.get_mut("required").and_then(Value::as_array_mut) {
        required.retain(|name| !name.as_str().is_some_and(|name| defaults.contains_key(name)));
    }
    schema
}

fn resolved<'a>(definition: &'a DefinitionSpec, transform: &'a Option<String>) -> Option<&'a str> {
    definition.resolve_transform(transform.as_deref()?)
}

/// The OAuth settings as they are kept in the open: a stored version has its secret elsewhere.
fn without_secret(definition: &DefinitionSpec) -> Option<crate::definition::OAuth2Config> {
    definition.oauth2_config.as_ref().map(|config| config.without_secret())
}

//! The settings of who may call: the issuers whose tokens are good, and the services known by
//! their certificates. Owns their types and rules. Must not know how a caller is checked.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::time::Duration;

use integration_model::TenantId;
use integration_model::id::is_valid_id;
use integration_model::principal::{Grant, Role};
use integration_model::problem::Problem;
use serde::Deserialize;

use super::custody::check_url;
use super::secret::Secret;
use crate::tls::SubjectName;

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AccessConfig {
    pub admin_key: Option<Secret>,
    pub failed_attempts_per_minute: u32,
    /// None: where TLS asks callers for certificates.
    pub require_client_certificate: Option<bool>,
    pub services: Vec<ServiceConfig>,
    pub jwt: Vec<JwtIssuerConfig>,
}

/// A service that is known by its certificate.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceConfig {
    /// `spiffe://…` or another URI, or `dns:NAME`.
    pub san: String,
    pub name: String,
    /// The one tenant for which it calls.
    pub tenant: Option<TenantId>,
    /// The principals whose tokens are good with this certificate alone.
    #[serde(default)]
    pub principals: Vec<String>,
    /// What it may do without a token; with neither roles nor grants, it needs one.
    #[serde(default)]
    pub roles: Vec<Role>,
    #[serde(default)]
    pub grants: Vec<Grant>,
}

/// An issuer whose tokens are good.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JwtIssuerConfig {
    /// Its callers are named `jwt:NAME:SUBJECT`.
    pub name: String,
    pub issuer: String,
    pub audience: String,
    pub jwks_url: Option<String>,
    pub jwks_file: Option<PathBuf>,
    pub shared_key: Option<Secret>,
    pub algorithms: Vec<JwtAlgorithm>,
    #[serde(default = "default_clock_skew")]
    pub clock_skew_seconds: u64,
    #[serde(default = "default_max_age")]
    pub jwks_max_age_seconds: u64,
    #[serde(default = "default_max_stale")]
    pub jwks_max_stale_seconds: u64,
    #[serde(default = "default_cooldown")]
    pub jwks_cooldown_seconds: u64,
    #[serde(default)]
    pub claims: ClaimsConfig,
    #[serde(default)]
    pub default_roles: Vec<Role>,
    /// `*` is all tenants.
    pub default_tenant: Option<String>,
}

/// Where a token says what, as JSON Pointers.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClaimsConfig {
    #[serde(default = "default_subject")]
    pub principal: String,
    pub tenant: Option<String>,
    pub roles: Option<String>,
    /// Their roles to ours; empty, theirs are called as ours.
    #[serde(default)]
    pub role_map: BTreeMap<String, Role>,
    pub grants: Option<String>,
}

impl Default for ClaimsConfig {
    fn default() -> Self {
        Self { principal: default_subject(), tenant: None, roles: None, role_map: BTreeMap::new(), grants: None }
    }
}

/// An algorithm that may sign tokens (RFC 7518); `none` is not among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum JwtAlgorithm {
    HS256,
    HS384,
    HS512,
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    ES256,
    ES384,
    EdDSA,
}

impl JwtAlgorithm {
    /// Whether whoever can verify can sign.
    pub fn is_shared(self) -> bool {
        matches!(self, Self::HS256 | Self::HS384 | Self::HS512)
    }
}

fn default_clock_skew() -> u64 {
    60
}

fn default_max_age() -> u64 {
    600
}

fn default_max_stale() -> u64 {
    86_400
}

fn default_cooldown() -> u64 {
    30
}

fn default_subject() -> String {
    "/sub".to_owned()
}

const MAX_ENTRIES: usize = 1_000;
const MIN_SHARED_KEY: usize = 32;
/// The longest time that keys may be used, or not asked for: a week.
const MAX_AGE_SECONDS: u64 = 604_800;
const MAX_CLOCK_SKEW_SECONDS: u64 = 600;

impl JwtIssuerConfig {
    pub fn clock_skew(&self) -> Duration {
        Duration::from_secs(self.clock_skew_seconds)
    }

    fn check(&self) -> Vec<(String, String)> {
        let mut faults = Vec::new();
        let mut expect = |fits: bool, field: &str, expected: &str| {
            if !fits {
                faults.push((field.to_owned(), format!("expected {expected}")));
            }
        };
        expect(is_valid_id(&self.name), "name", "1 to 64 letters, digits, '_', '-' and '.'");
        let is_text = |text: &str| (1..=2048).contains(&text.len()) && !text.contains(char::is_control);
        expect(is_text(&self.issuer), "issuer", "the issuer as its tokens name it in iss");
        expect(is_text(&self.audience), "audience", "what tokens for this service name in aud");
        let sources = [self.jwks_url.is_some(), self.jwks_file.is_some(), self.shared_key.is_some()];
        let one_source = sources.iter().filter(|given| **given).count() == 1;
        expect(one_source, "jwksUrl", "exactly one of jwksUrl, jwksFile and sharedKey");
        let url_fault = self.jwks_url.as_deref().and_then(|url| check_url(url, ""));
        expect(
            url_fault.is_none(),
            "jwksUrl",
            "an https URL without user, query and fragment (http on loopback alone)",
        );
        let key_fits = self.shared_key.as_ref().is_none_or(|key| key.expose().len() >= MIN_SHARED_KEY);
        expect(key_fits, "sharedKey", "32 characters or more");
        let shared = self.shared_key.is_some();
        let algorithms_fit = !self.algorithms.is_empty() && self.algorithms.iter().all(|one| one.is_shared() == shared);
        let expected = "HS algorithms with a sharedKey, and none of them with public keys";
        expect(algorithms_fit, "algorithms", expected);
        expect(self.clock_skew_seconds <= MAX_CLOCK_SKEW_SECONDS, "clockSkewSeconds", "0 to 600");
        let ages = [
            ("jwksMaxAgeSeconds", self.jwks_max_age_seconds),
            ("jwksMaxStaleSeconds", self.jwks_max_stale_seconds),
            ("jwksCooldownSeconds", self.jwks_cooldown_seconds),
        ];
        for (field, seconds) in ages {
            expect(seconds <= MAX_AGE_SECONDS, field, "0 to 604800");
        }
        let fits = self.jwks_max_stale_seconds >= self.jwks_max_age_seconds.max(1);
        expect(fits, "jwksMaxStaleSeconds", "no less than jwksMaxAgeSeconds");
        let claims = &self.claims;
        let pointers = [
            ("claims/principal", Some(&claims.principal)),
            ("claims/tenant", claims.tenant.as_ref()),
            ("claims/roles", claims.roles.as_ref()),
            ("claims/grants", claims.grants.as_ref()),
        ];
        for (field, pointer) in pointers {
            let fits = pointer.is_none_or(|pointer| pointer.starts_with('/') && pointer.len() <= 256);
            expect(fits, field, "a JSON Pointer into the token's claims: /sub");
        }
        let tenant_fits =
            self.default_tenant.as_deref().is_none_or(|text| text == "*" || TenantId::parse(text).is_ok());
        expect(tenant_fits, "defaultTenant", "a tenant's id, or * for all tenants");
        let names_tenant = claims.tenant.is_some() || self.default_tenant.is_some();
        expect(names_tenant, "defaultTenant", "a tenant in claims.tenant or here (* for all tenants)");
        let gives = claims.roles.is_some() || claims.grants.is_some() || !self.default_roles.is_empty();
        expect(gives, "defaultRoles", "roles or grants in claims.roles, claims.grants or here");
        faults
    }
}

impl ServiceConfig {
    fn check(&self) -> Vec<(String, String)> {
        let mut faults = Vec::new();
        let mut expect = |fits: bool, field: &str, expected: &str| {
            if !fits {
                faults.push((field.to_owned(), format!("expected {expected}")));
            }
        };
        let expected = "a name in its certificate: spiffe://… or another URI, or dns:NAME";
        expect(SubjectName::parse(&self.san).is_some(), "san", expected);
        expect(is_valid_id(&self.name), "name", "1 to 64 letters, digits, '_', '-' and '.'");
        faults
    }
}

impl AccessConfig {
    pub(super) fn check(&self, takes_client_certificates: bool) -> Vec<Problem> {
        let mut problems = Vec::new();
        let certificates_are_used = self.require_client_certificate == Some(true) || !self.services.is_empty();
        if certificates_are_used && !takes_client_certificates {
            let pointer =
                if self.services.is_empty() { "/access/requireClientCertificate" } else { "/access/services" };
            let expected = "callers show certificates only with server.tls.clientCertificates: optional or required";
            problems.push(Problem::new(pointer, expected));
        }
        let (mut names, mut sans) = (HashSet::new(), HashSet::new());
        for (index, service) in self.services.iter().enumerate().take(MAX_ENTRIES) {
            let mut faults = service.check();
            if !names.insert(&service.name) {
                faults.push(("name".to_owned(), "expected a name that no other service has".to_owned()));
            }
            if !sans.insert(&service.san) {
                faults.push(("san".to_owned(), "expected a san that no other service has".to_owned()));
            }
            problems.extend(placed(&format!("/access/services/{index}"), faults));
        }
        let (mut names, mut issuers) = (HashSet::new(), HashSet::new());
        for (index, issuer) in self.jwt.iter().enumerate().take(MAX_ENTRIES) {
            let mut faults = issuer.check();
            if !names.insert(&issuer.name) {
                faults.push(("name".to_owned(), "expected a name that no other issuer has".to_owned()));
            }
            if !issuers.insert(&issuer.issuer) {
                faults.push(("issuer".to_owned(), "expected an issuer that is not listed before".to_owned()));
            }
            problems.extend(placed(&format!("/access/jwt/{index}"), faults));
        }
        problems
    }
}

fn placed(prefix: &str, faults: Vec<(String, String)>) -> impl Iterator<Item = Problem> {
    faults.into_iter().map(move |(field, message)| Problem::new(format!("{prefix}/{field}"), message))
}

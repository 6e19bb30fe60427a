//! What a token says of its caller, checked and made a principal by the issuer's settings.
//! Must not know keys.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use integration_model::TenantId;
use integration_model::api_key::MAX_GRANTS;
use integration_model::principal::{Grant, Principal, Role, Roles};
use serde_json::Value;

use super::{Checked, Refusal};
use crate::config::JwtIssuerConfig;
use crate::tls::ClientCertificate;

/// The most characters of a subject.
const MAX_SUBJECT: usize = 200;
/// The most roles that a token may name.
const MAX_ROLES: usize = 1_000;
/// Every tenant, in the settings.
const ALL_TENANTS: &str = "*";

/// A token whose signature was verified.
#[derive(Debug)]
pub(super) struct Verified {
    pub(super) principal: Arc<Principal>,
    /// Seconds of the Unix epoch, the clocks' difference allowed for.
    not_before: i64,
    expires_at: i64,
    /// The certificate with which it may be used (RFC 8705), by its thumbprint.
    certificate: Option<[u8; 32]>,
}

impl Verified {
    pub(super) fn check_time(&self, now: i64) -> Checked<()> {
        if now >= self.expires_at {
            return Err(Refusal("expired"));
        }
        if now < self.not_before { Err(Refusal("not_yet_valid")) } else { Ok(()) }
    }

    pub(super) fn check(&self, now: i64, shown: Option<&ClientCertificate>) -> Checked<()> {
        self.check_time(now)?;
        match &self.certificate {
            Some(bound) if shown.is_none_or(|shown| shown.thumbprint() != bound) => Err(Refusal("certificate")),
            _ => Ok(()),
        }
    }
}

/// Reads the claims of one issuer's tokens.
pub(super) struct ClaimsReader {
    issuer_name: String,
    audience: String,
    clock_skew: i64,
    principal: String,
    tenant: Option<String>,
    roles: Option<String>,
    role_map: BTreeMap<String, Role>,
    grants: Option<String>,
    default_roles: Roles,
    default_tenant: Option<String>,
}

impl ClaimsReader {
    pub(super) fn new(config: &JwtIssuerConfig) -> Self {
        let claims = config.claims.clone();
        Self {
            issuer_name: config.name.clone(),
            audience: config.audience.clone(),
            clock_skew: config.clock_skew().as_secs().cast_signed(),
            principal: claims.principal,
            tenant: claims.tenant,
            roles: claims.roles,
            role_map: claims.role_map,
            grants: claims.grants,
            default_roles: config.default_roles.iter().copied().collect(),
            default_tenant: config.default_tenant.clone(),
        }
    }

    pub(super) fn read(&self, claims: &Value) -> Checked<Verified> {
        if !self.is_for_us(claims) {
            return Err(Refusal("audience"));
        }
        let time = |name: &str| match claims.get(name) {
            None => Ok(None),
            Some(value) => numeric_date(value).map(Some).ok_or(Refusal("malformed")),
        };
        let expires_at = time("exp")?.ok_or(Refusal("no_expiry"))?.saturating_add(self.clock_skew);
        let since = time("nbf")?.max(time("iat")?).unwrap_or(i64::MIN);
        let principal = Principal {
            name: self.name(claims)?.into(),
            tenant: self.tenant(claims)?,
            roles: self.roles(claims)?,
            grants: self.grants(claims)?,
        };
        Ok(Verified {
            principal: Arc::new(principal),
            not_before: since.saturating_sub(self.clock_skew),
            expires_at,
            certificate: confirmation(claims)?,
        })
    }

    fn is_for_us(&self, claims: &Value) -> bool {
        match claims.get("aud") {
            Some(Value::String(audience)) => *audience == self.audience,
            Some(Value::Array(audiences)) => audiences.iter().any(|one| one.as_str() == Some(&self.audience)),
            _ => false,
        }
    }

    fn name(&self, claims: &Value) -> Checked<String> {
        let subject = claims.pointer(&self.principal).and_then(Value::as_str).ok_or(Refusal("principal"))?;
        let fits = (1..=MAX_SUBJECT).contains(&subject.chars().count()) && !subject.contains(char::is_control);
        if fits { Ok(format!("jwt:{}:{subject}", self.issuer_name)) } else { Err(Refusal("principal")) }
    }

    /// What a token says of a tenant has to be one; only where it says nothing, the settings do.
    fn tenant(&self, claims: &Value) -> Checked<Option<TenantId>> {
        let said = self.tenant.as_deref().and_then(|pointer| claims.pointer(pointer));
        let named = match (said, self.default_tenant.as_deref()) {
            (Some(Value::String(text)), _) => text,
            (None, Some(ALL_TENANTS)) => return Ok(None),
            (None, Some(text)) => text,
            _ => return Err(Refusal("tenant")),
        };
        TenantId::parse(named).map(Some).map_err(|_| Refusal("tenant"))
    }

    /// Roles that nobody here knows give nothing.
    fn roles(&self, claims: &Value) -> Checked<Roles> {
        let malformed = Refusal("roles");
        let named: Vec<&str> = match self.roles.as_deref().and_then(|pointer| claims.pointer(pointer)) {
            None => return Ok(self.default_roles),
            // As `scope` has them (RFC 8693).
            Some(Value::String(text)) => text.split_whitespace().collect(),
            Some(Value::Array(items)) => items.iter().map(Value::as_str).collect::<Option<_>>().ok_or(malformed)?,
            Some(_) => return Err(malformed),
        };
        if named.len() > MAX_ROLES {
            return Err(malformed);
        }
        let ours = |name: &&str| match self.role_map.is_empty() {
            true => Role::parse(name),
            false => self.role_map.get(*name).copied(),
        };
        Ok(named.iter().filter_map(ours).chain(self.default_roles.iter()).collect())
    }

    fn grants(&self, claims: &Value) -> Checked<Arc<[Grant]>> {
        let Some(said) = self.grants.as_deref().and_then(|pointer| claims.pointer(pointer)) else {
            return Ok(Arc::new([]));
        };
        let grants: Vec<Grant> = serde_json::from_value(said.clone()).map_err(|_| Refusal("grants"))?;
        if grants.len() > MAX_GRANTS { Err(Refusal("grants")) } else { Ok(grants.into()) }
    }
}

/// A token that is bound to a key can be used by those alone who prove that they have it; of the
/// ways to prove it, only a certificate is known here.
fn confirmation(claims: &Value) -> Checked<Option<[u8; 32]>> {
    let Some(confirmation) = claims.get("cnf") else { return Ok(None) };
    let known = confirmation.as_object().filter(|members| members.len() == 1);
    let thumbprint = known.and_then(|members| members.get("x5t#S256")).and_then(Value::as_str);
    let bytes = thumbprint.and_then(|text| URL_SAFE_NO_PAD.decode(text).ok());
    bytes.and_then(|bytes| bytes.try_into().ok()).map(Some).ok_or(Refusal("confirmation"))
}

/// Seconds of the Unix epoch, perhaps with a fraction.
fn numeric_date(value: &Value) -> Option<i64> {
    /// The year 9999.
    const LATEST: f64 = 253_402_300_799.0;
    let seconds = value.as_f64().filter(|seconds| (0.0..=LATEST).contains(seconds))?;
    Some(seconds as i64)
}

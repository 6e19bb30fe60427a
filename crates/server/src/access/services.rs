//! Services known by their certificates: who comes with one, and which tokens are good with
//! it. Must not know how a certificate was verified.

use std::collections::HashMap;
use std::sync::Arc;

use integration_model::TenantId;
use integration_model::principal::Principal;

use crate::config::{AccessConfig, ServiceConfig};
use crate::tls::{ClientCertificate, SubjectName};

/// The services of the configuration.
#[derive(Debug, Default)]
pub struct Services {
    by_name: HashMap<SubjectName, Service>,
    /// Of principals whose tokens are good with certain certificates alone: the services' names.
    bound: HashMap<String, Vec<String>>,
    /// Whether a token needs a certificate beside it.
    required: bool,
}

#[derive(Debug)]
struct Service {
    name: String,
    tenant: Option<TenantId>,
    /// Who comes without a token.
    alone: Option<Arc<Principal>>,
}

/// What came with a request's connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shown<'a> {
    pub(super) certificate: Option<&'a ClientCertificate>,
    service: Option<&'a Service>,
}

impl Services {
    /// Those of the configuration, whose TLS asks callers for certificates or not.
    pub fn new(config: &AccessConfig, takes_client_certificates: bool) -> Self {
        let mut services = Self {
            required: config.require_client_certificate.unwrap_or(takes_client_certificates),
            ..Self::default()
        };
        for service in &config.services {
            for principal in &service.principals {
                services.bound.entry(principal.clone()).or_default().push(service.name.clone());
            }
            if let Some(name) = SubjectName::parse(&service.san) {
                services.by_name.insert(name, Service::new(service));
            }
        }
        services
    }

    /// What a certificate says at this moment; one that has expired meanwhile says nothing.
    pub(super) fn shown<'a>(&'a self, certificate: Option<&'a ClientCertificate>, now: i64) -> Shown<'a> {
        let certificate = certificate.filter(|certificate| certificate.is_good_at(now));
        let mut found =
            certificate.into_iter().flat_map(ClientCertificate::names).filter_map(|name| self.by_name.get(name));
        // One that names two services is neither's.
        let service = found.next().filter(|first| found.all(|other| other.name == first.name));
        Shown { certificate, service }
    }

    /// Who comes with a certificate and no token.
    pub(super) fn alone(shown: Shown<'_>) -> Option<Arc<Principal>> {
        shown.service?.alone.clone()
    }

    /// The principal of a token, where the token is good with what was shown. Browsers open
    /// some things with a password; `exempt` says that this is one.
    pub(super) fn confirm(
        &self,
        principal: Arc<Principal>,
        shown: Shown<'_>,
        exempt: bool,
    ) -> Result<Arc<Principal>, &'static str> {
        if let Some(services) = self.bound.get(&*principal.name)
            && !shown.service.is_some_and(|service| services.contains(&service.name))
        {
            return Err("the key is not valid without the certificate of its service");
        }
        let is_enough = if self.by_name.is_empty() { shown.certificate.is_some() } else { shown.service.is_some() };
        if self.required && !exempt && !is_enough {
            return Err("show the certificate of a known service, too");
        }
        match (shown.service.and_then(|service| service.tenant.as_ref()), &principal.tenant) {
            (Some(of_service), Some(of_token)) if of_service != of_token => {
                Err("the key is not valid for this service")
            }
            (Some(of_service), None) => {
                Ok(Arc::new(Principal { tenant: Some(of_service.clone()), ..Principal::clone(&principal) }))
            }
            _ => Ok(principal),
        }
    }
}

impl Service {
    fn new(config: &ServiceConfig) -> Self {
        let alone = !(config.roles.is_empty() && config.grants.is_empty());
        let principal = || Principal {
            name: format!("service:{}", config.name).into(),
            tenant: config.tenant.clone(),
            roles: config.roles.iter().copied().collect(),
            grants: config.grants.iter().cloned().collect(),
        };
        Self { name: config.name.clone(), tenant: config.tenant.clone(), alone: alone.then(|| Arc::new(principal())) }
    }
}

//! The connection test of systems over HTTP: a GET that changes nothing.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::{Method as Verb, StatusCode};
use integration_model::ErrorCode;

use super::connection::{TlsProfiles, base_url, deadline};
use super::endpoint::{self, Proof};
use super::errors::{Refusal, from_http_error};
use super::headers::{HeaderSpec, RequestHeaders};
use crate::adapter::{CallError, Connection};
use crate::http_client::{OutboundRequest, RedirectPolicy};

/// How much of the answer to a connection test is read.
const MAX_TEST_ANSWER: usize = 1024 * 1024;

/// How a system is asked.
pub(in crate::adapter) struct Probe {
    /// What is added to the query of the base URL.
    pub(in crate::adapter) query: Option<(&'static str, &'static str)>,
    /// Whether the credential goes along: one that belongs into a body does not.
    pub(in crate::adapter) proof: Proof,
}

/// Asks for the base URL: anything but a refusal of the credential or a fault of the server
/// shows that the system is there.
pub(in crate::adapter) async fn probe(
    profiles: &TlsProfiles,
    connection: Connection<'_>,
    how: Probe,
) -> Result<String, CallError> {
    let base = base_url(&connection)?;
    let none = BTreeMap::new();
    let spec = HeaderSpec { accept: None, usual_accept: "*/*", params: &none, constants: &none, idempotency_key: None };
    let mut headers = RequestHeaders::new(spec).of_instance(connection.config.http());
    let mut pairs: Vec<_> = how.query.into_iter().collect();
    if how.proof == Proof::Head {
        connection.credential.apply(connection.custom_auth, &mut headers, &mut pairs)?;
    }
    // What is asked with a query of its own is the URL itself.
    let path = if how.query.is_some() { base.path.as_str() } else { base.prefix() };
    let request = OutboundRequest {
        method: Verb::GET,
        url: endpoint::url(base, path, &pairs)?,
        headers,
        body: Bytes::new(),
        profile: profiles.of(&connection)?,
        redirects: RedirectPolicy::default(),
        max_response_bytes: MAX_TEST_ANSWER,
        repeatable: true,
        fresh_connection: false,
    };
    let response =
        connection.http.send(request, deadline(&connection)).await.map_err(|error| from_http_error(&error))?;
    let status = response.status;
    let refusal =
        Refusal { status, headers: &response.headers, body: &response.body, credential: connection.credential };
    match status {
        StatusCode::UNAUTHORIZED => Err(refusal.into_error(None)),
        StatusCode::FORBIDDEN => {
            let error = refusal.into_error(None);
            Err(CallError { code: ErrorCode::Auth, credential_refused: true, ..error })
        }
        status if status.is_server_error() => Err(refusal.into_error(None)),
        status => Ok(format!("{} answered {}", base.authority, status.as_u16())),
    }
}

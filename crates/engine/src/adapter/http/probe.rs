//! The connection test of systems over HTTP: a GET that changes nothing.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method as Verb, StatusCode, header};
use integration_model::ErrorCode;

use super::connection::{Connections, add_constant_headers, deadline};
use super::errors::{Refusal, from_http_error};
use super::operation::{ACCEPT_ENCODING, USER_AGENT};
use crate::adapter::{CallError, Connection};
use crate::http_client::{OutboundRequest, RedirectPolicy};

/// How much of the answer to a connection test is read.
const MAX_TEST_ANSWER: usize = 1024 * 1024;

/// How a system is asked.
pub(in crate::adapter) struct Probe {
    /// What is added to the query of the base URL.
    pub(in crate::adapter) query: Option<(&'static str, &'static str)>,
    /// Whether the credential goes along.
    pub(in crate::adapter) with_credential: bool,
}

/// Asks for the base URL: anything but a refusal of the credential or a fault of the server
/// shows that the system is there.
pub(in crate::adapter) async fn probe(
    connections: &Connections,
    connection: Connection<'_>,
    how: Probe,
) -> Result<String, CallError> {
    let base = connections.base_url(&connection)?;
    let mut headers = HeaderMap::with_capacity(8);
    headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(ACCEPT_ENCODING));
    headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
    add_constant_headers(connection.config, &mut headers);
    let mut pairs: Vec<_> = how.query.into_iter().collect();
    if how.with_credential {
        connection.credential.apply(connection.custom_auth, &mut headers, &mut pairs)?;
    }
    let request = OutboundRequest {
        method: Verb::GET,
        url: base.url(&pairs)?,
        headers,
        body: Bytes::new(),
        profile: connections.profile(&connection)?,
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

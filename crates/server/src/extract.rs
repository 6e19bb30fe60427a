//! Extractors whose refusals are [`ApiError`]s with the place of each fault. Owns the
//! bounds on what a request's body may cost. Must not know any endpoint.

use std::time::Duration;

use axum::body::Body;
use axum::extract::path::ErrorKind;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{HeaderMap, Uri};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use integration_model::problem::{pointer_from_path, push_pointer};
use integration_model::typed::Typed;
use integration_model::{ErrorCode, Problem};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::ApiError;
use crate::wording::{explain, in_words};

/// How long a refused body is read for.
pub(crate) const DISCARD_TIMEOUT: Duration = Duration::from_secs(2);

/// What a request's body may cost.
#[derive(Debug, Clone, Copy)]
pub struct BodyLimits {
    pub max_bytes: usize,
    /// The largest content that passes through.
    pub max_stream_bytes: u64,
    /// How long the whole body may take to arrive; of content that passes through, each piece.
    pub timeout: Duration,
}

impl BodyLimits {
    /// Reads a whole body within the limits. One that says it is larger is dropped as it comes.
    pub async fn read<B>(self, body: B) -> Result<Bytes, ApiError>
    where
        B: http_body::Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        if body.size_hint().lower() > self.max_bytes as u64 {
            self.discard(body).await;
            return Err(self.too_large());
        }
        match tokio::time::timeout(self.timeout, Limited::new(body, self.max_bytes).collect()).await {
            Ok(Ok(collected)) => Ok(collected.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(self.too_large()),
            Ok(Err(_)) => Err(ApiError::new(ErrorCode::MalformedBody, "the body ended before it was complete")),
            Err(_) => Err(ApiError::new(
                ErrorCode::MalformedBody,
                format!("the body did not arrive within {} ms", self.timeout.as_millis()),
            )),
        }
    }

    /// Reads and drops a refused body, up to twice the limit: a caller that is still sending
    /// when the connection closes may never see the answer.
    async fn discard<B>(self, body: B)
    where
        B: http_body::Body<Data = Bytes>,
    {
        let mut body = std::pin::pin!(body);
        let mut left = self.max_bytes.saturating_mul(2);
        let reading = async {
            while let Some(Ok(frame)) = body.frame().await {
                left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
                if left == 0 {
                    return;
                }
            }
        };
        // Whoever sends slower than this does not wait for the answer either.
        let _ = tokio::time::timeout(DISCARD_TIMEOUT, reading).await;
    }

    fn too_large(self) -> ApiError {
        let detail = format!("the body is larger than {} bytes, the limit of this service", self.max_bytes);
        ApiError::new(ErrorCode::PayloadTooLarge, detail)
    }
}

/// A JSON body; also a JSON answer.
#[derive(Debug, Clone, Copy)]
pub struct Json<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        if !is_json(request.headers()) {
            return Err(ApiError::new(ErrorCode::UnsupportedMediaType, "expected Content-Type: application/json"));
        }
        let RawBody(bytes) = RawBody::from_request(request, state).await?;
        parse_json(&bytes).map(Self)
    }
}

/// A JSON body that may be absent, or null; then it is what it is by default.
#[derive(Debug, Clone, Copy)]
pub struct OptionalJson<T>(pub T);

impl<T: DeserializeOwned + Default, S: Send + Sync> FromRequest<S> for OptionalJson<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let is_json = is_json(request.headers());
        let RawBody(bytes) = RawBody::from_request(request, state).await?;
        if bytes.is_empty() {
            return Ok(Self(T::default()));
        }
        if !is_json {
            return Err(ApiError::new(ErrorCode::UnsupportedMediaType, "expected Content-Type: application/json"));
        }
        if bytes.trim_ascii() == b"null" {
            return Ok(Self(T::default()));
        }
        parse_json(&bytes).map(Self)
    }
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(body) => ([(CONTENT_TYPE, "application/json")], body).into_response(),
            Err(error) => {
                tracing::error!(error = %error, "an answer could not be written as JSON");
                ApiError::internal().into_response()
            }
        }
    }
}

/// The bytes of a body, within the limits of the service.
#[derive(Debug, Clone)]
pub struct RawBody(pub Bytes);

impl<S: Send + Sync> FromRequest<S> for RawBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, _state: &S) -> Result<Self, ApiError> {
        let Some(limits) = request.extensions().get::<BodyLimits>().copied() else {
            tracing::error!("a body was asked for on a path without limits");
            return Err(ApiError::internal());
        };
        limits.read::<Body>(request.into_body()).await.map(Self)
    }
}

/// Whether the body says that it is JSON.
pub(crate) fn is_json(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}

/// Reads JSON text as a `T`; the error says where it does not fit.
pub fn parse_json<T: DeserializeOwned>(text: &[u8]) -> Result<T, ApiError> {
    let value = integration_model::json::from_slice(text)
        .map_err(|error| ApiError::new(ErrorCode::MalformedBody, format!("expected JSON: {error}")))?;
    serde_path_to_error::deserialize(Typed(value)).map_err(|error| {
        let pointer = pointer_from_path(error.path());
        ApiError::invalid(vec![Problem::new(pointer, explain(&error.into_inner().to_string()))])
    })
}

/// Parameters of the path.
#[derive(Debug, Clone, Copy)]
pub struct Path<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match axum::extract::Path::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(value)) => Ok(Self(value)),
            Err(PathRejection::FailedToDeserializePathParams(failure)) => Err(path_fault(failure.into_kind())),
            Err(_) => {
                tracing::error!("a handler reads path parameters that its route does not have");
                Err(ApiError::internal())
            }
        }
    }
}

fn path_fault(kind: ErrorKind) -> ApiError {
    let (key, message) = match kind {
        ErrorKind::ParseErrorAtKey { key, expected_type, .. } => (key, format!("expected {}", in_words(expected_type))),
        ErrorKind::DeserializeError { key, message, .. } => (key, explain(&message)),
        ErrorKind::InvalidUtf8InPathParam { key } => (key, "expected UTF-8".to_owned()),
        ErrorKind::ParseErrorAtIndex { index, expected_type, .. } => {
            (index.to_string(), format!("expected {}", in_words(expected_type)))
        }
        ErrorKind::ParseError { expected_type, .. } => (String::new(), format!("expected {}", in_words(expected_type))),
        ErrorKind::Message(message) => (String::new(), explain(&message)),
        other => {
            tracing::error!(error = %other, "path parameters cannot be read");
            return ApiError::internal();
        }
    };
    let pointer = if key.is_empty() { "/path".to_owned() } else { push_pointer("/path", &key) };
    ApiError::invalid(vec![Problem::new(pointer, message)])
}

/// Parameters of the query.
#[derive(Debug, Clone, Copy)]
pub struct Query<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        read_query(&parts.uri).map(Self)
    }
}

/// Reads the parameters of a query.
pub(crate) fn read_query<T: DeserializeOwned>(uri: &Uri) -> Result<T, ApiError> {
    axum::extract::Query::try_from_uri(uri)
        .map(|axum::extract::Query(value)| value)
        .map_err(|rejection| query_fault(&rejection))
}

/// The rejection's text is `PREFIX: PARAMETER: MESSAGE`, the parameter absent where the
/// fault lies in no single one.
fn query_fault(rejection: &QueryRejection) -> ApiError {
    let text = rejection.body_text();
    let message = text.strip_prefix("Failed to deserialize query string: ").unwrap_or(&text);
    let is_name = |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    match message.split_once(": ") {
        Some((name, message)) if is_name(name) => {
            ApiError::invalid(vec![Problem::new(push_pointer("/query", name), explain(message))])
        }
        _ => ApiError::invalid(vec![Problem::new("/query", explain(message))]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    struct Named {
        #[expect(dead_code, reason = "only its type matters")]
        names: Vec<String>,
    }

    #[test]
    fn json_faults_say_where() {
        let error = parse_json::<Named>(br#"{"names":["a",5]}"#).expect_err("a number among names");
        assert_eq!((error.code, error.errors[0].pointer.as_str()), (ErrorCode::Validation, "/names/1"));
        for broken in [&b"{"[..], b"", b"{} x", b"\xff", "[".repeat(100_000).as_bytes()] {
            let error = parse_json::<serde_json::Value>(broken).expect_err("no JSON");
            assert_eq!(error.code, ErrorCode::MalformedBody);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_is_bounded_in_size_and_time() {
        let limits = BodyLimits { max_bytes: 4, max_stream_bytes: 4, timeout: Duration::from_secs(1) };
        assert_eq!(limits.read(Body::from("1234")).await.expect("fits"), "1234");
        let error = limits.read(Body::from("12345")).await.expect_err("too large");
        assert_eq!(error.code, ErrorCode::PayloadTooLarge);
        let never = Body::from_stream(futures_util::stream::pending::<Result<Bytes, std::io::Error>>());
        assert_eq!(limits.read(never).await.expect_err("too slow").code, ErrorCode::MalformedBody);
    }
}

//! The one outbound HTTP client.
/// Sends HTTP requests.
pub struct HttpClient {}

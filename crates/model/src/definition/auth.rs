//! How an external system wants its callers to prove who they are.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::oauth::TokenResponsePaths;
use crate::Problem;
use crate::problem::push_pointer;

/// The kind of credential that an instance of a definition needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AuthType {
    None,
    Basic,
    ApiKey,
    #[serde(rename = "oauth2")]
    OAuth2,
    Jwt,
    Custom,
}

impl AuthType {
    pub const ALL: &'static [Self] = &[Self::None, Self::Basic, Self::ApiKey, Self::OAuth2, Self::Jwt, Self::Custom];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Basic => "basic",
            Self::ApiKey => "api_key",
            Self::OAuth2 => "oauth2",
            Self::Jwt => "jwt",
            Self::Custom => "custom",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.as_str() == text)
    }
}

/// What carries the key of an `api_key` credential that does not say so itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ApiKeyAuth {
    /// The header that carries the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// The query parameter that carries it, in place of a header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    /// What stands before the key in a header, such as `Bearer `.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schema(required = false)]
    pub prefix: String,
}

impl ApiKeyAuth {
    pub(super) fn check(&self, pointer: &str) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut expect = |fits: bool, field: &str, message: &str| {
            if !fits {
                problems.push(Problem::new(format!("{pointer}{field}"), message));
            }
        };
        expect(
            self.header.is_some() != self.query.is_some(),
            "",
            "expected either the header or the query parameter that carries the key",
        );
        expect(self.header.as_deref().is_none_or(is_header_name), "/header", "expected a header name (RFC 9110 token)");
        expect(self.query.as_deref() != Some(""), "/query", "expected the name of a query parameter");
        expect(self.query.is_none() || self.prefix.is_empty(), "/prefix", "expected none with a query parameter");
        expect(is_key_prefix(&self.prefix), "/prefix", KEY_PREFIX);
        problems
    }
}

/// What [`is_key_prefix`] wants.
pub const KEY_PREFIX: &str = "expected at most 100 printable ASCII characters";

/// Whether `text` may stand before a key in a header.
pub fn is_key_prefix(text: &str) -> bool {
    text.len() <= 100 && text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic())
}

/// Which fields of a custom credential go where in a request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CustomAuth {
    /// Header name → field of the credential.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// Query parameter → field of the credential.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub query: BTreeMap<String, String>,
    /// A call that gives a token for the credential; the token goes with the requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Box<TokenCall>>,
}

/// A call that logs in: it sends fields of a credential and gives a token, which is kept in
/// memory until it expires or is refused.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TokenCall {
    /// Where to log in; may hold `{config.field}`.
    pub url: String,
    #[serde(default)]
    pub verb: TokenCallVerb,
    /// Header name → field of the credential.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// Name in the body → field of the credential.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub body: BTreeMap<String, String>,
    /// What else the call says.
    #[serde(default)]
    pub constants: TokenCallConstants,
    /// How the body is written; `json` unless given.
    #[serde(default)]
    pub encoding: TokenCallEncoding,
    /// Where the token and its expiry are in the answer: `/token` and `/expires_in` unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response: Option<TokenResponsePaths>,
    /// How long a token lasts whose answer does not say so; until it is refused unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in_default_ms: Option<u64>,
    /// The header that carries the token; `Authorization` unless a query parameter does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// The query parameter that carries the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    /// What stands before the token; `Bearer ` in `Authorization` unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
}

/// Fixed parts of a login call.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TokenCallConstants {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub body: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub enum TokenCallVerb {
    #[serde(rename = "GET")]
    Get,
    #[default]
    #[serde(rename = "POST")]
    Post,
    #[serde(rename = "PUT")]
    Put,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TokenCallEncoding {
    #[default]
    Json,
    Form,
}

impl CustomAuth {
    /// The fields that a credential has to have, each with the name that it goes by.
    pub fn bound_fields(&self) -> impl Iterator<Item = (&String, &String)> {
        let of_call = self.token.iter().flat_map(|call| call.headers.iter().chain(&call.body));
        self.headers.iter().chain(&self.query).chain(of_call)
    }

    pub(super) fn check(&self, pointer: &str) -> Vec<Problem> {
        let mut problems = Vec::new();
        if self.headers.is_empty() && self.query.is_empty() && self.token.is_none() {
            problems.push(Problem::new(
                pointer,
                "expected headers, query or token: without one the credential goes nowhere",
            ));
        }
        problems.extend(check_header_names(&push_pointer(pointer, "headers"), self.headers.keys()));
        problems.extend(self.token.iter().flat_map(|call| call.check(&push_pointer(pointer, "token"))));
        problems
    }
}

impl TokenCall {
    fn check(&self, pointer: &str) -> Vec<Problem> {
        let mut problems: Vec<Problem> = check_header_names(&format!("{pointer}/headers"), self.headers.keys())
            .chain(check_header_names(&format!("{pointer}/constants/headers"), self.constants.headers.keys()))
            .collect();
        let mut problem =
            |field: &str, message: &str| problems.push(Problem::new(format!("{pointer}/{field}"), message));
        if self.verb == TokenCallVerb::Get && !(self.body.is_empty() && self.constants.body.is_empty()) {
            problem("body", "expected no body with verb GET");
        }
        if self.header.is_some() && self.query.is_some() {
            problem("query", "expected either a header or a query parameter to carry the token");
        }
        if self.header.as_deref().is_some_and(|name| !is_header_name(name)) {
            problem("header", "expected a header name (RFC 9110 token)");
        }
        if self.query.as_deref() == Some("") {
            problem("query", "expected the name of a query parameter");
        }
        if self.prefix.as_deref().is_some_and(|prefix| prefix.len() > 100 || prefix.chars().any(char::is_control)) {
            problem("prefix", "expected at most 100 characters on one line");
        }
        problems.extend(self.response.iter().flat_map(|paths| paths.check(&format!("{pointer}/response"))));
        problems
    }
}

fn check_header_names<'a>(pointer: &str, names: impl Iterator<Item = &'a String>) -> impl Iterator<Item = Problem> {
    names
        .filter(|name| !is_header_name(name))
        .map(move |name| Problem::new(push_pointer(pointer, name), "expected a header name (RFC 9110 token)"))
}

/// Whether `name` is a token as RFC 9110 wants of header names.
pub(super) fn is_header_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

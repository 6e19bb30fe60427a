//! Security schemes as the auth type of the definition: of several, the one that lets callers
//! use most operations.

use std::collections::{BTreeSet, HashMap};

use integration_model::definition::{AuthType, CustomAuth, GrantType, OAuth2Config};
use serde_json::{Value, json};
use url::Url;

use super::Source;
use super::documents::Node;
use super::operation::OperationNode;
use crate::config_fields::check_endpoint;
use crate::import::FindingKind::{self, Note, Simplified};

const MAX_SCOPE: usize = 1_500;
const MAX_TOLD: usize = 20;
/// The most combinations of schemes that are counted.
const MAX_USES: usize = 100;

/// How callers of the system prove who they are.
#[derive(Default)]
pub(super) struct Access {
    pub(super) auth_type: Option<AuthType>,
    pub(super) oauth2: Option<Box<OAuth2Config>>,
    pub(super) custom: Option<CustomAuth>,
    pub(super) findings: Vec<(FindingKind, String)>,
}

/// A scheme that the service can use.
#[derive(Clone)]
enum Scheme<'a> {
    Basic,
    Bearer,
    /// The access token of a flow that the service cannot go through by itself.
    AccessToken,
    ApiKey {
        name: &'a str,
        in_header: bool,
    },
    OAuth2(Box<OAuth2Config>),
}

/// Schemes that go together, by their names.
type Together<'a> = BTreeSet<&'a str>;

struct Survey<'a> {
    schemes: HashMap<&'a str, Result<Scheme<'a>, String>>,
    /// In how many operations these suffice.
    uses: Vec<(Together<'a>, usize)>,
    scopes: HashMap<&'a str, BTreeSet<&'a str>>,
    operations: usize,
}

impl Access {
    pub(super) fn of<'a>(
        source: &Source<'a>,
        operations: &[OperationNode<'a>],
        base: Option<&Url>,
        client_id: Option<&str>,
    ) -> Self {
        let survey = Survey::of(source, operations, base);
        let mut access = Self::default();
        if survey.schemes.is_empty() {
            access.find(
                Note,
                "no security scheme is described: authType is none; change it where calls need a credential",
            );
            return access;
        }
        let best = survey
            .uses
            .iter()
            .filter_map(|(together, count)| Some((survey.usable(together)?, together, *count)))
            .max_by_key(|(scheme, together, count)| {
                (*count, scheme.preference(client_id.is_some()), std::cmp::Reverse(*together))
            });
        let chosen = best.map(|(scheme, together, count)| {
            access.take(scheme, client_id, &survey, together);
            if count < survey.operations {
                let without = survey.operations - count;
                access.find(Note, format!("{without} operations do not ask for {}", in_words(together)));
            }
            together.clone()
        });
        if chosen.is_none() {
            access.find(Simplified, "no security scheme can be used: authType is none");
        }
        for (name, scheme) in survey.by_name() {
            if !chosen.as_ref().is_some_and(|chosen| chosen.contains(name)) {
                let why = scheme.as_ref().err().map_or("another one is used", String::as_str);
                access.find(Note, format!("the security scheme {name:?} is left out: {why}"));
            }
        }
        access.findings.truncate(MAX_TOLD);
        access
    }

    fn find(&mut self, kind: FindingKind, message: impl Into<String>) {
        self.findings.push((kind, message.into()));
    }

    fn take(&mut self, scheme: Usable<'_>, client_id: Option<&str>, survey: &Survey<'_>, together: &Together<'_>) {
        match scheme {
            Usable::One(Scheme::Basic) => {
                self.auth_type = Some(AuthType::Basic);
                self.credential(&json!({"type": "basic", "data": {"username": "…", "password": "…"}}));
            }
            Usable::One(token @ (Scheme::Bearer | Scheme::AccessToken)) => {
                self.auth_type = Some(AuthType::Jwt);
                if matches!(token, Scheme::AccessToken) {
                    let names = in_words(together);
                    self.find(Note, format!("{names} has no OAuth 2 flow that the service can go through: credentials are access tokens, which it does not renew"));
                }
                self.credential(&json!({"type": "jwt", "data": {"token": "…"}}));
            }
            Usable::One(Scheme::ApiKey { name, in_header }) => {
                self.auth_type = Some(AuthType::ApiKey);
                let data = json!({"key": "…", "headerOrParam": name, "inHeader": in_header});
                self.credential(&json!({"type": "api_key", "data": data}));
            }
            Usable::One(Scheme::OAuth2(mut config)) => {
                self.auth_type = Some(AuthType::OAuth2);
                let scopes: BTreeSet<&str> =
                    together.iter().filter_map(|name| survey.scopes.get(name)).flatten().copied().collect();
                let scope = scopes.into_iter().collect::<Vec<_>>().join(" ");
                if scope.len() > MAX_SCOPE {
                    self.find(Note, "oauth2Config.scope is not set: all scopes together are too many");
                } else if !scope.is_empty() {
                    config.scope = Some(scope);
                }
                match client_id {
                    Some(client_id) => config.client_id = client_id.to_owned(),
                    None => self.find(Note, "before publishing: set oauth2Config.clientId (and clientSecret) to the client that you registered"),
                }
                self.oauth2 = Some(config);
            }
            Usable::Keys(keys) => {
                let mut custom = CustomAuth::default();
                let mut fields = serde_json::Map::new();
                for (scheme, name, in_header) in keys {
                    let map = if in_header { &mut custom.headers } else { &mut custom.query };
                    map.insert(name.to_owned(), scheme.to_owned());
                    fields.insert(scheme.to_owned(), "…".into());
                }
                self.auth_type = Some(AuthType::Custom);
                self.custom = Some(custom);
                self.credential(&json!({"type": "custom", "data": fields}));
            }
        }
    }

    fn credential(&mut self, example: &Value) {
        self.find(Note, format!("credentials of instances are stored as {example}"));
    }
}

fn in_words(together: &Together<'_>) -> String {
    together.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(" and ")
}

/// What a definition can ask for.
enum Usable<'a> {
    One(Scheme<'a>),
    /// Several keys: scheme, name on the wire, and whether that is a header.
    Keys(Vec<(&'a str, &'a str, bool)>),
}

impl Usable<'_> {
    /// Of two that suffice alike, what needs less to be set up goes first.
    const fn preference(&self, has_client: bool) -> u8 {
        match self {
            Self::One(Scheme::OAuth2(_)) if has_client => 5,
            Self::One(Scheme::Bearer) => 4,
            Self::One(Scheme::AccessToken) => 1,
            Self::One(Scheme::ApiKey { .. }) => 3,
            Self::One(Scheme::Basic) => 2,
            Self::Keys(_) => 1,
            Self::One(Scheme::OAuth2(_)) => 0,
        }
    }
}

impl<'a> Survey<'a> {
    fn of(source: &Source<'a>, operations: &[OperationNode<'a>], base: Option<&Url>) -> Self {
        let root = source.documents.root();
        let described = root.get("components").and_then(|components| components.get("securitySchemes"));
        let described = described.or_else(|| root.get("securityDefinitions"));
        let schemes = described.into_iter().flat_map(Node::members).map(|(name, node)| {
            let scheme = source.documents.follow(node).and_then(|node| Scheme::read(node, base));
            (name, scheme)
        });
        let mut survey =
            Self { schemes: schemes.collect(), uses: Vec::new(), scopes: HashMap::new(), operations: operations.len() };
        for operation in operations {
            let security = operation.node.get("security").map_or(root, |_| operation.node);
            for alternative in security.items_of("security") {
                let together: Together<'a> = alternative.members().map(|(name, _)| name).collect();
                for (name, scopes) in alternative.members() {
                    let scopes = scopes.value.as_array().into_iter().flatten().filter_map(Value::as_str);
                    survey.scopes.entry(name).or_default().extend(scopes.filter(|scope| !scope.contains(' ')));
                }
                survey.count(together, 1);
            }
        }
        if survey.uses.is_empty() {
            let names: Vec<&str> = survey.by_name().map(|(name, _)| name).collect();
            names.into_iter().for_each(|name| survey.count(Together::from([name]), 0));
        }
        survey
    }

    fn count(&mut self, together: Together<'a>, by: usize) {
        match self.uses.iter().position(|(known, _)| *known == together) {
            Some(index) => self.uses[index].1 += by,
            None if together.is_empty() || self.uses.len() >= MAX_USES => {}
            None => self.uses.push((together, by)),
        }
    }

    fn by_name(&self) -> impl Iterator<Item = (&'a str, &Result<Scheme<'a>, String>)> {
        let mut names: Vec<&'a str> = self.schemes.keys().copied().collect();
        names.sort_unstable();
        names.into_iter().filter_map(|name| Some((name, self.schemes.get(name)?)))
    }

    fn usable(&self, together: &Together<'a>) -> Option<Usable<'a>> {
        let mut found = Vec::new();
        for name in together {
            found.push((*name, self.schemes.get(name)?.as_ref().ok()?));
        }
        if let [(_, one)] = found.as_slice() {
            return Some(Usable::One((*one).clone()));
        }
        let keys = found.into_iter().map(|(scheme, found)| match found {
            Scheme::ApiKey { name, in_header } => Some((scheme, *name, *in_header)),
            _ => None,
        });
        keys.collect::<Option<Vec<_>>>().map(Usable::Keys)
    }
}

impl<'a> Scheme<'a> {
    /// Reads a scheme; the message says why it cannot be used.
    fn read(node: Node<'a>, base: Option<&Url>) -> Result<Self, String> {
        match node.text("type") {
            Some("basic") => Ok(Self::Basic),
            Some("http") => match node.text("scheme").map(str::to_ascii_lowercase).as_deref() {
                Some("basic") => Ok(Self::Basic),
                Some("bearer") => Ok(Self::Bearer),
                other => Err(format!("the service does not speak the scheme {:?}", other.unwrap_or_default())),
            },
            Some("apiKey") => match (node.text("name"), node.text("in")) {
                // Some describe a bearer token as a key.
                (Some(name), Some("header")) if http::HeaderName::from_bytes(name.as_bytes()).is_ok() => {
                    Ok(Self::ApiKey { name, in_header: true })
                }
                (Some(name), Some("query")) if !name.is_empty() => Ok(Self::ApiKey { name, in_header: false }),
                (_, place) => Err(format!("a key in {:?} cannot be sent", place.unwrap_or_default())),
            },
            Some("openIdConnect") => {
                let url = node.text("openIdConnectUrl").and_then(|url| endpoint(url, base));
                let discovery_url = url.ok_or("its openIdConnectUrl is no URL")?;
                Ok(Self::OAuth2(Box::new(OAuth2Config {
                    discovery_url: Some(discovery_url),
                    ..OAuth2Config::default()
                })))
            }
            Some("oauth2") => Ok(oauth2(node, base).map_or(Self::AccessToken, |config| Self::OAuth2(Box::new(config)))),
            Some("mutualTLS") => Err("give the credential a clientCertificate".to_owned()),
            other => Err(format!("its type {:?} is not known", other.unwrap_or_default())),
        }
    }
}

/// The flow to go through: authorization code before client credentials. None of others, or
/// where a URL is missing.
fn oauth2(node: Node<'_>, base: Option<&Url>) -> Option<OAuth2Config> {
    let flows = node.get("flows");
    let flow = |name: &str, old_name: &str| match flows {
        Some(flows) => flows.get(name),
        None => (node.text("flow") == Some(old_name)).then_some(node),
    };
    let url = |flow: Node<'_>, name: &str| flow.text(name).and_then(|url| endpoint(url, base));
    let config = |flow: Node<'_>, grant_type| OAuth2Config {
        grant_type,
        authorization_url: (grant_type == GrantType::AuthorizationCode)
            .then(|| url(flow, "authorizationUrl"))
            .flatten(),
        token_url: url(flow, "tokenUrl"),
        refresh_url: url(flow, "refreshUrl"),
        ..OAuth2Config::default()
    };
    if let Some(flow) = flow("authorizationCode", "accessCode") {
        let config = config(flow, GrantType::AuthorizationCode);
        if config.authorization_url.is_some() && config.token_url.is_some() {
            return Some(config);
        }
    }
    if let Some(flow) = flow("clientCredentials", "application") {
        let config = config(flow, GrantType::ClientCredentials);
        if config.token_url.is_some() {
            return Some(config);
        }
    }
    None
}

/// The URL of an endpoint; relative ones start from the server.
fn endpoint(text: &str, base: Option<&Url>) -> Option<String> {
    let text = text.trim();
    if check_endpoint(text).is_ok() {
        return Some(text.to_owned());
    }
    let joined = base?.join(text).ok()?.to_string();
    check_endpoint(&joined).is_ok().then_some(joined)
}

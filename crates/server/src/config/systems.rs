//! Systems that the environment describes by variables of their own, such as `REDIS_URL`: each is
//! an instance of a definition of the catalogue, under the definition's id. Owns the variables
//! and what they become; registering is another's. Never puts a value into a fault or a warning.

use std::collections::BTreeMap;

use integration_model::definition::{AuthType, ClientSecret, DefinitionSpec};
use integration_model::{InstanceId, TenantId};
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value, json};
use url::Url;

use super::environment::Environment;
use super::fault::{Fault, Origin};
use super::integrations::{CredentialSeed, InstanceSeed, Integrations};
use super::secret::Secret;
use crate::catalogue::{self, Installation};

/// The label of instances that the environment describes, and its value.
const LABEL: (&str, &str) = ("registeredBy", "environment");

pub(crate) fn registered_by_environment(labels: &BTreeMap<String, String>) -> bool {
    labels.get(LABEL.0).is_some_and(|value| value == LABEL.1)
}

/// A system that the environment describes.
#[derive(Debug, Clone)]
pub struct System {
    /// The variable that asks for it.
    pub variable: &'static str,
    pub definition: DefinitionSpec,
    pub instance: InstanceSeed,
    /// The fields of the config that the environment alone decides; others are the operator's.
    pub fields: &'static [&'static str],
}

/// Reads all of them.
pub(crate) fn read(environment: &Environment, faults: &mut Vec<Fault>, warnings: &mut Vec<String>) -> Vec<System> {
    let mut variables = Variables { environment, faults, warnings };
    let readers = [auth0, postgresql, redis, stripe, stripe_webhook, email, storage];
    readers.iter().filter_map(|read| read(&mut variables)).collect()
}

/// What `integrations.yaml` says of an instance goes before what the environment says.
pub(crate) fn leave_to_file(integrations: &mut Integrations, warnings: &mut Vec<String>) {
    let Integrations { instances, systems, .. } = integrations;
    systems.retain(|system| {
        let id = &system.instance.id;
        let is_in_file = instances.iter().any(|instance| instance.id == *id);
        if is_in_file {
            warnings.push(format!("{} has no effect: integrations.yaml describes instance {id}", system.variable));
        }
        !is_in_file
    });
}

struct Variables<'a> {
    environment: &'a Environment,
    faults: &'a mut Vec<Fault>,
    warnings: &'a mut Vec<String>,
}

impl<'a> Variables<'a> {
    fn get(&self, name: &str) -> Option<&'a str> {
        self.environment.get(name)
    }

    /// Notes that a variable's value is not what was expected.
    fn refuse(&mut self, name: &'static str, expected: &str) {
        self.faults.push(Fault::new(Origin::Environment(name), "", expected));
    }

    /// A value that fits, where there is one.
    fn checked(&mut self, name: &'static str, fits: impl Fn(&str) -> bool, expected: &str) -> Option<&'a str> {
        let value = self.get(name)?;
        if fits(value) {
            return Some(value);
        }
        self.refuse(name, expected);
        None
    }

    /// Whether all of these are set; where only some are, the rest is asked for.
    fn are_set(&mut self, names: &[&'static str]) -> bool {
        let (set, missing): (Vec<&str>, Vec<&str>) = names.iter().partition(|name| self.get(name).is_some());
        if let (Some(one), false) = (set.first(), missing.is_empty()) {
            let missing = missing.join(" and ");
            self.warnings.push(format!("{one} is set, but makes no instance: set {missing} too"));
        }
        missing.is_empty()
    }
}

/// The fields of a config that have a value.
fn config<const N: usize>(fields: [(&str, Option<Value>); N]) -> Map<String, Value> {
    fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

fn system(
    variable: &'static str,
    id: &'static str,
    config: Map<String, Value>,
    fields: &'static [&'static str],
    credential: Option<(AuthType, Value)>,
) -> Option<System> {
    let definition = catalogue::find(id)?.spec.clone();
    let instance = InstanceSeed {
        id: InstanceId::parse(id).ok()?,
        integration_definition_id: definition.id.clone(),
        definition_version: None,
        name: Some(definition.name.clone()),
        tenant_id: TenantId::default_tenant(),
        config,
        labels: BTreeMap::from([(LABEL.0.to_owned(), LABEL.1.to_owned())]),
        credential: credential
            .map(|(auth_type, data)| CredentialSeed { auth_type, data: Secret::new(data.to_string()) }),
    };
    Some(System { variable, definition, instance, fields })
}

fn basic(username: &str, password: &str) -> Option<(AuthType, Value)> {
    Some((AuthType::Basic, json!({"username": username, "password": password})))
}

fn auth0(variables: &mut Variables<'_>) -> Option<System> {
    const DOMAIN: &str = "AUTH0_DOMAIN";
    let is_domain = |text: &str| {
        text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.ends_with(|c: char| c.is_ascii_alphanumeric())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'.' || b == b'-')
    };
    let expected = "expected the tenant's own domain in lower case, such as acme.eu.auth0.com";
    let domain = variables.checked(DOMAIN, is_domain, expected);
    if !variables.are_set(&[DOMAIN, "AUTH0_CLIENT_ID", "AUTH0_CLIENT_SECRET"]) {
        return None;
    }
    let client_id = variables.checked("AUTH0_CLIENT_ID", is_one_word, "expected a client's id, without spaces")?;
    let secret = variables.checked("AUTH0_CLIENT_SECRET", is_one_word, "expected a client's secret, without spaces")?;
    let mut auth0 = system(DOMAIN, "auth0", config([("domain", Some(domain?.into()))]), &["domain"], None)?;
    let installation = Installation {
        id: None,
        client_id: Some(client_id.to_owned()),
        client_secret: Some(ClientSecret::new(secret.to_owned())),
    };
    auth0.definition = installation.apply(catalogue::find("auth0")?).ok()?;
    Some(auth0)
}

fn postgresql(variables: &mut Variables<'_>) -> Option<System> {
    const NAME: &str = "POSTGRESQL_URL";
    const EXPECTED: &str =
        "expected postgresql://USER:PASSWORD@HOST:PORT/DATABASE, what is special in it percent-encoded";
    let server = server_of(variables, NAME, &["postgresql", "postgres"], EXPECTED)?;
    let database = decoded(server.url.path().trim_start_matches('/')).filter(|name| !name.is_empty());
    let (Some(database), Some((user, password))) = (database, server.login) else {
        variables.refuse(NAME, EXPECTED);
        return None;
    };
    let mut tls = None;
    let mut has_others = false;
    for (name, value) in server.url.query_pairs() {
        match (&*name, &*value) {
            ("sslmode", "disable") => tls = Some("disable"),
            ("sslmode", "require" | "verify-ca" | "verify-full") => tls = Some("verify-full"),
            // These leave it to the server; here it is left to where the server is.
            ("sslmode", "allow" | "prefer") => {}
            ("sslmode", _) => {
                variables.refuse(NAME, "expected sslmode to be disable, require, verify-ca or verify-full")
            }
            _ => has_others = true,
        }
    }
    if has_others {
        variables.warnings.push(format!("{NAME}: of its parameters, sslmode alone has an effect"));
    }
    let config = config([
        ("host", Some(server.host.into())),
        ("port", Some(server.url.port().unwrap_or(5432).into())),
        ("database", Some(database.into())),
        ("tls", tls.map(|mode| json!({"mode": mode}))),
    ]);
    system(NAME, "postgresql", config, &["host", "port", "database", "tls"], basic(&user, &password))
}

fn redis(variables: &mut Variables<'_>) -> Option<System> {
    const NAME: &str = "REDIS_URL";
    const EXPECTED: &str = "expected redis://USER:PASSWORD@HOST:PORT/NUMBER, or rediss:// with TLS";
    let server = server_of(variables, NAME, &["redis", "rediss"], EXPECTED)?;
    let number = server.url.path().trim_matches('/');
    let Ok(database) = if number.is_empty() { "0" } else { number }.parse::<u16>() else {
        variables.refuse(NAME, EXPECTED);
        return None;
    };
    if server.url.query().is_some() {
        variables.warnings.push(format!("{NAME}: its parameters have no effect"));
    }
    let tls = if server.url.scheme() == "rediss" { "verify-full" } else { "disable" };
    let config = config([
        ("host", Some(server.host.into())),
        ("port", Some(server.url.port().unwrap_or(6379).into())),
        ("database", Some(database.into())),
        ("tls", Some(json!({"mode": tls}))),
    ]);
    // Servers without users let the default one in with any password.
    let (user, password) = server.login.unwrap_or_default();
    let user = if user.is_empty() { "default".to_owned() } else { user };
    system(NAME, "redis", config, &["host", "port", "database", "tls"], basic(&user, &password))
}

fn stripe(variables: &mut Variables<'_>) -> Option<System> {
    const SECRET: &str = "STRIPE_SECRET_KEY";
    const PUBLISHABLE: &str = "STRIPE_PUBLISHABLE_KEY";
    let is_secret = |key: &str| ["sk_", "rk_"].iter().any(|prefix| key.starts_with(prefix)) && is_one_word(key);
    // Whoever mistakes one for the other would tell the secret.
    let is_publishable = |key: &str| key.starts_with("pk_") && key.len() <= 256 && is_one_word(key);
    let publishable = variables.checked(PUBLISHABLE, is_publishable, "expected a publishable key: pk_…");
    if variables.get(PUBLISHABLE).is_some() && !variables.are_set(&[PUBLISHABLE, SECRET]) {
        return None;
    }
    let key = variables.checked(SECRET, is_secret, "expected a secret or a restricted key: sk_… or rk_…")?;
    let credential = Some((AuthType::ApiKey, json!({ "key": key })));
    let mut stripe = system(SECRET, "stripe", Map::new(), &[], credential)?;
    if let Some(publishable) = publishable {
        stripe.instance.labels.insert("publishableKey".to_owned(), publishable.to_owned());
    }
    Some(stripe)
}

fn stripe_webhook(variables: &mut Variables<'_>) -> Option<System> {
    const NAME: &str = "STRIPE_WEBHOOK_SECRET";
    let is_secret = |text: &str| text.starts_with("whsec_") && is_one_word(text);
    let secret = variables.checked(NAME, is_secret, "expected the signing secret of an endpoint: whsec_…")?;
    let credential = Some((AuthType::Custom, json!({"secrets": [secret]})));
    system(NAME, "stripe-webhook", Map::new(), &[], credential)
}

fn email(variables: &mut Variables<'_>) -> Option<System> {
    const KEY: &str = "EMAIL_SERVICE_API_KEY";
    let key = variables.checked(KEY, is_one_word, "expected an API key, without spaces")?;
    let host = variables.checked("EMAIL_SERVICE_HOST", is_host, "expected a host name or an address");
    let port = variables.checked("EMAIL_SERVICE_PORT", is_port, "expected a port, 1 to 65535");
    let user = variables.checked("EMAIL_SERVICE_USERNAME", is_one_word, "expected a user, without spaces");
    let is_mailbox = |text: &str| text.contains('@') && !text.chars().any(char::is_control);
    let from = variables.checked("EMAIL_SERVICE_FROM", is_mailbox, "expected name@host, or Name <name@host>");
    let config = config([
        // What the service's own documents leave open: a mail service whose key is a password of SMTP.
        ("host", Some(host.unwrap_or("smtp.sendgrid.net").into())),
        ("port", port.and_then(|port| port.parse::<u16>().ok()).map(Value::from)),
        ("from", from.map(Value::from)),
    ]);
    system(KEY, "email", config, &["host", "port", "from"], basic(user.unwrap_or("apikey"), key))
}

fn storage(variables: &mut Variables<'_>) -> Option<System> {
    const KEY: &str = "STORAGE_SERVICE_ACCESS_KEY";
    const SECRET: &str = "STORAGE_SERVICE_SECRET_KEY";
    const BUCKET: &str = "STORAGE_SERVICE_BUCKET";
    const ACCOUNT: &str = "STORAGE_SERVICE_ACCOUNT";
    variables.get(KEY)?;
    let provider = variables.get("STORAGE_SERVICE_PROVIDER").unwrap_or("s3");
    let needed: &[&'static str] = match provider {
        "s3" => &[KEY, SECRET, BUCKET],
        "azure" => &[KEY, ACCOUNT, BUCKET],
        _ => {
            variables.refuse(
                "STORAGE_SERVICE_PROVIDER",
                "expected s3 (also of Google's and others with its protocol) or azure",
            );
            return None;
        }
    };
    if !variables.are_set(needed) {
        return None;
    }
    let is_name =
        |text: &str| text.len() <= 255 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._$".contains(&b));
    let is_url = |text: &str| {
        Url::parse(text).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.username().is_empty())
    };
    let key = variables.checked(KEY, is_one_word, "expected an access key, without spaces");
    let secret = variables.checked(SECRET, is_one_word, "expected the access key's secret, without spaces");
    let bucket = variables.checked(BUCKET, is_name, "expected the name of a bucket or container");
    let region = variables.checked("STORAGE_SERVICE_REGION", is_name, "expected a region, such as eu-central-1");
    let account = variables.checked(ACCOUNT, is_name, "expected the name of a storage account");
    let endpoint =
        variables.checked("STORAGE_SERVICE_ENDPOINT", is_url, "expected an http or https URL without a user");
    let data = match provider {
        "azure" => json!({"accountKey": key?}),
        _ => json!({"accessKeyId": key?, "secretAccessKey": secret?}),
    };
    let config = config([
        ("provider", Some(provider.into())),
        ("bucket", Some(bucket?.into())),
        ("region", region.map(Value::from)),
        ("account", account.map(Value::from)),
        ("endpoint", endpoint.map(Value::from)),
    ]);
    let fields = &["provider", "bucket", "region", "account", "endpoint"];
    system(KEY, "storage", config, fields, Some((AuthType::Custom, data)))
}

/// A server that a URL names.
struct Server {
    url: Url,
    host: String,
    /// User and password, where the URL has either.
    login: Option<(String, String)>,
}

fn server_of(variables: &mut Variables<'_>, name: &'static str, schemes: &[&str], expected: &str) -> Option<Server> {
    let text = variables.get(name)?;
    let server = Url::parse(text).ok().filter(|url| schemes.contains(&url.scheme())).and_then(|url| {
        let host = url.host_str()?.trim_matches(['[', ']']).to_owned();
        let login = (decoded(url.username())?, decoded(url.password().unwrap_or_default())?);
        let is_sound = is_host(&host) && ![&login.0, &login.1].iter().any(|text| text.chars().any(char::is_control));
        let login = (!url.username().is_empty() || url.password().is_some()).then_some(login);
        is_sound.then_some(Server { url, host, login })
    });
    if server.is_none() {
        variables.refuse(name, expected);
    }
    server
}

fn decoded(text: &str) -> Option<String> {
    percent_decode_str(text).decode_utf8().ok().map(std::borrow::Cow::into_owned)
}

fn is_one_word(text: &str) -> bool {
    text.len() <= 4096 && !text.chars().any(|c| c.is_whitespace() || c.is_control())
}

fn is_host(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 253
        && !text.chars().any(|c| c.is_whitespace() || c.is_control() || "/@%,".contains(c))
}

fn is_port(text: &str) -> bool {
    text.parse::<u16>().is_ok_and(|port| port > 0)
}

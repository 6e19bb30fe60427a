//! What the adapter reads from an instance's config: where the objects are.

use std::sync::LazyLock;

use http::uri::{Authority, Scheme};
use integration_model::{ErrorCode, Problem};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::key::check_segments;
use crate::adapter::CallError;
use crate::adapter::http::base_url::BaseUrl;
use crate::adapter::own_schema::OwnSchema;

pub(super) static CONFIG_SCHEMA: LazyLock<OwnSchema> =
    LazyLock::new(|| OwnSchema::compile(include_str!("config.schema.json")));

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Provider {
    S3,
    Gcs,
    Azure,
    Folder,
}

impl Provider {
    /// What the names of the provider's own headers begin with.
    pub(super) const fn header_prefix(self) -> &'static str {
        match self {
            Self::S3 | Self::Folder => "x-amz-",
            Self::Gcs => "x-goog-",
            Self::Azure => "x-ms-",
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct StorageConfig {
    pub(super) provider: Provider,
    pub(super) bucket: String,
    #[serde(default = "default_region")]
    pub(super) region: String,
    #[serde(default)]
    pub(super) account: String,
    endpoint: Option<String>,
    #[serde(default)]
    pub(super) prefix: String,
}

fn default_region() -> String {
    "us-east-1".to_owned()
}

/// Where the objects of an instance are, over HTTP.
#[derive(Debug, Clone)]
pub(super) struct Site {
    pub(super) provider: Provider,
    pub(super) scheme: Scheme,
    pub(super) authority: Authority,
    /// The bucket's path, without a slash at its end.
    pub(super) path: String,
    pub(super) bucket: String,
    pub(super) region: String,
    pub(super) account: String,
}

impl StorageConfig {
    /// All faults of a config.
    pub(super) fn check(config: &Map<String, Value>) -> Vec<Problem> {
        let problems = CONFIG_SCHEMA.check(&Value::Object(config.clone()));
        if !problems.is_empty() {
            return problems;
        }
        let config = match Self::parse(config) {
            Ok(config) => config,
            Err(problem) => return vec![problem],
        };
        let mut problems = Vec::new();
        if let Err(message) = check_segments(&format!("{}x", config.prefix)) {
            problems.push(Problem::new("/prefix", message));
        }
        if config.provider == Provider::Folder {
            for (name, given) in [("endpoint", config.endpoint.is_some()), ("account", !config.account.is_empty())] {
                if given {
                    problems.push(Problem::new(format!("/{name}"), "a folder has none"));
                }
            }
        } else if let Err(problem) = config.site() {
            problems.push(problem);
        }
        problems
    }

    pub(super) fn parse(config: &Map<String, Value>) -> Result<Self, Problem> {
        integration_model::problem::from_value(Value::Object(config.clone()))
    }

    pub(super) fn read(config: &Map<String, Value>) -> Result<Self, CallError> {
        Self::parse(config).map_err(|problem| unusable(&problem))
    }

    /// The buckets of AWS have hosts of their own; everywhere else the bucket is in the path.
    pub(super) fn site(&self) -> Result<Site, Problem> {
        let bucket = &self.bucket;
        let has_own_host = (3..=63).contains(&bucket.len())
            && bucket.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        let (base, path) = match (&self.endpoint, self.provider) {
            (Some(endpoint), _) => (endpoint.clone(), format!("/{bucket}")),
            (None, Provider::S3) if has_own_host => {
                (format!("https://{bucket}.s3.{}.amazonaws.com", self.region), String::new())
            }
            (None, Provider::S3 | Provider::Folder) => {
                (format!("https://s3.{}.amazonaws.com", self.region), format!("/{bucket}"))
            }
            (None, Provider::Gcs) => ("https://storage.googleapis.com".to_owned(), format!("/{bucket}")),
            (None, Provider::Azure) => {
                (format!("https://{}.blob.core.windows.net", self.account), format!("/{bucket}"))
            }
        };
        let base = BaseUrl::parse(&base).map_err(|message| Problem::new("/endpoint", message))?;
        if !base.query.is_empty() {
            return Err(Problem::new("/endpoint", "expected no query"));
        }
        Ok(Site {
            provider: self.provider,
            path: format!("{}{path}", base.prefix()),
            scheme: base.scheme,
            authority: base.authority,
            bucket: bucket.clone(),
            region: self.region.clone(),
            account: self.account.clone(),
        })
    }
}

pub(super) fn unusable(problem: &Problem) -> CallError {
    CallError::not_sent(ErrorCode::InstanceNotReady, format!("the instance's config is not usable: {problem}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(config: Value) -> Vec<String> {
        let problems = StorageConfig::check(config.as_object().expect("an object"));
        problems.into_iter().map(|problem| problem.pointer).collect()
    }

    fn url(config: Value) -> String {
        let site = StorageConfig::parse(config.as_object().expect("an object")).expect("a config").site();
        let site = site.expect("a site");
        format!("{}://{}{}", site.scheme, site.authority, site.path)
    }

    #[test]
    fn a_bucket_has_a_host_of_its_own_at_aws_alone() {
        assert_eq!(
            url(json!({"provider": "s3", "bucket": "my-files", "region": "eu-west-1"})),
            "https://my-files.s3.eu-west-1.amazonaws.com"
        );
        // A dot would not fit the certificate.
        assert_eq!(
            url(json!({"provider": "s3", "bucket": "a.b.example"})),
            "https://s3.us-east-1.amazonaws.com/a.b.example"
        );
        assert_eq!(
            url(json!({"provider": "s3", "bucket": "files", "endpoint": "http://127.0.0.1:9000/s3/"})),
            "http://127.0.0.1:9000/s3/files"
        );
        assert_eq!(url(json!({"provider": "gcs", "bucket": "files"})), "https://storage.googleapis.com/files");
        assert_eq!(
            url(json!({"provider": "azure", "bucket": "files", "account": "acme"})),
            "https://acme.blob.core.windows.net/files"
        );
    }

    #[test]
    fn what_does_not_fit_is_told() {
        assert_eq!(check(json!({"provider": "ftp", "bucket": "b"})), ["/provider"]);
        assert_eq!(check(json!({"provider": "s3", "bucket": "../b"})), ["/bucket"]);
        assert_eq!(check(json!({"provider": "azure", "bucket": "b"})), [""]);
        assert_eq!(check(json!({"provider": "s3", "bucket": "b", "endpoint": "ftp://x"})), ["/endpoint"]);
        assert_eq!(check(json!({"provider": "s3", "bucket": "b", "endpoint": "http://u:p@x"})), ["/endpoint"]);
        assert_eq!(check(json!({"provider": "s3", "bucket": "b", "prefix": "../"})), ["/prefix"]);
        assert_eq!(check(json!({"provider": "folder", "bucket": "b", "endpoint": "http://x"})), ["/endpoint"]);
        assert_eq!(check(json!({"provider": "folder", "bucket": "b", "prefix": "a/"})), Vec::<String>::new());
    }
}

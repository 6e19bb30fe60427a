//! Signature Version 4 of AWS, and the same of Google with other names: for headers and for
//! URLs that are good by themselves.

use std::time::Duration;

use aws_lc_rs::{digest, hmac};
use http::uri::Authority;
use integration_model::Timestamp;

use super::request::StorageRequest;

/// The payload of a presigned URL is whatever its bearer sends.
const UNSIGNED: &str = "UNSIGNED-PAYLOAD";

/// The names in which the two systems differ.
pub(super) struct Dialect {
    pub(super) algorithm: &'static str,
    pub(super) query_prefix: &'static str,
    pub(super) service: &'static str,
    pub(super) end: &'static str,
}

pub(super) const AWS: Dialect =
    Dialect { algorithm: "AWS4-HMAC-SHA256", query_prefix: "X-Amz-", service: "s3", end: "aws4_request" };
pub(super) const GOOGLE: Dialect =
    Dialect { algorithm: "GOOG4-RSA-SHA256", query_prefix: "X-Goog-", service: "storage", end: "goog4_request" };

impl Dialect {
    /// `20130524/us-east-1/s3/aws4_request`
    fn scope(&self, now: Timestamp, region: &str) -> String {
        format!("{}/{region}/{}/{}", &basic_time(now)[..8], self.service, self.end)
    }

    fn text_to_sign(&self, now: Timestamp, region: &str, canonical: &str) -> String {
        let (time, scope) = (basic_time(now), self.scope(now, region));
        format!("{}\n{time}\n{scope}\n{}", self.algorithm, sha256(canonical.as_bytes()))
    }

    /// Makes the query of a request prove it for some time; gives the text to sign. The
    /// signature goes after the query that the request then has.
    pub(super) fn presign(
        &self,
        request: &mut StorageRequest,
        authority: &Authority,
        signer: &Signer<'_>,
        expires_in: Duration,
    ) -> String {
        let Signer { id, token, region, now } = *signer;
        let headers = headers_to_sign(request, authority);
        let values = [
            ("Algorithm", self.algorithm.to_owned()),
            ("Credential", format!("{id}/{}", self.scope(now, region))),
            ("Date", basic_time(now)),
            ("Expires", expires_in.as_secs().to_string()),
            ("SignedHeaders", names(&headers)),
        ];
        let token = token.map(|token| ("Security-Token", token.to_owned()));
        let named = values.into_iter().chain(token);
        request.query.extend(named.map(|(name, value)| (format!("{}{name}", self.query_prefix), value)));
        self.text_to_sign(now, region, &canonical_request(request, &headers, UNSIGNED))
    }
}

/// Who signs, where and when.
#[derive(Clone, Copy)]
pub(super) struct Signer<'a> {
    pub(super) id: &'a str,
    pub(super) token: Option<&'a str>,
    pub(super) region: &'a str,
    pub(super) now: Timestamp,
}

impl Signer<'_> {
    /// The `Authorization` of a request to AWS. The request holds its `x-amz-` headers.
    pub(super) fn authorization(
        &self,
        request: &StorageRequest,
        authority: &Authority,
        payload_hash: &str,
        secret: &str,
    ) -> String {
        let headers = headers_to_sign(request, authority);
        let canonical = canonical_request(request, &headers, payload_hash);
        let signature = self.hmac(secret, &AWS.text_to_sign(self.now, self.region, &canonical));
        let scope = AWS.scope(self.now, self.region);
        format!(
            "{} Credential={}/{scope}, SignedHeaders={}, Signature={signature}",
            AWS.algorithm,
            self.id,
            names(&headers)
        )
    }

    /// The signature of AWS by a key that is derived for the day, region and service.
    pub(super) fn hmac(&self, secret: &str, text: &str) -> String {
        let date = &basic_time(self.now)[..8];
        let mut key = zeroize::Zeroizing::new(format!("AWS4{secret}").into_bytes());
        for part in [date, self.region, AWS.service, AWS.end] {
            key = zeroize::Zeroizing::new(hmac_sha256(&key, part.as_bytes()));
        }
        hex(&hmac_sha256(&key, text.as_bytes()))
    }
}

fn canonical_request(request: &StorageRequest, headers: &[(String, String)], payload_hash: &str) -> String {
    let lines: String = headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
    let (verb, path, query, signed) = (&request.verb, &request.path, request.encoded_query(), names(headers));
    format!("{verb}\n{path}\n{query}\n{lines}\n{signed}\n{payload_hash}")
}

/// All headers that the request has now, and its host, ordered by name.
fn headers_to_sign(request: &StorageRequest, authority: &Authority) -> Vec<(String, String)> {
    let mut headers: Vec<_> = request
        .headers
        .iter()
        .map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes());
            (name.as_str().to_owned(), value.split_ascii_whitespace().collect::<Vec<_>>().join(" "))
        })
        .collect();
    headers.push(("host".to_owned(), authority.as_str().to_owned()));
    headers.sort();
    headers
}

fn names(headers: &[(String, String)]) -> String {
    headers.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(";")
}

/// `20130524T000000Z`
pub(super) fn basic_time(now: Timestamp) -> String {
    let whole = Timestamp::from_micros(now.as_secs() * 1_000_000).to_string();
    let digits: String = whole.chars().take(19).filter(|character| !matches!(character, '-' | ':')).collect();
    format!("{digits}Z")
}

pub(super) fn sha256(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

pub(super) fn hmac_sha256(key: &[u8], bytes: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), bytes).as_ref().to_vec()
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The examples of "Signature Calculations for the Authorization Header" and "Authenticating
/// Requests: Using Query Parameters" in Amazon's S3 API reference.
#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{HeaderMap, Method as Verb};

    use super::*;

    const ID: &str = "AKIAIOSFODNN7EXAMPLE";
    const SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
    const NOTHING: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn signer() -> Signer<'static> {
        let now = Timestamp::parse("2013-05-24T00:00:00Z").expect("a time");
        Signer { id: ID, token: None, region: "us-east-1", now }
    }

    fn request(verb: Verb, path: &str, query: &[(&str, &str)], headers: &[(&str, &str)]) -> StorageRequest {
        let query = query.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let mut request =
            StorageRequest { verb, path: path.to_owned(), query, headers: HeaderMap::new(), body: Bytes::new() };
        for (name, value) in headers {
            request.set(name, value).expect("a header");
        }
        request
    }

    fn signature(request: &StorageRequest, payload_hash: &str) -> String {
        let host = Authority::from_static("examplebucket.s3.amazonaws.com");
        let authorization = signer().authorization(request, &host, payload_hash, SECRET);
        authorization.rsplit_once("Signature=").expect("a signature").1.to_owned()
    }

    #[test]
    fn headers_are_signed_as_published() {
        let amz = [("x-amz-content-sha256", NOTHING), ("x-amz-date", "20130524T000000Z")];
        let get = request(Verb::GET, "/test.txt", &[], &[("range", "bytes=0-9"), amz[0], amz[1]]);
        assert_eq!(signature(&get, NOTHING), "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41");

        let content = sha256(b"Welcome to Amazon S3.");
        let put = request(
            Verb::PUT,
            "/test%24file.text",
            &[],
            &[
                ("date", "Fri, 24 May 2013 00:00:00 GMT"),
                ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
                ("x-amz-content-sha256", &content),
                amz[1],
            ],
        );
        assert_eq!(signature(&put, &content), "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd");

        let lifecycle = request(Verb::GET, "/", &[("lifecycle", "")], &amz);
        assert_eq!(signature(&lifecycle, NOTHING), "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543");
        let list = request(Verb::GET, "/", &[("prefix", "J"), ("max-keys", "2")], &amz);
        assert_eq!(signature(&list, NOTHING), "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7");
    }

    #[test]
    fn urls_are_signed_as_published() {
        let mut get = request(Verb::GET, "/test.txt", &[], &[]);
        let host = Authority::from_static("examplebucket.s3.amazonaws.com");
        let text = AWS.presign(&mut get, &host, &signer(), Duration::from_secs(86_400));
        assert_eq!(signer().hmac(SECRET, &text), "aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404");
    }
}

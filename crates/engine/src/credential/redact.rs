//! Taking secrets out of texts that leave the service: excerpts of answers, previews, errors.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use secrecy::ExposeSecret;
use zeroize::Zeroizing;

use super::Credential;

/// What stands where a secret stood.
pub const REDACTED: &str = "[redacted]";

impl Credential {
    /// Replaces every secret of this credential in `text`, plain or in one of the forms in
    /// which it travels: base64, also inside of a longer text, hexadecimal, percent-encoded,
    /// form-encoded, as a JSON string, as text of XML.
    pub fn redact(&self, text: &str) -> String {
        let mut forms = Vec::new();
        self.each_secret(&mut |secret| push_forms(secret, &mut forms));
        replace_forms(text, forms)
    }

    fn each_secret(&self, visit: &mut dyn FnMut(&str)) {
        match self {
            Self::None => {}
            Self::Basic { username, password } => {
                let password = password.expose_secret();
                visit(&Zeroizing::new(format!("{username}:{password}")));
                visit(password);
            }
            Self::ApiKey { key, .. } => visit(key.expose_secret()),
            Self::OAuth2(token) => {
                visit(token.access_token.expose_secret());
                if let Some(refresh_token) = &token.refresh_token {
                    visit(refresh_token.expose_secret());
                }
            }
            Self::Jwt { token, .. } => visit(token.expose_secret()),
            Self::JwtKey(signer) => visit(signer.private_key_pem().expose_secret().trim()),
            Self::SigningSecrets(secrets) => secrets.iter().for_each(|one| visit(one.secret.expose_secret())),
            Self::Custom(fields) => fields.values().for_each(|secret| visit(secret.expose_secret())),
            Self::WithToken { token, credential, .. } => {
                visit(token.expose_secret());
                credential.each_secret(visit);
            }
            Self::WithCertificate { certificate, credential } => {
                visit(certificate.private_key_pem.expose_secret().trim());
                credential.each_secret(visit);
            }
        }
    }
}

/// Replaces `secrets` in `text`, as [`Credential::redact`] does those of a credential.
pub(crate) fn redact_secrets(text: &str, secrets: &[&str]) -> String {
    let mut forms = Vec::new();
    secrets.iter().for_each(|secret| push_forms(secret, &mut forms));
    replace_forms(text, forms)
}

fn replace_forms(text: &str, mut forms: Vec<Zeroizing<String>>) -> String {
    // The longest first, so that a form is not broken by a shorter one inside it.
    forms.sort_by_key(|form| std::cmp::Reverse(form.len()));
    let mut clean = text.to_owned();
    for form in &forms {
        if clean.contains(form.as_str()) {
            clean = clean.replace(form.as_str(), REDACTED);
        }
    }
    clean
}

fn push_forms(secret: &str, forms: &mut Vec<Zeroizing<String>>) {
    if secret.is_empty() {
        return;
    }
    let json = Zeroizing::new(serde_json::Value::from(secret).to_string());
    let quoted = json.trim_start_matches('"');
    let candidates = [
        secret.to_owned(),
        STANDARD.encode(secret),
        STANDARD_NO_PAD.encode(secret),
        URL_SAFE.encode(secret),
        URL_SAFE_NO_PAD.encode(secret),
        utf8_percent_encode(secret, NON_ALPHANUMERIC).to_string(),
        utf8_percent_encode(secret, crate::http_client::UNRESERVED).to_string(),
        url::form_urlencoded::byte_serialize(secret.as_bytes()).collect(),
        quoted.strip_suffix('"').unwrap_or(quoted).to_owned(),
        quick_xml::escape::escape(secret).into_owned(),
        quick_xml::escape::partial_escape(secret).into_owned(),
    ];
    let inside = if secret.len() >= LEAST_INSIDE { forms_inside(secret) } else { Vec::new() };
    for candidate in candidates.map(Zeroizing::new).into_iter().chain(inside) {
        if !forms.contains(&candidate) {
            forms.push(candidate);
        }
    }
}

/// Secrets shorter than this have forms inside of others that are too short to tell from
/// other text.
const LEAST_INSIDE: usize = 8;

/// How the secret looks inside a longer text that is encoded as a whole, as in the base64 of
/// `Bearer TOKEN`: the characters that no neighbouring byte has a part in.
fn forms_inside(secret: &str) -> Vec<Zeroizing<String>> {
    let mut forms = Vec::new();
    for offset in 0..3 {
        let padded = Zeroizing::new(format!("{}{secret}", &"xxx"[..offset]));
        for encoded in [STANDARD_NO_PAD.encode(&*padded), URL_SAFE_NO_PAD.encode(&*padded)].map(Zeroizing::new) {
            // Six bits a character.
            let own = (offset * 8).div_ceil(6)..padded.len() * 8 / 6;
            forms.push(Zeroizing::new(encoded[own].to_owned()));
        }
    }
    let hexadecimal = |digits: fn(u8) -> String| Zeroizing::new(secret.bytes().map(digits).collect::<String>());
    forms.push(hexadecimal(|byte| format!("{byte:02x}")));
    forms.push(hexadecimal(|byte| format!("{byte:02X}")));
    forms
}

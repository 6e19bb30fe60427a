//! Who keeps secrets, from the configuration to the store's options: master keys, the key
//! service, the credential store. Must not know what they keep.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use integration_engine::dependency::{
    DependencySettings, HttpCredentialStore, TokenSource, TransitKeyService, TransitSettings,
};
use integration_store::{ExternalSecrets, Keyring, MasterKeys};
use secrecy::SecretString;

use crate::config::{Config, CredentialStoreKind, MasterKeySource, TokenSetting, TransitConfig};

/// The keys that seal and open. `shards` is the number of threads that may ask for them.
pub(crate) fn keyring(config: &Config, shards: usize) -> anyhow::Result<Keyring> {
    let source = config.master_key_source();
    let Some(transit) = config.vault.transit() else { return Ok(master_keys(&source)?.into()) };
    let service = Arc::new(key_service(transit, shards).context("vault.transit is not usable")?);
    if transit.decrypt_only {
        return Ok(Keyring::local_after(master_keys(&source)?, service));
    }
    Ok(Keyring::service(service, keys_at_hand(&source)?))
}

/// The store of credentials outside of the database, where one is configured.
pub(crate) fn external_secrets(config: &Config, shards: usize) -> anyhow::Result<Option<ExternalSecrets>> {
    let settings = &config.credential_store;
    let Some(url) = settings.url() else { return Ok(None) };
    let dependency = DependencySettings {
        address: url.parse().context("credentialStore.url is no URL")?,
        token: settings.token().map(token_source),
        ca_file: settings.ca_file.clone(),
        client_certificate: settings.client_certificate(),
        timeout: Duration::from_millis(settings.timeout_ms),
        shards,
    };
    let store = HttpCredentialStore::new(dependency).context("credentialStore is not usable")?;
    Ok(Some(ExternalSecrets { store: Arc::new(store), keeps_new: settings.kind == CredentialStoreKind::Http }))
}

fn key_service(transit: &TransitConfig, shards: usize) -> anyhow::Result<TransitKeyService> {
    let dependency = DependencySettings {
        address: transit.address().parse().context("its address is no URL")?,
        token: transit.token().map(token_source),
        ca_file: transit.ca_file.clone(),
        client_certificate: None,
        timeout: Duration::from_millis(transit.timeout_ms),
        shards,
    };
    let settings = TransitSettings {
        mount: transit.mount.clone(),
        key: transit.key.clone(),
        namespace: transit.namespace.clone(),
    };
    Ok(TransitKeyService::new(dependency, settings)?)
}

fn token_source(setting: TokenSetting) -> TokenSource {
    match setting {
        TokenSetting::Given(token) => TokenSource::Given(SecretString::from(token.expose())),
        TokenSetting::File(path) => TokenSource::File(path),
    }
}

/// The master keys; the embedded default makes its own at the first start.
fn master_keys(source: &MasterKeySource) -> anyhow::Result<MasterKeys> {
    if let MasterKeySource::DataDirFile(path) = source
        && !path.exists()
    {
        MasterKeys::create_file(path).with_context(|| format!("cannot make {}", path.display()))?;
        tracing::warn!(
            path = %path.display(),
            "made a master key: whoever loses it loses all credentials; keep a copy apart from the database"
        );
    }
    Ok(keys_at_hand(source)?.expect("the source has keys"))
}

/// The master keys where there are any, and none are made.
fn keys_at_hand(source: &MasterKeySource) -> anyhow::Result<Option<MasterKeys>> {
    match source {
        MasterKeySource::Env(text) => {
            MasterKeys::parse(text.expose()).map(Some).context("the master key is not usable")
        }
        MasterKeySource::DataDirFile(path) if !path.exists() => Ok(None),
        MasterKeySource::File(path) | MasterKeySource::DataDirFile(path) => read_keys(path).map(Some),
    }
}

fn read_keys(path: &Path) -> anyhow::Result<MasterKeys> {
    MasterKeys::from_file(path).with_context(|| format!("the master key file {} is not usable", path.display()))
}

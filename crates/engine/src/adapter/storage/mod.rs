//! The `storage` adapter: objects in S3 and what speaks its protocol, in Google Cloud Storage,
//! in Azure Blob Storage, or in a folder.
//!
//! Owns: keys and content, requests and their signatures, what answers mean, uploads in parts,
//! URLs that are good by themselves. Must not know: connections (the HTTP client's), retries,
//! limits and breakers (policies').

mod access;
mod answers;
mod client;
mod config;
mod content;
mod folder;
mod folder_content;
mod key;
mod operation;
mod request;
mod signature_v4;
mod spec;
mod upload;
mod wanted;

use std::path::PathBuf;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use http::StatusCode;
use integration_model::definition::{AuthType, DefinitionSpec, Method, STORAGE};
use integration_model::{ErrorCode, Problem};
use serde_json::{Map, Value};

use super::http::connection::TlsProfiles;
use super::{Adapter, AdapterDescription, CallError, Connection, Operation};
use crate::credential::Credential;
use access::Access;
use client::Client;
use config::{CONFIG_SCHEMA, Provider, StorageConfig, unusable};
use folder::Folder;
use operation::StorageOperation;
use request::Listing;
use spec::OPERATION_SCHEMA;
use upload::PartMemory;

/// Keeps objects.
pub(super) struct StorageAdapter {
    profiles: Arc<TlsProfiles>,
    folder: Folder,
    memory: PartMemory,
}

impl StorageAdapter {
    /// `folder` is the operator's; without it, no instance keeps objects on this machine.
    pub(super) fn new(folder: Option<PathBuf>) -> Self {
        let profiles = Arc::new(TlsProfiles::new());
        Self { profiles, folder: Folder::new(folder), memory: PartMemory::default() }
    }

    /// Asks for one key: it says whether the bucket is there and the credential taken.
    async fn probe(&self, connection: Connection<'_>) -> Result<String, CallError> {
        let config = StorageConfig::read(connection.config)?;
        if config.provider == Provider::Folder {
            return self.folder.test(&config, connection.deadline).await;
        }
        let site = config.site().map_err(|problem| unusable(&problem))?;
        let client = Client::new(connection, site, &self.profiles)?;
        let listing = Listing { prefix: &config.prefix, delimiter: None, page_size: 1, after: None };
        let listed = client.ask(client.site.list(&listing), true).await.and_then(|response| {
            answers::page(config.provider, &response.body, &config.prefix)
                .map_err(|fault| answers::unreadable(&response, &fault))
        });
        match listed {
            Ok(_) => Ok(format!("{} lists the bucket {}", client.site.authority, config.bucket)),
            Err(error) if error.upstream_status == Some(StatusCode::FORBIDDEN.as_u16()) => {
                Err(CallError { code: ErrorCode::Auth, credential_refused: true, ..error })
            }
            Err(error) => Err(error),
        }
    }
}

impl Adapter for StorageAdapter {
    fn describe(&self) -> AdapterDescription {
        AdapterDescription {
            adapter_type: STORAGE,
            version: "1.0.0",
            description: "Objects in S3, Google Cloud Storage, Azure Blob Storage or a folder",
            auth_types: &[AuthType::None, AuthType::Basic, AuthType::OAuth2, AuthType::Jwt, AuthType::Custom],
            operation_schema: OPERATION_SCHEMA.document.clone(),
            config_schema: CONFIG_SCHEMA.document.clone(),
        }
    }

    fn compile(&self, _: &DefinitionSpec, method: &Method) -> Result<Arc<dyn Operation>, Vec<Problem>> {
        let (profiles, folder, memory) = (Arc::clone(&self.profiles), self.folder.clone(), self.memory.clone());
        Ok(Arc::new(StorageOperation::compile(method, profiles, folder, memory)?))
    }

    fn check_config(&self, config: &Map<String, Value>) -> Vec<Problem> {
        StorageConfig::check(config)
    }

    fn check_credential(&self, config: &Map<String, Value>, credential: &Credential) -> Result<(), Problem> {
        // Without a config nobody knows the provider; the instance waits for one.
        match StorageConfig::parse(config) {
            Ok(config) => Access::of(config.provider, credential).map(drop),
            Err(_) => Ok(()),
        }
    }

    fn test<'a>(&'a self, call: Connection<'a>) -> BoxFuture<'a, Result<String, CallError>> {
        Box::pin(self.probe(call))
    }
}

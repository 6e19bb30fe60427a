//! Descriptions of other formats as definitions.

use std::collections::BTreeMap;

use axum::Extension;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, LOCATION};
use http::{HeaderMap, StatusCode};
use integration_engine::EngineError;
use integration_engine::import::graphql::INTROSPECTION_QUERY;
use integration_engine::import::openapi::{Documents, translate};
use integration_engine::import::{
    Fetched, FindingKind, ImportOptions, ImportReport, ImportSource, Imported, Input, MAX_DOCUMENT_BYTES, Translate,
    TranslateAll, read_document, wsdl,
};
use integration_model::definition::{DefinitionSpec, DefinitionStatus};
use integration_model::schema::SemanticVersion;
use integration_model::{DefinitionId, ErrorCode};
use semver::Version;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::definitions::{location_of, store_draft};
use super::{Caller, query_fault};
use crate::error::ApiError;
use crate::extract::{BodyLimits, Json, Query};
use crate::state::AppState;

/// The longest body that is looked through for a URL in place of a document.
const MAX_REFERENCE: usize = 32 * 1024;

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub(crate) struct ImportQuery {
    /// The id of the definition; made of the document's title unless given. Of one that exists
    /// already, another version is stored.
    #[param(value_type = Option<DefinitionId>)]
    pub id: Option<String>,
    /// The definition's name; the document's title unless given.
    #[param(max_length = 200)]
    pub name: Option<String>,
    /// The definition's version; made of the document's own unless given.
    #[param(value_type = Option<SemanticVersion>)]
    pub version: Option<String>,
    /// Where the system is; the server that the document names for most operations unless given.
    /// Operations at other servers are left out.
    #[param(max_length = 2000)]
    pub server: Option<String>,
    /// The id of the OAuth 2 client. The client's secret is set in the draft.
    #[param(max_length = 4096)]
    pub client_id: Option<String>,
    /// Store nothing, and answer with the whole definition.
    #[serde(default)]
    pub dry_run: bool,
    /// Publish at once; nothing is stored where the checks refuse it.
    #[serde(default)]
    pub publish: bool,
}

/// Where a document is, in place of the document.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DocumentUrl {
    /// `http` or `https`; fetched under the egress rules, without a credential.
    pub url: String,
}

/// A GraphQL endpoint that is asked for its schema, in place of the schema.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct GraphqlEndpoint {
    /// `http` or `https`; asked under the egress rules. It becomes the `baseUrl`.
    pub endpoint: String,
    /// What the endpoint wants to see, such as `Authorization`. Used for this question alone,
    /// and kept nowhere.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
}

/// What came of an import.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ImportAnswer {
    pub definition_id: DefinitionId,
    pub version: String,
    /// Absent where nothing was stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<DefinitionStatus>,
    pub report: ImportReport,
    /// The definition that would be stored, of a dry run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub definition: Option<Box<DefinitionSpec>>,
}

/// Make a definition of an OpenAPI description (2.0, 3.0, 3.1). JSON or YAML.
///
/// Every operation becomes a method. The body is the document, of at most 32 MiB, or
/// `{"url": …}` of one. The answer's `report` says what could not be carried over. The
/// definition is stored as a DRAFT; with `dryRun=true` nothing is stored and it is in the answer.
#[utoipa::path(post, path = "/api/v1/imports/openapi", tag = "definitions", operation_id = "importOpenapi",
    params(ImportQuery),
    request_body(description = "The document, or where it is.",
        content((serde_json::Value = "application/json"), (serde_json::Value = "application/yaml"))),
    responses(
        (status = 201, description = "It is stored.", body = ImportAnswer, headers(("Location" = String, description = "Where the version is"))),
        (status = 200, description = "The definition of a dry run.", body = ImportAnswer),
        (status = 409, description = "The version exists already, or its number hides breaking changes."),
        (status = 502, description = "The document cannot be fetched.")))]
pub(crate) async fn openapi(
    State(state): State<AppState>,
    caller: Caller,
    Query(query): Query<ImportQuery>,
    Extension(limits): Extension<BodyLimits>,
    request: Request,
) -> Result<Response, ApiError> {
    let options = query.options()?;
    let source = source_of(read_body(limits, request, &YAML).await?);
    let translation: Box<Translate> = Box::new(move |text, origin, adapters| {
        let documents = Documents::single(read_document(text)?);
        translate(&documents, &options, origin, adapters, &mut |_, _| {})
    });
    let imported = state.engine.import("openapi", source, translation).await?;
    answer(&state, caller, &query, imported).await
}

/// Make a definition of a GraphQL schema: of the answer to an introspection query, or of the
/// schema definition language.
///
/// Every field of the query and mutation types becomes a method that asks for the scalars of what
/// it answers with. The body is the schema, of at most 32 MiB (8 MiB of the definition language),
/// `{"url": …}` of one, or `{"endpoint": …, "headers": {…}}` of an endpoint that allows
/// introspection. The answer's `report` says what could not be carried over. The
/// definition is stored as a DRAFT; with `dryRun=true` nothing is stored and it is in the answer.
/// `server` is the endpoint.
#[utoipa::path(post, path = "/api/v1/imports/graphql", tag = "definitions", operation_id = "importGraphql",
    params(ImportQuery),
    request_body(description = "The schema, or where it is.",
        content((serde_json::Value = "application/json"), (String = "application/graphql"))),
    responses(
        (status = 201, description = "It is stored.", body = ImportAnswer, headers(("Location" = String, description = "Where the version is"))),
        (status = 200, description = "The definition of a dry run.", body = ImportAnswer),
        (status = 409, description = "The version exists already, or its number hides breaking changes."),
        (status = 502, description = "The schema cannot be fetched.")))]
pub(crate) async fn graphql(
    State(state): State<AppState>,
    caller: Caller,
    Query(query): Query<ImportQuery>,
    Extension(limits): Extension<BodyLimits>,
    request: Request,
) -> Result<Response, ApiError> {
    let mut options = query.options()?;
    let body = read_body(limits, request, &SDL).await?;
    let endpoint = reference::<GraphqlEndpoint>(&body);
    let is_endpoint = endpoint.is_some();
    let source = match endpoint {
        Some(GraphqlEndpoint { endpoint, headers }) => {
            let body = serde_json::json!({"query": INTROSPECTION_QUERY}).to_string().into();
            ImportSource::Answer { url: endpoint, headers, body }
        }
        None => source_of(body),
    };
    let translation: Box<Translate> = Box::new(move |text, origin, adapters| {
        if let Some(endpoint) = origin.filter(|_| is_endpoint) {
            options.server.get_or_insert_with(|| endpoint.to_string());
        }
        integration_engine::import::graphql::translate(text, &options, adapters)
    });
    let imported = state.engine.import("graphql", source, translation).await?;
    answer(&state, caller, &query, imported).await
}

/// Make a definition of a WSDL 1.1 description of SOAP 1.1 and 1.2 services.
///
/// Every operation becomes a method. The body is the description, of at most 32 MiB, `{"url": …}` of
/// one, which is fetched with what it imports, or `{"document": …, "files": {…}}`: all files by their
/// paths from one folder, with what the description imports and includes, and the path of the
/// description among them. The answer's `report` says what could not be carried over. The definition
/// is stored as a DRAFT; with `dryRun=true` nothing is stored and it is in the answer.
#[utoipa::path(post, path = "/api/v1/imports/wsdl", tag = "definitions", operation_id = "importWsdl",
    params(ImportQuery),
    request_body(description = "The description, its files, or where it is.",
        content((serde_json::Value = "application/json"), (String = "text/xml"))),
    responses(
        (status = 201, description = "It is stored.", body = ImportAnswer, headers(("Location" = String, description = "Where the version is"))),
        (status = 200, description = "The definition of a dry run.", body = ImportAnswer),
        (status = 409, description = "The version exists already, or its number hides breaking changes."),
        (status = 502, description = "The description cannot be fetched.")))]
pub(crate) async fn wsdl(
    State(state): State<AppState>,
    caller: Caller,
    Query(query): Query<ImportQuery>,
    Extension(limits): Extension<BodyLimits>,
    request: Request,
) -> Result<Response, ApiError> {
    let options = query.options()?;
    let source = source_of(read_body(limits, request, &XML).await?);
    let translation: Box<TranslateAll> = Box::new(move |input, adapters| {
        let (name, files, missing) = match input {
            Input::Document(body) => {
                let (name, files) = wsdl::read_files(&body)?;
                (name, files, Vec::new())
            }
            Input::Fetched(Fetched { name, files, missing }) => (name, files, missing),
        };
        let mut imported = wsdl::translate(&name, &files, &options, adapters, &mut |_, _| {})?;
        for told in missing {
            imported.report.find(FindingKind::Note, None, format!("not fetched: {told}"));
        }
        Ok(imported)
    });
    let imported = state.engine.import_all("wsdl", source, wsdl::references, translation).await?;
    answer(&state, caller, &query, imported).await
}

impl ImportQuery {
    fn options(&self) -> Result<ImportOptions, ApiError> {
        let id = self.id.as_deref().map(DefinitionId::parse).transpose();
        let version = self.version.as_deref().map(Version::parse).transpose();
        Ok(ImportOptions {
            id: id.map_err(|error| query_fault("id", error.to_string()))?,
            name: self.name.clone(),
            version: version.map_err(|error| {
                query_fault("version", format!("expected a semantic version such as 1.2.0: {error}"))
            })?,
            server: self.server.clone(),
            client_id: self.client_id.clone(),
        })
    }
}

/// The media types of OpenAPI descriptions besides JSON.
const YAML: [&str; 6] = [
    "application/yaml",
    "application/x-yaml",
    "text/yaml",
    "text/x-yaml",
    "application/vnd.oai.openapi",
    "application/vnd.oai.openapi+yaml",
];
/// The media types of the schema definition language.
const SDL: [&str; 2] = ["application/graphql", "text/plain"];
/// The media types of WSDL descriptions.
const XML: [&str; 3] = ["text/xml", "application/xml", "application/wsdl+xml"];

/// The body of an import, JSON or of these media types.
async fn read_body(limits: BodyLimits, request: Request, media_types: &[&str]) -> Result<Bytes, ApiError> {
    let (parts, body) = request.into_parts();
    check_media_type(&parts.headers, media_types)?;
    let limits = BodyLimits { max_bytes: MAX_DOCUMENT_BYTES.max(limits.max_bytes), ..limits };
    limits.read(body).await
}

/// A body that says where the document is, in place of the document.
fn reference<T: DeserializeOwned>(body: &Bytes) -> Option<T> {
    (body.len() <= MAX_REFERENCE).then(|| serde_json::from_slice(body).ok())?
}

fn source_of(body: Bytes) -> ImportSource {
    match reference(&body) {
        Some(DocumentUrl { url }) => ImportSource::Url(url),
        None => ImportSource::Document(body),
    }
}

fn check_media_type(headers: &HeaderMap, others: &[&str]) -> Result<(), ApiError> {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if crate::extract::is_json(headers) || others.contains(&essence.as_str()) {
        return Ok(());
    }
    let usual = others.first().copied().unwrap_or_default();
    Err(ApiError::new(ErrorCode::UnsupportedMediaType, format!("expected Content-Type: application/json or {usual}")))
}

/// Stores the definition, unless nothing is to be stored, and tells what came of it.
async fn answer(
    state: &AppState,
    caller: Caller,
    query: &ImportQuery,
    imported: Imported,
) -> Result<Response, ApiError> {
    let Imported { definition: spec, report } = imported;
    let (definition_id, version) = (spec.id.clone(), spec.version.to_string());
    if query.dry_run {
        let definition = Some(Box::new(spec));
        return Ok(Json(ImportAnswer { definition_id, version, status: None, report, definition }).into_response());
    }
    let known = match state.engine.definition_versions(&spec.id).await {
        Ok(_) => Some(spec.id.clone()),
        Err(EngineError::DefinitionNotFound(_)) => None,
        Err(error) => return Err(error.into()),
    };
    let stored = store_draft(state, caller, known, spec, query.publish).await?;
    let location = location_of(&stored);
    let answer = ImportAnswer { definition_id, version, status: Some(stored.status), report, definition: None };
    Ok((StatusCode::CREATED, [(LOCATION, location)], Json(answer)).into_response())
}

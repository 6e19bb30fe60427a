//! All routes, and the description made from them.

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::get;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::access::guard;
use crate::api::execute::{ExecuteFailure, ExecuteQueued, ExecuteSuccess};
use crate::api::{
    adapters, api_keys, audit, catalogue, credentials, definitions, events, execute, executions, imports, instances,
    oauth, operations, status, webhooks,
};
use crate::error::{ApiError, ProblemBody};
use crate::openapi;
use crate::pages;
use crate::state::AppState;

/// Every route that is described. Who may call it is in `access/table.rs`.
fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(status::health))
        .routes(routes!(status::live))
        .routes(routes!(status::ready))
        .routes(routes!(oauth::callback))
        .routes(routes!(webhooks::deliver))
        .routes(routes!(definitions::list, definitions::create))
        .routes(routes!(definitions::validate))
        .routes(routes!(definitions::get))
        .routes(routes!(definitions::methods))
        .routes(routes!(definitions::schema))
        .routes(routes!(definitions::form_schema))
        .routes(routes!(definitions::versions, definitions::create_version))
        .routes(routes!(definitions::get_version, definitions::update_version, definitions::delete_version))
        .routes(routes!(definitions::publish))
        .routes(routes!(definitions::deprecate))
        .routes(routes!(definitions::archive))
        .routes(routes!(definitions::compare))
        .routes(routes!(imports::openapi))
        .routes(routes!(imports::graphql))
        .routes(routes!(imports::wsdl))
        .routes(routes!(catalogue::list))
        .routes(routes!(catalogue::get))
        .routes(routes!(catalogue::install))
        .routes(routes!(adapters::list))
        .routes(routes!(instances::list, instances::create))
        .routes(routes!(instances::get, instances::replace, instances::patch, instances::delete))
        .routes(routes!(instances::connect))
        .routes(routes!(instances::disconnect))
        .routes(routes!(instances::test))
        .routes(routes!(instances::upgrade))
        .routes(routes!(credentials::store, credentials::delete))
        .routes(routes!(credentials::status))
        .routes(routes!(credentials::refresh))
        .routes(routes!(oauth::authorize))
        .routes(routes!(oauth::device))
        .routes(routes!(credentials::rotate))
        .routes(routes!(execute::execute))
        .routes(routes!(executions::list))
        .routes(routes!(executions::list_of_instance))
        .routes(routes!(executions::get))
        .routes(routes!(executions::cancel))
        .routes(routes!(executions::replay))
        .routes(routes!(audit::list))
        .routes(routes!(audit::export))
        .routes(routes!(events::list, events::take))
        .routes(routes!(events::stream))
        .routes(routes!(operations::list, operations::register))
        .routes(routes!(operations::get, operations::update, operations::deregister))
        .routes(routes!(operations::health))
        .routes(routes!(operations::status))
        .routes(routes!(operations::test))
        .routes(routes!(operations::rate_limit))
        .routes(routes!(operations::cache))
        .routes(routes!(operations::clear_cache))
        .routes(routes!(operations::circuit_breaker))
        .routes(routes!(operations::reset_circuit_breaker))
        .routes(routes!(status::status_health))
        .routes(routes!(status::metrics))
        .routes(routes!(api_keys::list, api_keys::create))
        .routes(routes!(api_keys::get, api_keys::revoke))
}

/// The description of the service, complete.
pub fn describe() -> OpenApi {
    #[derive(utoipa::OpenApi)]
    #[openapi(components(schemas(ProblemBody, ExecuteSuccess, ExecuteQueued, ExecuteFailure)))]
    struct Base;
    let mut api = <Base as utoipa::OpenApi>::openapi();
    api.merge(routes().into_openapi());
    openapi::complete(api)
}

/// The router, all of it behind the guard: paths that do not exist ask for a key too, so that a
/// stranger does not learn which do.
pub fn build(state: AppState) -> Router {
    let (router, _) = routes().split_for_parts();
    router
        .route("/openapi.json", get(pages::openapi_json))
        .route("/docs", get(pages::reference))
        .route("/docs/errors/{code}", get(pages::error_page))
        .fallback(no_such_path)
        .layer(from_fn_with_state(state.clone(), guard))
        .with_state(state)
}

async fn no_such_path() -> ApiError {
    ApiError::new(
        integration_model::ErrorCode::NotFound,
        "there is nothing at this path; GET /docs lists what there is",
    )
}

//! The engine's tests against real upstreams on loopback.

mod badhttp;
mod conformance;
mod dependency;
mod graphql_adapter;
mod graphql_import;
mod http_adapter;
mod http_client;
mod imports;
mod rebinding;
mod refresh;
mod soap_adapter;
mod soap_samples;
mod soap_signatures;
mod token_server;
mod upstream;
mod wsdl_import;

//! The engine's tests against real upstreams on loopback.

mod badhttp;
mod http_adapter;
mod http_client;
mod upstream;

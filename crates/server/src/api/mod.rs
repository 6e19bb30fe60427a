//! The endpoints, one module for each resource. A handler reads its request, calls, and
//! answers; it knows neither SQL nor external systems.

pub(crate) mod health;
pub(crate) mod metrics;

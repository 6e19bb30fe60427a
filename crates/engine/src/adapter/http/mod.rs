//! The `http` adapter.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use integration_model::Problem;
use integration_model::definition::{DefinitionSpec, Method};
use serde_json::{Map, Value};

use super::{Adapter, AdapterDescription, CallError, Connection, Operation};

/// Speaks HTTP to REST-like systems.
#[derive(Default)]
pub struct HttpAdapter {}

impl HttpAdapter {
    pub fn new() -> Self {
        Self {}
    }
}

impl Adapter for HttpAdapter {
    fn describe(&self) -> AdapterDescription {
        unimplemented!()
    }
    fn compile(&self, _: &DefinitionSpec, _: &Method) -> Result<Arc<dyn Operation>, Vec<Problem>> {
        unimplemented!()
    }
    fn check_config(&self, _: &Map<String, Value>) -> Vec<Problem> {
        unimplemented!()
    }
    fn test<'a>(&'a self, _: Connection<'a>) -> BoxFuture<'a, Result<String, CallError>> {
        unimplemented!()
    }
}

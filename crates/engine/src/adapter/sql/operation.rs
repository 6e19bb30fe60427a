//! One operation, compiled: from a call to statements with values, from rows to data.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use integration_model::problem::push_pointer;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::output::RowSet;
use super::spec::{Mode, Plan, Prepared};
use super::value::{SqlValue, invalid_param};
use super::{Database, Done, Job, Step};
use crate::adapter::{Answer, Call, CallError, Operation, UpstreamLimits};
use crate::data::Data;
use crate::params::Params;

pub(super) struct SqlOperation<D> {
    plan: Plan,
    database: Arc<D>,
}

impl<D: Database> SqlOperation<D> {
    pub(super) fn new(plan: Plan, database: Arc<D>) -> Self {
        Self { plan, database }
    }

    async fn run(&self, call: Call<'_>) -> Result<Answer, CallError> {
        let job = self.job(call.params)?;
        let Done(sets) = self.database.run(call.connection, job).await.map_err(|error| self.mapped(error))?;
        let data = Data::from_text(Bytes::from(self.answer(sets)));
        Ok(Answer {
            data,
            upstream_status: None,
            next_page: None,
            limits: UpstreamLimits::default(),
            warnings: Vec::new(),
        })
    }

    fn job(&self, params: &Params) -> Result<Job<'_>, CallError> {
        let plan = &self.plan;
        let steps = match (plan.mode, plan.statements.as_slice()) {
            (Mode::Batch, [prepared, ..]) => self.batch(prepared, params)?,
            (_, statements) => statements.iter().map(|prepared| step(prepared, params)).collect::<Result<_, _>>()?,
        };
        Ok(Job {
            steps,
            read_only: plan.read_only,
            isolation: plan.isolation,
            statement_timeout: plan.statement_timeout,
            limits: plan.limits,
            json_columns: &plan.json_columns,
        })
    }

    /// A step for each item.
    fn batch<'a>(&self, prepared: &'a Prepared, params: &Params) -> Result<Vec<Step<'a>>, CallError> {
        let pointer = push_pointer("/params", &self.plan.items);
        let wrong = || invalid_param(&pointer, "expected an array of objects");
        let text = params.json_text(&self.plan.items).ok_or_else(wrong)?;
        // Only the text knows all digits.
        let items: Vec<BTreeMap<String, &RawValue>> = serde_json::from_slice(&text).map_err(|_| wrong())?;
        if items.len() > self.plan.max_items {
            return Err(invalid_param(&pointer, &format!("expected at most {} items", self.plan.max_items)));
        }
        let mut steps = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            let value = |(name, kind): (&String, &super::value::ParamType)| {
                let Some(raw) = item.get(name) else { return Ok(SqlValue::Null) };
                let at = || push_pointer(&format!("{pointer}/{index}"), name);
                let value: Value = serde_json::from_str(raw.get()).map_err(|_| wrong())?;
                kind.convert(&value, Some(raw.get())).map_err(|expected| invalid_param(&at(), &expected))
            };
            let values = prepared.statement.binds.iter().zip(&prepared.types).map(value).collect::<Result<_, _>>()?;
            steps.push(Step { prepared, values });
        }
        Ok(steps)
    }

    fn answer(&self, sets: Vec<RowSet>) -> Vec<u8> {
        let tells_affected = !self.plan.read_only;
        let mut out = Vec::new();
        match self.plan.mode {
            Mode::Batch => {
                let affected: u64 = sets.iter().map(|set| set.affected).sum();
                out.extend_from_slice(format!("{{\"affectedRows\":{affected},\"items\":{}}}", sets.len()).as_bytes());
            }
            Mode::Transaction => {
                out.push(b'[');
                for (index, set) in sets.into_iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    set.write(tells_affected, &mut out);
                }
                out.push(b']');
            }
            Mode::Query | Mode::Execute => sets.into_iter().for_each(|set| set.write(tells_affected, &mut out)),
        }
        out
    }

    /// The error as the operation wants it called.
    fn mapped(&self, mut error: CallError) -> CallError {
        let state = error.details.get("sqlState").and_then(Value::as_str).unwrap_or_default();
        let mapped = self.plan.error_mapping.get(state).or_else(|| self.plan.error_mapping.get(state.get(..2)?));
        if let Some(code) = mapped {
            error.code = *code;
        }
        error
    }
}

fn step<'a>(prepared: &'a Prepared, params: &Params) -> Result<Step<'a>, CallError> {
    let binds = prepared.statement.binds.iter().zip(&prepared.types);
    let values = binds.map(|(name, kind)| kind.read(params, name)).collect::<Result<_, _>>()?;
    Ok(Step { prepared, values })
}

impl<D: Database> Operation for SqlOperation<D> {
    fn call<'a>(&'a self, call: Call<'a>) -> BoxFuture<'a, Result<Answer, CallError>> {
        Box::pin(self.run(call))
    }

    fn preview(&self, call: Call<'_>) -> Result<Value, CallError> {
        let job = self.job(call.params)?;
        let statements: Vec<Value> = job
            .steps
            .iter()
            .map(|step| {
                let values = step.prepared.statement.binds.iter().zip(&step.values);
                let params: Map<String, Value> = values.map(|(name, value)| (name.clone(), shown(value))).collect();
                json!({"statement": step.prepared.statement.sql, "params": params})
            })
            .collect();
        let preview = json!({
            "type": D::TYPE,
            "readOnly": job.read_only,
            "statements": statements,
        });
        let redacted = call.connection.credential.redact(&preview.to_string());
        Ok(serde_json::from_str(&redacted).unwrap_or(Value::String(redacted)))
    }

    fn join_pages(&self, pages: Vec<Data>) -> Result<Data, CallError> {
        Ok(pages.into_iter().next().unwrap_or_else(Data::null))
    }
}

/// A value as a person reads it.
fn shown(value: &SqlValue) -> Value {
    match value {
        SqlValue::Null => Value::Null,
        SqlValue::Bool(value) => (*value).into(),
        SqlValue::Int(value) => (*value).into(),
        SqlValue::Float(value) => (*value).into(),
        SqlValue::Text(value) => value.as_str().into(),
        SqlValue::Bytes(bytes) => format!("({} bytes)", bytes.len()).into(),
        SqlValue::Array(items) => items.iter().map(shown).collect(),
    }
}

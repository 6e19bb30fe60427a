//! temporary
use integration_model::Problem;
use serde_json::Value;
pub struct Schema { v: jsonschema::Validator, trivial: bool }
impl Schema {
    pub fn compile(s: &Value) -> Result<Self, Vec<Problem>> {
        let v = jsonschema::validator_for(s).map_err(|e| vec![Problem::new("", e.to_string())])?;
        Ok(Self { v, trivial: matches!(s, Value::Bool(true)) || s.as_object().is_some_and(|o| o.is_empty()) })
    }
    pub fn validate(&self, value: &Value) -> Result<(), Vec<Problem>> {
        let p: Vec<_> = self.v.iter_errors(value).map(|e| Problem::new(e.instance_path().to_string(), e.to_string())).collect();
        if p.is_empty() { Ok(()) } else { Err(p) }
    }
    pub fn is_trivial(&self) -> bool { self.trivial }
}

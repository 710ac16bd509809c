//! The fields of a JSON object, taken one by one. A field that no code takes is refused by its name, so that no part of
//! a request is silently ignored.

use std::borrow::Cow;

use axum::http::StatusCode;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::error::ApiError;

/// A JSON object of a request: the body, or an object inside it.
pub struct Fields {
    /// The object's path, such as `messages[1]`; empty for the body.
    at: String,
    values: Map<String, Value>,
}

/// A type that can be read from the fields of a body.
pub trait FromFields: Sized {
    /// Takes the fields that the type supports; any others in the body are refused.
    fn from_fields(fields: &mut Fields) -> Result<Self, ApiError>;
}

impl Fields {
    /// A null field counts as absent, since many clients write out every field that they know.
    fn new(at: String, mut values: Map<String, Value>) -> Fields {
        values.retain(|_, value| !value.is_null());
        Fields { at, values }
    }

    /// Returns the fields of the whole body.
    pub fn of_body(body: Value) -> Result<Fields, ApiError> {
        match body {
            Value::Object(values) => Ok(Fields::new(String::new(), values)),
            other => {
                let message = format!("the body must be an object, found {}", kind(&other));
                Err(ApiError::new(StatusCode::BAD_REQUEST, message))
            }
        }
    }

    /// Returns the fields of an object inside the body; `at` is its path.
    pub fn of(at: String, value: Value) -> Result<Fields, ApiError> {
        match value {
            Value::Object(values) => Ok(Fields::new(at, values)),
            other => Err(wrong(at, "an object", &other)),
        }
    }

    /// Returns the full path of a field, such as `messages[1].content`.
    pub fn name(&self, field: &str) -> String {
        if self.at.is_empty() { field.to_string() } else { format!("{}.{field}", self.at) }
    }

    pub fn has(&self, field: &str) -> bool {
        self.values.contains_key(field)
    }

    pub fn take(&mut self, field: &str) -> Option<Value> {
        self.values.remove(field)
    }

    /// Returns the error that a field is `what`.
    pub fn bad(&self, field: &str, what: impl std::fmt::Display) -> ApiError {
        let name = self.name(field);
        let message = format!("{name} {what}");
        ApiError::bad(name, message)
    }

    /// Returns the error that a field is not of the `wanted` kind.
    pub fn wrong(&self, field: &str, wanted: &str, found: &Value) -> ApiError {
        wrong(self.name(field), wanted, found)
    }

    fn read<T>(
        &mut self,
        field: &str,
        wanted: &str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<Option<T>, ApiError> {
        let Some(value) = self.take(field) else { return Ok(None) };
        read(&value).map(Some).ok_or_else(|| self.wrong(field, wanted, &value))
    }

    pub fn text(&mut self, field: &str) -> Result<Option<String>, ApiError> {
        self.read(field, "a string", |value| value.as_str().map(String::from))
    }

    pub fn flag(&mut self, field: &str) -> Result<Option<bool>, ApiError> {
        self.read(field, "true or false", Value::as_bool)
    }

    pub fn number(&mut self, field: &str) -> Result<Option<f32>, ApiError> {
        self.read(field, "a number", |value| value.as_f64().map(|number| number as f32))
    }

    /// Takes a signed 64-bit integer. `512.0` is one too: languages without integers write them so.
    pub fn whole(&mut self, field: &str) -> Result<Option<i128>, ApiError> {
        self.read(field, "a whole number", |value| match value.as_i64() {
            Some(number) => Some(i128::from(number)),
            None => value.as_u64().map(i128::from).or_else(|| {
                let whole = |number: &f64| number.fract() == 0.0 && number.abs() < 2f64.powi(63);
                value.as_f64().filter(whole).map(|number| number as i128)
            }),
        })
    }

    /// Takes a non-negative integer.
    pub fn count(&mut self, field: &str) -> Result<Option<usize>, ApiError> {
        let Some(number) = self.whole(field)? else { return Ok(None) };
        let negative = |_| self.bad(field, format_args!("must not be negative, found {number}"));
        usize::try_from(number).map(Some).map_err(negative)
    }

    pub fn list(&mut self, field: &str, wanted: &str) -> Result<Option<Vec<Value>>, ApiError> {
        match self.take(field) {
            None => Ok(None),
            Some(Value::Array(items)) => Ok(Some(items)),
            Some(other) => Err(self.wrong(field, wanted, &other)),
        }
    }

    pub fn object(&mut self, field: &str) -> Result<Option<Fields>, ApiError> {
        let at = self.name(field);
        self.take(field).map(|value| Fields::of(at, value)).transpose()
    }

    /// Takes a field of type `T`; errors use the words of its `Deserialize`.
    pub fn own<T: DeserializeOwned>(&mut self, field: &str) -> Result<Option<T>, ApiError> {
        let Some(value) = self.take(field) else { return Ok(None) };
        serde_json::from_value(value)
            .map(Some)
            .map_err(|error| ApiError::bad(self.name(field), error.to_string()))
    }

    /// Refuses the fields that were not taken.
    pub fn finish(&self) -> Result<(), ApiError> {
        match self.values.keys().next() {
            None => Ok(()),
            Some(field) => {
                let name = self.name(&field.chars().take(100).collect::<String>());
                let message = format!("Unrecognized request argument supplied: {name}"); // OpenAI's wording
                Err(ApiError::bad(name, message).code("unknown_parameter"))
            }
        }
    }
}

/// Returns the error that the value at path `name` is not of the `wanted` kind.
pub fn wrong(name: String, wanted: &str, found: &Value) -> ApiError {
    let found = match found {
        Value::Number(number) => Cow::from(number.to_string()),
        other => Cow::from(kind(other)),
    };
    ApiError::bad(name.clone(), format!("{name} must be {wanted}, found {found}"))
}

/// Returns the JSON type name of a value.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn said<T: std::fmt::Debug>(result: Result<T, ApiError>) -> String {
        result.unwrap_err().body()["error"]["message"].as_str().unwrap().to_string()
    }

    #[test]
    fn whole_numbers_are_read_however_they_are_written() {
        let read = |value: Value| Fields::of_body(json!({"n": value})).unwrap().whole("n");
        for (value, number) in [
            (json!(7), 7),
            (json!(512.0), 512),
            (json!(-1), -1),
            (json!(u64::MAX), u64::MAX.into()),
            (json!(1e18), 10i128.pow(18)),
        ] {
            assert_eq!(read(value).unwrap(), Some(number));
        }
        assert_eq!(read(Value::Null).unwrap(), None);
        assert_eq!(said(read(json!(0.5))), "n must be a whole number, found 0.5");
        assert_eq!(said(read(json!("7"))), "n must be a whole number, found a string");
        assert!(read(json!(1e40)).is_err());
        assert_eq!(
            said(Fields::of_body(json!({"n": -2})).unwrap().count("n")),
            "n must not be negative, found -2"
        );
    }

    #[test]
    fn what_is_wrong_and_what_is_left_has_its_name_in_full() {
        let mut body = Fields::of_body(json!({"a": {"b": [], "c": 1, "d": null}})).unwrap();
        let mut inside = body.object("a").unwrap().unwrap();
        assert_eq!(said(inside.text("b")), "a.b must be a string, found a list");
        assert_eq!(said(inside.finish()), "Unrecognized request argument supplied: a.c");
        assert_eq!(inside.finish().unwrap_err().body()["error"]["param"], "a.c");
        assert_eq!(inside.whole("c").unwrap(), Some(1));
        assert!(inside.finish().is_ok() && body.finish().is_ok());
        assert_eq!(said(Fields::of_body(json!([])).map(|_| ())), "the body must be an object, found a list");
    }
}

//! Finds the text in a JSON object.

use serde_json::{Map, Value};

/// The number of fields that an error lists when the user has chosen none.
const NAMED: usize = 10;

/// Returns the string in `field` of an object, or an empty one for null. `a.b` is the field `b` of the object in `a`,
/// as parquet columns are named, unless a field has exactly that name.
pub fn text_of<'a>(value: &'a Value, field: &str) -> Result<&'a str, String> {
    match find(value, field) {
        Some(Value::String(text)) => Ok(text),
        Some(Value::Null) => Ok(""),
        Some(_) => Err(format!("the field `{field}` is not a string")),
        None => Err(lacking(value, field)),
    }
}

fn find<'a>(value: &'a Value, field: &str) -> Option<&'a Value> {
    let object = value.as_object()?;
    let mut dots = field.match_indices('.').map(|(at, _)| at).rev();
    let inside = || dots.find_map(|at| find(object.get(&field[..at])?, &field[at + 1..]));
    object.get(field).or_else(inside)
}

fn lacking(value: &Value, field: &str) -> String {
    let chat = "it is a conversation, not text: finetuning reads such files as they are";
    match value {
        Value::Object(object)
            if ["messages", "conversations"].iter().any(|key| object.contains_key(*key)) =>
        {
            chat.into()
        }
        Value::Object(object) => {
            let mut names = Vec::new();
            name(object, "", &mut names);
            format!("no field `{field}`; choose one with --field: {}", names.join(", "))
        }
        Value::Array(items) if items.iter().any(Value::is_object) => chat.into(),
        _ => format!("not an object with a field `{field}`"),
    }
}

/// Collects the names of the first fields; those in inner objects get the outer names as a prefix.
fn name(object: &Map<String, Value>, before: &str, names: &mut Vec<String>) {
    for (key, value) in object {
        match value {
            _ if names.len() == NAMED => return,
            Value::Object(inner) => name(inner, &format!("{before}{key}."), names),
            _ => names.push(format!("{before}{key}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_dot_leads_into_an_object_unless_it_is_part_of_a_name() {
        let value = json!({
            "a": {"b": "inside", "c.d": {"e": "deep"}}, "x.y": "whole", "x": {"y": "not this"}, "n": {"m": null}
        });
        let text = |field: &str| text_of(&value, field);
        assert_eq!(text("a.b").unwrap(), "inside");
        assert_eq!(text("a.c.d.e").unwrap(), "deep");
        assert_eq!(text("x.y").unwrap(), "whole");
        assert_eq!(text("n.m").unwrap(), "");
        assert_eq!(text("a").unwrap_err(), "the field `a` is not a string");
        for field in ["a.q", "a.b.q", ".", "a.", "q", ""] {
            let error = text(field).unwrap_err();
            assert!(error.ends_with("choose one with --field: a.b, a.c.d.e, x.y, x.y, n.m"), "{error}");
        }
    }
}

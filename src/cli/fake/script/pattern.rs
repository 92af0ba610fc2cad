//! Patterns for records, and templates that are filled with the values which patterns bound. Pure.

use std::collections::BTreeMap;

use serde_json::Value;

/// Bound values, by name.
pub(super) type Names = BTreeMap<String, Value>;

/// Matches any value, but not a missing key.
const ANYTHING: &str = "_";
/// Matches a missing key.
const ABSENT: &str = "absent";

/// The most bytes of a record that an error shows.
const SHOWN: usize = 300;

/// Compares a value with a pattern and returns the values that the pattern binds. The error names the
/// first difference.
///
/// An object may have more keys than its pattern; a list must be as long as its pattern.
pub(super) fn compare(pattern: &Value, value: &Value, names: &Names) -> Result<Names, String> {
    let mut found = Names::new();
    let mut path = String::new();
    descend(pattern, value, names, &mut found, &mut path)?;
    Ok(found)
}

fn descend(
    pattern: &Value,
    value: &Value,
    names: &Names,
    found: &mut Names,
    path: &mut String,
) -> Result<(), String> {
    if let Some(name) = whole_name(pattern) {
        if name == ABSENT {
            return Err(format!("{}: it should not be there", place(path)));
        }
        if let Some(bound) = name.strip_prefix('=') {
            return match found.get(bound).or_else(|| names.get(bound)) {
                Some(wanted) => same(wanted, value, path),
                None => Err(format!("{}: nothing is bound to `{bound}`", place(path))),
            };
        }
        if name != ANYTHING {
            found.insert(name.to_owned(), value.clone());
        }
        return Ok(());
    }
    match (pattern, value) {
        (Value::Object(wanted), Value::Object(has)) => {
            for (key, pattern) in wanted {
                let length = path.len();
                path.push('/');
                path.push_str(key);
                match has.get(key) {
                    Some(value) => descend(pattern, value, names, found, path)?,
                    None if whole_name(pattern) == Some(ABSENT) => {}
                    None => return Err(format!("{}: it is missing", place(path))),
                }
                path.truncate(length);
            }
            Ok(())
        }
        (Value::Array(wanted), Value::Array(has)) if wanted.len() == has.len() => {
            for (index, (pattern, value)) in wanted.iter().zip(has).enumerate() {
                let length = path.len();
                path.push_str(&format!("/{index}"));
                descend(pattern, value, names, found, path)?;
                path.truncate(length);
            }
            Ok(())
        }
        _ => same(pattern, value, path),
    }
}

fn same(wanted: &Value, value: &Value, path: &str) -> Result<(), String> {
    if wanted == value {
        return Ok(());
    }
    let (wanted, value) = (wanted.to_string(), value.to_string());
    let (wanted, value) = (shown(wanted.as_bytes()), shown(value.as_bytes()));
    Err(format!("{}: expected {wanted}, got {value}", place(path)))
}

fn place(path: &str) -> &str {
    if path.is_empty() { "the record" } else { path }
}

/// Returns the name if the pattern is a string of the form `${name}`.
fn whole_name(pattern: &Value) -> Option<&str> {
    let name = pattern.as_str()?.strip_prefix("${")?.strip_suffix('}')?;
    (!name.contains('}')).then_some(name)
}

/// Replaces each `${name}` by its value. In JSON text, a string of the form `${name}` becomes the value
/// itself; inside a longer string the value becomes text.
pub(super) fn fill(template: &str, names: &Names, json: bool) -> Result<String, String> {
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(at) = rest.find("${") {
        let (before, tail) = (&rest[..at], &rest[at + 2..]);
        let Some((name, after)) = tail.split_once('}') else { break };
        let value = names.get(name).ok_or_else(|| format!("nothing is bound to `{name}`"))?;
        out.push_str(before);
        rest = after;
        // A quote behind a backslash is a part of the string.
        let is_begun = before.ends_with('"') && !before.ends_with("\\\"");
        if json && is_begun && after.starts_with('"') {
            out.pop();
            out.push_str(&value.to_string());
            rest = &after[1..];
        } else {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            if json {
                let quoted = Value::String(text).to_string();
                out.push_str(&quoted[1..quoted.len() - 1]);
            } else {
                out.push_str(&text);
            }
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// Formats a record for an error, as one bounded line.
pub(super) fn shown(record: &[u8]) -> String {
    let cut = &record[..record.len().min(SHOWN)];
    let text: String = String::from_utf8_lossy(cut)
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let more = if record.len() > SHOWN { "..." } else { "" };
    format!("{text}{more}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn found(pattern: &Value, value: &Value) -> Result<Names, String> {
        compare(pattern, value, &Names::from([("known".to_owned(), json!("k-1"))]))
    }

    #[test]
    fn pattern_matches_a_subset_of_keys() {
        let record = json!({"a": {"b": [1, {"c": 2, "d": 3}]}, "e": null});
        for fits in [json!({}), json!({"a": {"b": [1, {"c": 2}]}}), json!({"e": null})] {
            assert_eq!(found(&fits, &record), Ok(Names::new()), "{fits}");
        }
        for (pattern, wanted) in [
            (json!({"a": {"b": [1]}}), "/a/b: expected [1], got [1,{\"c\":2,\"d\":3}]"),
            (json!({"a": {"b": [1, {"c": 9}]}}), "/a/b/1/c: expected 9, got 2"),
            (json!({"f": 1}), "/f: it is missing"),
            (json!([]), "the record: expected []"),
            (json!({"a": "${absent}"}), "/a: it should not be there"),
        ] {
            let error = found(&pattern, &record).unwrap_err();
            assert!(error.starts_with(wanted), "{error}");
        }
    }

    #[test]
    fn names_bind_compare_and_match_absence() {
        let record = json!({"id": "k-1", "n": {"deep": 7}});
        let names = found(&json!({"id": "${=known}", "n": "${n}"}), &record).unwrap();
        assert_eq!(names, Names::from([("n".to_owned(), json!({"deep": 7}))]));
        assert!(found(&json!({"n": "${=known}"}), &record).is_err());
        let error = found(&json!({"id": "${=who}"}), &record).unwrap_err();
        assert_eq!(error, "/id: nothing is bound to `who`");
        assert_eq!(found(&json!({"id": "${_}", "x": "${absent}"}), &record), Ok(Names::new()));
        assert!(found(&json!({"x": "${_}"}), &record).is_err());
    }

    #[test]
    fn bound_value_keeps_its_type() {
        let names = Names::from([("id".to_owned(), json!("a\"b")), ("n".to_owned(), json!(17))]);
        let json = r#"{"z":1.50,"id":"${id}","n":"${n}","t":"<${id}|${n}>"}"#;
        let wanted = r#"{"z":1.50,"id":"a\"b","n":17,"t":"<a\"b|17>"}"#;
        assert_eq!(fill(json, &names, true).as_deref(), Ok(wanted));
        assert_eq!(fill(r#"{"t":"\"${n}"}"#, &names, true).as_deref(), Ok(r#"{"t":"\"17"}"#));
        assert_eq!(fill("${id} ${n} ${", &names, false).as_deref(), Ok("a\"b 17 ${"));
        assert_eq!(fill("${who}", &names, false).unwrap_err(), "nothing is bound to `who`");
    }
}

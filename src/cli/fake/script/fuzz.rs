//! A script with any text, and any record that it compares: the body of a fuzz target.

use serde_json::{Value, json};

use super::pattern::{Names, compare, fill, shown};
use super::steps::{self, Act, Step};
use crate::cli::fake::replay;

/// Parses a script, fills its templates, and compares its patterns with the values that it sends.
pub(crate) fn target(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(value) = serde_json::from_str::<Value>(text) {
        let mut compact = Vec::new();
        replay::compact(text, &mut compact);
        assert_eq!(serde_json::from_slice::<Value>(&compact).expect("still JSON"), value);
        let pretty = serde_json::to_string_pretty(&value).expect("JSON");
        compact.clear();
        replay::compact(&pretty, &mut compact);
        assert_eq!(compact, value.to_string().into_bytes(), "{pretty}");
    }
    match steps::parse(text) {
        Ok(steps) => {
            let mut all = Vec::new();
            collect(&steps, &mut all, 0);
            check(&all);
        }
        Err(why) => assert!(why.starts_with("step ") || why.starts_with("a script "), "{why}"),
    }
}

/// Collects the steps of all blocks and rules.
fn collect<'a>(steps: &'a [Step], all: &mut Vec<&'a Act>, depth: usize) {
    assert!(depth < 20, "blocks nest no deeper than their limit");
    for step in steps {
        all.push(&step.act);
        match &step.act {
            Act::Repeat { steps, .. } => collect(steps, all, depth + 1),
            Act::On(rule) => collect(&rule.steps, all, depth + 1),
            _ => {}
        }
    }
}

fn check(acts: &[&Act]) {
    let mut names =
        Names::from([("id".to_owned(), Value::from("a\"b")), ("n".to_owned(), 1.into())]);
    for act in acts {
        match act {
            Act::Send(template) => {
                let Ok(filled) = fill(template, &names, true) else { continue };
                if !template.contains("${") {
                    assert_eq!(&filled, template);
                }
                let Ok(sent) = serde_json::from_str::<Value>(&filled) else {
                    // The value of a name in a key need not be a text, and half of a surrogate is none.
                    let template = serde_json::from_str::<Value>(template);
                    assert!(template.is_err() || template.is_ok_and(|it| has_key(&it)), "{filled}");
                    continue;
                };
                let patterns = acts.iter().filter_map(|act| match act {
                    Act::Expect { pattern, .. } => Some(pattern),
                    Act::On(rule) => Some(&rule.pattern),
                    _ => None,
                });
                let found: Vec<_> = patterns.map(|it| compare(it, &sent, &names)).collect();
                found.into_iter().flatten().for_each(|bound| names.extend(bound));
                if !filled.contains("${") {
                    assert_eq!(compare(&sent, &sent, &names), Ok(Names::new()), "{filled}");
                    assert!(compare(&sent, &json!([&sent]), &names).is_err(), "{filled}");
                    let is_empty = compare(&sent, &json!({}), &names).is_ok();
                    assert_eq!(is_empty, sent == json!({}), "{filled}");
                }
                assert!(!shown(filled.as_bytes()).contains(char::is_control));
            }
            Act::Raw(template) | Act::Stderr(template) => drop(fill(template, &names, false)),
            _ => {}
        }
    }
}

/// Whether a name stands in a key.
fn has_key(template: &Value) -> bool {
    match template {
        Value::Object(members) => {
            members.iter().any(|(key, value)| key.contains("${") || has_key(value))
        }
        Value::Array(values) => values.iter().any(has_key),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn any_script_is_parsed_or_refused_by_its_step() {
        crate::cli::fuzz_driver::run("script", super::target);
    }
}

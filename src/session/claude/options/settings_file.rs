//! Floor 4. `--settings`: a path or JSON, and the sandbox merged into it.

use std::borrow::Cow;
use std::fs;

use serde_json::{Map, Value};

use crate::error::Result;

use super::{Options, refused};

/// The value of the flag; empty where there is none.
pub(super) fn merged(options: &Options) -> Result<Cow<'_, str>> {
    let Some(sandbox) = &options.sandbox else {
        return Ok(Cow::Borrowed(&options.settings));
    };
    let text = options.settings.trim();
    let mut settings: Map<String, Value> = if text.is_empty() {
        Map::new()
    } else if text.starts_with('{') {
        parse(text, "is no JSON object")?
    } else {
        let path = &options.settings;
        let what = format!("the file `{}` is to get the sandbox", path.escape_debug());
        let text = fs::read_to_string(path).map_err(|error| {
            refused("settings", format!("{what} and cannot be read")).cause(error)
        })?;
        parse(&text, &format!("{what} and is no JSON object"))?
    };
    let sandbox: Value = sandbox.json()?;
    if !sandbox.is_object() {
        return Err(refused("sandbox", "is no JSON object"));
    }
    settings.insert("sandbox".into(), sandbox);
    Ok(Cow::Owned(Value::Object(settings).to_string()))
}

fn parse(text: &str, what: &str) -> Result<Map<String, Value>> {
    serde_json::from_str(text).map_err(|error| refused("settings", format!("{what}: {error}")))
}

//! Parses the text of a script into steps, all of which are checked before the first is played.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::RawValue;

use super::super::{args, replay};

/// One step and its place in the script.
#[derive(Clone, Debug)]
pub(super) struct Step {
    /// `step 3 (expect)`; the steps of a block are `step 3.1`.
    pub(super) place: String,
    pub(super) act: Act,
}

#[derive(Clone, Debug)]
pub(super) enum Act {
    Expect {
        pattern: Value,
        skip: bool,
    },
    ExpectEnd,
    /// No record may arrive for this time.
    Quiet(Duration),
    Delay(Duration),
    /// JSON text in which names are replaced.
    Send(String),
    Raw(String),
    RawHex(Vec<u8>),
    Stderr(String),
    Close(Stream),
    Exit(u8),
    Die(i32),
    /// `count` is `None` for an endless flood.
    Flood {
        count: Option<u64>,
        size: u64,
        kind: String,
    },
    Repeat {
        times: Option<u64>,
        steps: Vec<Step>,
    },
    On(Rule),
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Stream {
    Stdin,
    Stdout,
    Stderr,
}

/// The answer to every matching record, whenever it arrives.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) pattern: Value,
    pub(super) steps: Vec<Step>,
    pub(super) after: Duration,
    /// How often the rule still applies; `None` means without limit.
    pub(super) times: Option<u64>,
}

/// The verbs, and the keys that each may have. The first one found is the verb.
const VERBS: &[(&str, &[&str])] = &[
    ("on", &["send", "steps", "after", "times"]),
    ("repeat", &["steps"]),
    ("expect", &["skip"]),
    ("expect_end", &[]),
    ("quiet", &[]),
    ("delay", &[]),
    ("send", &[]),
    ("raw", &[]),
    ("raw_hex", &[]),
    ("stderr", &[]),
    ("close", &[]),
    ("exit", &[]),
    ("flood", &["size", "type"]),
];

/// The longest script and the deepest block. More is a mistake.
const MAX_STEPS: usize = 100_000;
const MAX_DEPTH: usize = 16;

/// The largest record of a flood: 1 GiB.
const FLOOD_SIZE_MAX: u64 = 1 << 30;

type Fields<'a> = BTreeMap<String, &'a RawValue>;

/// Parses a script: one JSON object per step, and comment lines that begin with `#`.
pub(super) fn parse(text: &str) -> Result<Vec<Step>, String> {
    let text: String = text
        .lines()
        .map(|line| if line.trim_start().starts_with('#') { "" } else { line })
        .flat_map(|line| [line, "\n"])
        .collect();
    let mut steps = Vec::new();
    for fields in serde_json::Deserializer::from_str(&text).into_iter::<Fields<'_>>() {
        let number = steps.len() + 1;
        let fields = fields.map_err(|error| format!("step {number}: {error}"))?;
        steps.push(step(&fields, &number.to_string(), 0)?);
        if steps.len() > MAX_STEPS {
            return Err(format!("a script has at most {MAX_STEPS} steps"));
        }
    }
    Ok(steps)
}

fn step(fields: &Fields<'_>, number: &str, depth: usize) -> Result<Step, String> {
    let Some((verb, beside)) = VERBS.iter().find(|(verb, _)| fields.contains_key(*verb)) else {
        let known: Vec<&str> = VERBS.iter().map(|(verb, _)| *verb).collect();
        return Err(format!("step {number}: no verb; there are {}", known.join(", ")));
    };
    let place = format!("step {number} ({verb})");
    let stranger = fields.keys().find(|key| *key != verb && !beside.contains(&key.as_str()));
    if let Some(key) = stranger {
        return Err(format!("{place}: `{key}` does not go with it"));
    }
    match act(verb, fields, number, depth) {
        Ok(act) => Ok(Step { place, act }),
        // The error of an inner step names its place already.
        Err(error) if error.starts_with("step ") => Err(error),
        Err(error) => Err(format!("{place}: {error}")),
    }
}

fn act(verb: &str, fields: &Fields<'_>, number: &str, depth: usize) -> Result<Act, String> {
    Ok(match verb {
        "on" => Act::On(rule(fields, number, depth)?),
        "repeat" => Act::Repeat {
            times: times(get(fields, "repeat")?)?,
            steps: block(fields, number, depth)?,
        },
        "expect" => Act::Expect {
            pattern: get(fields, "expect")?,
            skip: optional(fields, "skip")?.unwrap_or(false),
        },
        "expect_end" => Act::ExpectEnd,
        "quiet" => Act::Quiet(milliseconds(fields, "quiet")?),
        "delay" => Act::Delay(milliseconds(fields, "delay")?),
        "send" => Act::Send(compact(fields["send"])),
        "raw" => Act::Raw(get(fields, "raw")?),
        "raw_hex" => Act::RawHex(unhex(&get::<String>(fields, "raw_hex")?)?),
        "stderr" => Act::Stderr(get(fields, "stderr")?),
        "close" => Act::Close(match get::<String>(fields, "close")?.as_str() {
            "stdin" => Stream::Stdin,
            "stdout" => Stream::Stdout,
            "stderr" => Stream::Stderr,
            _ => return Err("expected stdin, stdout or stderr".to_owned()),
        }),
        "exit" => match get(fields, "exit")? {
            Value::String(name) => Act::Die(args::parse_signal(&name)?),
            code => Act::Exit(
                serde_json::from_value(code)
                    .map_err(|_| "expected a status, 0 to 255, or a signal's name".to_owned())?,
            ),
        },
        "flood" => Act::Flood {
            count: times(get(fields, "flood")?)?,
            size: match optional(fields, "size")?.unwrap_or(1024) {
                size @ 64..=FLOOD_SIZE_MAX => size,
                _ => return Err("`size` is 64 bytes to 1 GiB".to_owned()),
            },
            kind: optional(fields, "type")?.unwrap_or_else(|| "flood".to_owned()),
        },
        _ => return Err("not a verb".to_owned()),
    })
}

fn rule(fields: &Fields<'_>, number: &str, depth: usize) -> Result<Rule, String> {
    let mut steps =
        if fields.contains_key("steps") { block(fields, number, depth)? } else { Vec::new() };
    if let Some(send) = fields.get("send") {
        let place = format!("step {number} (on)");
        steps.insert(0, Step { place, act: Act::Send(compact(send)) });
    }
    // A rule runs during the wait of another step, which a step that waits would delay.
    let waits = |step: &&Step| {
        matches!(
            step.act,
            Act::Expect { .. }
                | Act::ExpectEnd
                | Act::Quiet(_)
                | Act::Delay(_)
                | Act::Repeat { .. }
                | Act::On(_)
        )
    };
    if let Some(step) = steps.iter().find(waits) {
        return Err(format!("{}: a rule may not wait; it has `after`", step.place));
    }
    Ok(Rule {
        pattern: get(fields, "on")?,
        steps,
        after: Duration::from_millis(optional(fields, "after")?.unwrap_or(0)),
        times: optional(fields, "times")?,
    })
}

fn block(fields: &Fields<'_>, number: &str, depth: usize) -> Result<Vec<Step>, String> {
    if depth >= MAX_DEPTH {
        return Err(format!("blocks go {MAX_DEPTH} deep"));
    }
    let text = fields.get("steps").ok_or("`steps` is missing")?.get();
    let inner: Vec<Fields<'_>> = serde_json::from_str(text).map_err(|e| format!("steps: {e}"))?;
    let numbered = inner.iter().enumerate();
    numbered.map(|(at, fields)| step(fields, &format!("{number}.{}", at + 1), depth + 1)).collect()
}

fn get<T: DeserializeOwned>(fields: &Fields<'_>, key: &str) -> Result<T, String> {
    serde_json::from_str(fields[key].get()).map_err(|error| format!("{key}: {error}"))
}

fn optional<T: DeserializeOwned>(fields: &Fields<'_>, key: &str) -> Result<Option<T>, String> {
    if fields.contains_key(key) { get(fields, key).map(Some) } else { Ok(None) }
}

/// Parses a number or `"forever"`.
fn times(value: Value) -> Result<Option<u64>, String> {
    match (value.as_u64(), value.as_str()) {
        (Some(times), _) => Ok(Some(times)),
        (_, Some("forever")) => Ok(None),
        _ => Err("expected a number or \"forever\"".to_owned()),
    }
}

fn milliseconds(fields: &Fields<'_>, key: &str) -> Result<Duration, String> {
    // At most a day.
    let ms: u64 = get(fields, key)?;
    if ms > 86_400_000 { Err("too long".to_owned()) } else { Ok(Duration::from_millis(ms)) }
}

fn compact(value: &RawValue) -> String {
    let mut out = Vec::new();
    replay::compact(value.get(), &mut out);
    // Only blanks were removed, so the text is still UTF-8.
    String::from_utf8_lossy(&out).into_owned()
}

fn unhex(text: &str) -> Result<Vec<u8>, String> {
    let digits: Option<Vec<u32>> =
        text.chars().filter(|c| !c.is_whitespace()).map(|c| c.to_digit(16)).collect();
    let digits =
        digits.filter(|digits| digits.len() % 2 == 0).ok_or("expected pairs of hex digits")?;
    let bytes = digits.chunks(2).filter_map(|pair| u8::try_from(pair[0] * 16 + pair[1]).ok());
    Ok(bytes.collect())
}

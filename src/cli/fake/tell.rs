//! F5, fake: what the host made of its options, as the first record.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;

use serde::Serialize;

use super::Agent;
use super::ends::Stop;

#[derive(Serialize)]
struct Told {
    #[serde(rename = "type")]
    kind: &'static str,
    args: Vec<String>,
    env: BTreeMap<String, String>,
    cwd: String,
    uid: u32,
}

/// Bytes that are not UTF-8 become the replacement character.
fn text(bytes: impl Into<OsString>) -> String {
    bytes.into().to_string_lossy().into_owned()
}

pub(super) fn command(agent: &mut Agent<'_>) -> Result<(), Stop> {
    let told = Told {
        kind: "command",
        args: agent.args.talk.rest.iter().map(text).collect(),
        env: env::vars_os().map(|(key, value)| (text(key), text(value))).collect(),
        cwd: text(env::current_dir()?),
        uid: rustix::process::getuid().as_raw(),
    };
    let told = serde_json::to_vec(&told).map_err(|error| Stop::Failed(error.to_string()))?;
    agent.output.record(&told)
}

//! Floor 4. `--mcp-config`: the servers that were set, and those of this process.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ffi::OsStr;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::error::Result;
use crate::record::Record;

use super::{Entries, Options, refused};

/// A server that lives in this process; its messages come as `mcp_message` requests.
const SDK: &str = "sdk";

/// The value of the flag; empty where there is none.
pub(super) fn config<'a>(options: &'a Options, own: &[&str]) -> Result<Cow<'a, OsStr>> {
    if !options.mcp_config.is_empty() {
        if !options.mcp_servers.is_empty() || !own.is_empty() {
            let what = "excludes mcp_server and the MCP servers of this process";
            return Err(refused("mcp_config", what).remedy("set each server with mcp_server"));
        }
        return Ok(Cow::Borrowed(&options.mcp_config));
    }
    let mut servers = Vec::new();
    for (name, config) in &options.mcp_servers {
        let sdk = is_sdk(config);
        if own.contains(&name.as_str()) && !sdk {
            let what = format!("`{}` is the name of a server of this process", name.escape_debug());
            return Err(refused("mcp_server", what).remedy("give one of them another name"));
        }
        servers.push((name.clone(), if sdk { without_instance(config)? } else { config.clone() }));
    }
    let named: BTreeSet<String> = servers.iter().map(|(name, _)| name.clone()).collect();
    for name in own.iter().filter(|name| !named.contains(**name)) {
        servers.push(((*name).to_owned(), Record::from_json(&Own { kind: SDK, name })?));
    }
    if servers.is_empty() {
        return Ok(Cow::Borrowed(OsStr::new("")));
    }
    let all = Record::from_json(&Config { servers: Entries(&servers) })?;
    Ok(Cow::Owned(all.as_str()?.into()))
}

#[derive(Serialize)]
struct Config<'a> {
    #[serde(rename = "mcpServers")]
    servers: Entries<'a>,
}

#[derive(Serialize)]
struct Own<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    name: &'a str,
}

fn is_sdk(config: &Record) -> bool {
    config.envelope().is_ok_and(|found| found.kind.as_deref() == Some(SDK))
}

/// What only this process can use is not for the CLI.
fn without_instance(config: &Record) -> Result<Record> {
    let mut config: Map<String, Value> = config.json()?;
    config.remove("instance");
    Record::from_json(&config)
}

//! The two eras of MCP: what the answers to the first requests say about a server, and what the
//! requests of each era carry. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use crate::error::{Error, ErrorKind, Result};
use crate::record::Record;
use crate::session::protocol::{object, object_of};

/// The versions of the modern era, newest first.
pub(super) const MODERN: [&str; 1] = ["2026-07-28"];
/// The versions of the legacy era, newest first.
pub(super) const LEGACY: [&str; 4] = ["2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"];

/// Codes that only servers of the modern era send.
const MODERN_CODES: std::ops::RangeInclusive<i64> = -32022..=-32020;

/// An object whose values stay JSON text, so that numbers keep their digits.
pub(super) type Object = BTreeMap<String, Box<RawValue>>;

/// How a server speaks MCP. The names are those of the specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Era {
    /// Since 2026-07-28: no handshake. Every request carries the version and the capabilities of the
    /// client. The server sends no requests; a result says which input is missing.
    Modern,
    /// Up to 2025-11-25: a handshake with `initialize`. The server may send requests.
    Legacy,
}

/// What a server says about itself.
#[derive(Clone, Debug)]
pub struct Server {
    era: Era,
    version: &'static str,
    about: Record,
    hello: Box<Hello>,
}

impl Server {
    /// Returns the era of the server.
    #[must_use]
    pub fn era(&self) -> Era {
        self.era
    }

    /// Returns the version of the protocol that both sides use, as `2026-07-28`.
    #[must_use]
    pub fn version(&self) -> &str {
        self.version
    }

    /// Returns the name of the server. The server chooses it and nothing verifies it.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.hello.server_info.as_ref()?.name.as_deref()
    }

    /// Returns the version of the server program.
    #[must_use]
    pub fn release(&self) -> Option<&str> {
        self.hello.server_info.as_ref()?.version.as_deref()
    }

    /// Returns how a model should use the server, in the server's words.
    #[must_use]
    pub fn instructions(&self) -> Option<&str> {
        self.hello.instructions.as_deref()
    }

    /// Returns a capability of the server as JSON: `tools`, `resources`, `prompts`, ...
    #[must_use]
    pub fn capability(&self, name: &str) -> Option<&str> {
        self.hello.capabilities.get(name).map(|value| value.get())
    }

    /// Returns whether a capability of the server has this flag.
    pub(super) fn announces(&self, capability: &str, flag: &str) -> bool {
        let value = self.hello.capabilities.get(capability);
        let value = value.and_then(|value| object::<Object>(value));
        value.is_some_and(|value| value.get(flag).is_some_and(|flag| flag.get() == "true"))
    }

    /// Returns the result of `server/discover` or `initialize`, as it came.
    #[must_use]
    pub fn about(&self) -> &Record {
        &self.about
    }

    fn read(era: Era, version: &'static str, about: &Record) -> Option<Self> {
        let mut hello: Box<Hello> = object_of(about.as_bytes())?;
        // A result of the modern era names the server in `_meta`.
        hello.server_info = hello.server_info.or_else(|| hello.meta.server_info.take());
        Some(Self { era, version, about: about.clone(), hello })
    }
}

/// The result of `server/discover` or `initialize`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Hello {
    supported_versions: Option<Vec<String>>,
    protocol_version: Option<String>,
    #[serde(default)]
    capabilities: Object,
    instructions: Option<String>,
    server_info: Option<Implementation>,
    #[serde(rename = "_meta", default)]
    meta: HelloMeta,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct HelloMeta {
    #[serde(rename = "io.modelcontextprotocol/serverInfo")]
    server_info: Option<Implementation>,
}

#[derive(Clone, Debug, Deserialize)]
struct Implementation {
    name: Option<String>,
    version: Option<String>,
}

/// What to do after the answer to `server/discover`.
#[derive(Debug)]
pub(super) enum Probed {
    Modern(Server),
    /// Shake hands, beginning with this version.
    Legacy(&'static str),
    /// The two sides have no version in common, or there was no answer.
    Failed(Error),
}

/// Reads the answer to `server/discover`.
///
/// Only a result of that method and an error with a code of the modern era are modern. Servers of the
/// legacy era answer an unknown method before the handshake with an error of any code, or with any
/// result.
pub(super) fn probed(answer: Result<Record>) -> Probed {
    match answer {
        Ok(about) => match object_of::<Hello>(about.as_bytes()) {
            Some(Hello { supported_versions: Some(versions), .. }) => {
                discovered(&versions, &about).unwrap_or_else(|| older(&versions, about.as_bytes()))
            }
            _ => Probed::Legacy(LEGACY[0]),
        },
        Err(error) => {
            let Some(response) = error.response() else { return Probed::Failed(error) };
            let ErrorObject { code, data } = object_of(response.as_bytes()).unwrap_or_default();
            if !MODERN_CODES.contains(&code) {
                return Probed::Legacy(LEGACY[0]);
            }
            match data.and_then(object::<Supported>) {
                Some(Supported { supported }) => older(&supported, response.as_bytes()),
                None => Probed::Failed(error),
            }
        }
    }
}

fn discovered(versions: &[String], about: &Record) -> Option<Probed> {
    let version = common(&MODERN, versions)?;
    Server::read(Era::Modern, version, about).map(Probed::Modern)
}

/// Chooses a version of the legacy era from those that the server lists.
fn older(versions: &[String], answer: &[u8]) -> Probed {
    match common(&LEGACY, versions) {
        Some(version) => Probed::Legacy(version),
        None => Probed::Failed(no_common_version(&versions.join(", "), answer)),
    }
}

fn common(own: &[&'static str], listed: &[String]) -> Option<&'static str> {
    own.iter().find(|own| listed.iter().any(|version| version == *own)).copied()
}

/// Reads the answer to `initialize`.
pub(super) fn initialized(about: &Record) -> Result<Server> {
    let hello = object_of::<Hello>(about.as_bytes());
    let version = hello.and_then(|hello| hello.protocol_version).unwrap_or_default();
    common(&LEGACY, std::slice::from_ref(&version))
        .and_then(|version| Server::read(Era::Legacy, version, about))
        .ok_or_else(|| no_common_version(&version, about.as_bytes()))
}

fn no_common_version(theirs: &str, answer: &[u8]) -> Error {
    let own = [&MODERN[..], &LEGACY[..]].concat().join(", ");
    let what = format!("no common version of MCP: the server speaks [{theirs}], this client {own}");
    Error::new(ErrorKind::AgentError, "connect", what).answered(String::from_utf8_lossy(answer))
}

/// The error object of a response, as far as the probe needs it. Data of another shape must not hide the
/// code.
#[derive(Default, Deserialize)]
struct ErrorObject<'a> {
    code: i64,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Supported {
    supported: Vec<String>,
}

/// What this client says about itself: in each request of the modern era, in the handshake of the
/// legacy era.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    pub(super) info: Box<RawValue>,
    pub(super) capabilities: Object,
}

impl Identity {
    /// Returns the params of `initialize`.
    pub(super) fn handshake(&self, version: &str) -> Result<Record> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Initialize<'a> {
            protocol_version: &'a str,
            capabilities: &'a Object,
            client_info: &'a RawValue,
        }
        let (capabilities, client_info) = (&self.capabilities, &*self.info);
        Record::from_json(&Initialize { protocol_version: version, capabilities, client_info })
    }

    /// Returns whether the client has announced extensions of the protocol.
    pub(super) fn has_extensions(&self) -> bool {
        self.capabilities.contains_key("extensions")
    }

    /// Adds the keys of the modern era to `_meta`. Keys that the caller has set there stay.
    pub(super) fn stamp(&self, version: &str, params: &mut Object) -> Result<()> {
        let mut meta: Object = match params.get("_meta") {
            Some(meta) => object(meta).ok_or_else(|| not_an_object("`_meta`"))?,
            None => Object::new(),
        };
        let own = [
            ("protocolVersion", raw(version)?),
            ("clientCapabilities", raw(&self.capabilities)?),
            ("clientInfo", self.info.clone()),
        ];
        for (key, value) in own {
            meta.entry(format!("io.modelcontextprotocol/{key}")).or_insert(value);
        }
        params.insert("_meta".into(), raw(&meta)?);
        Ok(())
    }
}

/// Reads the params of a request, which are an object or absent.
pub(super) fn params(body: &Record) -> Result<Object> {
    if body.as_bytes() == b"null" {
        return Ok(Object::new());
    }
    object_of(body.as_bytes()).ok_or_else(|| not_an_object("the params of a request"))
}

fn not_an_object(what: &str) -> Error {
    Error::new(ErrorKind::InvalidRecord, "request", format!("{what} must be an object in MCP"))
}

/// Returns a value as JSON text.
pub(super) fn raw(value: &(impl Serialize + ?Sized)) -> Result<Box<RawValue>> {
    to_raw_value(value)
        .map_err(|error| Error::new(ErrorKind::InvalidRecord, "encode", error.to_string()))
}

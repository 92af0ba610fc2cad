//! Floor 4. Hooks: registered in `initialize`, called back by id.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::record::Record;
use crate::session::failure::RpcError;
use crate::session::serve::AgentRequest;

type Answer = Result<Record, RpcError>;
type Hook = Arc<dyn Fn(HookRequest) -> Pin<Box<dyn Future<Output = Answer> + Send>> + Send + Sync>;

/// A hook is called.
#[derive(Clone, Debug)]
pub struct HookRequest {
    input: Record,
    tool_use_id: Option<String>,
}

impl HookRequest {
    /// What the hook is told, byte for byte: `hook_event_name`, `tool_name`, ...
    #[must_use]
    pub fn input(&self) -> &Record {
        &self.input
    }

    /// The tool use it is about, if it is about one.
    #[must_use]
    pub fn tool_use_id(&self) -> Option<&str> {
        self.tool_use_id.as_deref()
    }
}

#[derive(Clone, Debug, Serialize)]
struct Matcher {
    matcher: Option<String>,
    #[serde(rename = "hookCallbackIds")]
    ids: Vec<String>,
    /// Seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout: Option<f64>,
}

/// All hooks of a session. Ids are `hook_0`, `hook_1`, ... in the order of registration.
#[derive(Clone, Default)]
pub(super) struct Hooks {
    events: BTreeMap<String, Vec<Matcher>>,
    by_id: HashMap<String, Hook>,
}

impl Hooks {
    pub(super) fn add<F, R, T>(
        &mut self,
        event: &str,
        matcher: Option<&str>,
        timeout: Option<Duration>,
        hook: F,
    ) where
        F: Fn(HookRequest) -> R + Send + Sync + 'static,
        R: Future<Output = Result<T, RpcError>> + Send + 'static,
        T: Serialize,
    {
        let id = format!("hook_{}", self.by_id.len());
        self.events.entry(event.into()).or_default().push(Matcher {
            matcher: matcher.map(Into::into),
            ids: vec![id.clone()],
            timeout: timeout.map(|limit| limit.as_secs_f64()),
        });
        let hook = Arc::new(hook);
        let hook: Hook = Arc::new(move |request| {
            let hook = Arc::clone(&hook);
            Box::pin(async move { Ok(Record::from_json(&(*hook)(request).await?)?) })
        });
        self.by_id.insert(id, hook);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// The `hooks` of `initialize`; `null` where there are none.
    pub(super) fn registration(&self) -> Option<impl Serialize> {
        (!self.is_empty()).then_some(&self.events)
    }

    pub(super) async fn call(self: Arc<Self>, request: AgentRequest) -> Answer {
        #[derive(Deserialize)]
        struct Called<'a> {
            callback_id: String,
            #[serde(borrow, default)]
            input: Option<&'a RawValue>,
            #[serde(default)]
            tool_use_id: Option<String>,
        }
        let body = request.body();
        let called: Called<'_> = serde_json::from_slice(body.as_bytes()).map_err(|error| {
            RpcError::new(format!("hook_callback without a callback_id: {error}"))
        })?;
        let Some(hook) = self.by_id.get(&called.callback_id) else {
            return Err(RpcError::new(format!("no hook has the id {}", called.callback_id)));
        };
        let input = called.input.map_or("null", RawValue::get).as_bytes();
        let input = if called.input.is_some() { body.part(input) } else { input.to_vec().into() };
        hook(HookRequest { input, tool_use_id: called.tool_use_id }).await
    }
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.events.fmt(f)
    }
}

//! A call: one request of the caller, and as many to the server as it takes to complete it.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::error::{Error, ErrorKind, Result};
use crate::record::Record;
use crate::session::RequestOptions;
use crate::session::handlers::{AgentRequest, ContainedHandler};

use super::client::Client;
use super::connection::{Connection, Launch, has_ended_by_itself};
use super::era::{Era, Object, params};
use super::input::{NeededInput, Question, needed};

/// How far progress may move the timeout of a call by default.
const PROGRESS_MAX: Duration = Duration::from_secs(600);

/// How often a request whose server has ended is repeated.
const REPEATS_MAX: u32 = 2;

/// A request to an MCP server, with what the client may do to complete it.
#[derive(Clone, Debug)]
pub struct Call {
    pub(super) method: String,
    params: Result<Object>,
    options: Option<RequestOptions>,
    is_idempotent: bool,
}

impl Call {
    /// Creates a request. `body` is its params: an object, or `()` for none.
    #[must_use]
    pub fn new(method: impl Into<String>, body: impl Serialize) -> Self {
        let params = Record::from_json(&body).and_then(|body| params(&body));
        Self { method: method.into(), params, options: None, is_idempotent: false }
    }

    /// Sets the timeout of each request of the call, and how far progress renews it.
    ///
    /// Default: the timeout of the settings, renewed by progress up to 10 min.
    #[must_use]
    pub fn options(mut self, options: RequestOptions) -> Self {
        self.options = Some(options);
        self
    }

    /// Marks the call as one that may be repeated: done twice, it has the effect of one. If the
    /// server ends before it has answered, the client starts it again and repeats the request, at
    /// most twice. Default off.
    #[must_use]
    pub fn idempotent(mut self) -> Self {
        self.is_idempotent = true;
        self
    }

    /// Returns the error of a request whose server has ended.
    fn lost(&self, error: &Error, repeats: u32) -> Error {
        let method = &self.method;
        let (what, remedy) = match repeats {
            0 => (
                format!(
                    "`{method}`: the server ended before it answered, and may have acted on it"
                ),
                "mark the call as idempotent if it may be repeated",
            ),
            _ => (
                format!("`{method}`: the server ended over it, and over {repeats} repetitions"),
                "see its stderr: the request itself may end the server",
            ),
        };
        error.with_what("request", what).remedy(remedy)
    }
}

impl Client {
    /// Sends a request and waits for its result, with the defaults of a [`Call`].
    ///
    /// # Errors
    /// See [`run`](Self::run).
    pub async fn call(&self, method: &str, body: impl Serialize) -> Result<Record> {
        self.run(Call::new(method, body)).await
    }

    /// Sends a request and waits for its result.
    ///
    /// In the modern era `_meta` gets the version, the capabilities and the name of this client. What
    /// the caller has put there stays, such as `traceparent`. If the result asks for input, the
    /// handlers of the [`Builder`](super::Builder) answer, one after the other, and the request is
    /// sent again with their answers. Their time does not count as time of the server.
    ///
    /// Cancel-safe: dropping the future drops a running handler, withdraws the request, and tells the
    /// server so with `notifications/cancelled`.
    ///
    /// # Errors
    /// - [`AgentError`](ErrorKind::AgentError): the server answered with an error.
    /// - [`InputRequired`](ErrorKind::InputRequired): the server asks for input that no handler gives,
    ///   or asks more often than [`input_rounds_max`](super::Builder::input_rounds_max).
    /// - [`InvalidRecord`](ErrorKind::InvalidRecord): the params are not an object, or the result is
    ///   of an unknown type.
    /// - [`Closed`](ErrorKind::Closed): the server ended before it answered. The error says whether it
    ///   may have acted on the request: a request that was not sent goes to the next run of the server
    ///   ([`Builder::restarts`](super::Builder::restarts)), one that was sent only if it is
    ///   [`idempotent`](Call::idempotent). Also returned if the client is closed.
    /// - Otherwise as [`Session::request`](crate::session::Session::request).
    pub async fn run(&self, call: Call) -> Result<Record> {
        let first = call.params.clone()?;
        let mut params = first.clone();
        let rounds_max = self.0.launch.input_rounds_max;
        for round in 0.. {
            let (result, era) = self.exchange(&call, &params).await?;
            if era == Era::Legacy {
                return Ok(result);
            }
            let Some(input) = needed(&result, self.0.launch.identity.has_extensions())? else {
                return Ok(result);
            };
            if round == rounds_max {
                break;
            }
            let answers = self.0.launch.answer(&call.method, &input).await?;
            params = input.answered(&first, &answers)?;
        }
        let what = format!("`{}`: after {rounds_max} rounds of input it needs more", call.method);
        Err(Error::new(ErrorKind::InputRequired, "request", what)
            .remedy("raise Builder::input_rounds_max"))
    }

    /// Sends one request and waits for its result, on a new run of the server if it has to.
    async fn exchange(&self, call: &Call, params: &Object) -> Result<(Record, Era)> {
        let mut repeats = 0;
        loop {
            let connection = self.0.live().await?;
            let mut sent = false;
            let error = match connection.ask(&self.0.launch, call, params, &mut sent).await {
                Ok(result) => return Ok((result, connection.server.era())),
                Err(error) => error,
            };
            if !has_ended_by_itself(&connection.session, &error).await {
                return Err(error);
            }
            // A request that was not sent is sent to the next run, whatever it does.
            if sent && (!call.is_idempotent || repeats == REPEATS_MAX) {
                return Err(call.lost(&error, repeats));
            }
            repeats += u32::from(sent);
        }
    }
}

impl Connection {
    /// Sends one request and waits for its result. `sent` becomes true once the server may read it.
    async fn ask(
        &self,
        launch: &Launch,
        call: &Call,
        params: &Object,
        sent: &mut bool,
    ) -> Result<Record> {
        let mut params = params.clone();
        if self.server.era() == Era::Modern {
            launch.identity.stamp(self.server.version(), &mut params)?;
        }
        let options = call.options.unwrap_or_else(|| {
            // Progress moves a timeout that is there, and does not bring one.
            match launch.setup.settings.get_request_timeout() {
                Some(_) => RequestOptions::new().renewed_by_progress(PROGRESS_MAX),
                None => RequestOptions::new(),
            }
        });
        let body = Record::from_json(&params)?;
        self.session.request_tracked(&call.method, body.as_bytes(), options, sent).await
    }
}

impl Launch {
    /// Has the questions of a result answered by the handlers.
    async fn answer(&self, method: &str, input: &NeededInput) -> Result<Object> {
        // There is no error among the answers of MCP, but each kind has one that says no.
        const DECLINE: &str =
            "answer with a result that declines, such as {\"action\": \"decline\"}";
        let mut answers = Object::new();
        for (key, Question { method: asked, params }) in &input.questions {
            let failed = |why: &str, remedy| {
                let what = format!("`{method}` needs the input `{key}` of `{asked}`: {why}");
                Error::new(ErrorKind::InputRequired, "request", what).remedy(remedy)
            };
            let Some(handler) = self.setup.handlers.find(asked) else {
                return Err(failed("it has no handler", "set one with Builder::handle"));
            };
            let body = params.as_ref().map_or("null", |params| params.get());
            let request = AgentRequest::new((&**asked).into(), body.as_bytes().to_vec().into());
            // Contains a panic. The token is never cancelled.
            let answer = ContainedHandler::new(handler(request), Arc::default()).await;
            let answer = answer.unwrap_or_else(|| Err("it was cancelled".into()));
            let answer = answer
                .map_err(|error| failed(&format!("the handler failed: {error}"), DECLINE))?
                .json()
                .map_err(|error: Error| failed(&error.to_string(), DECLINE))?;
            answers.insert(key.clone(), answer);
        }
        Ok(answers)
    }
}

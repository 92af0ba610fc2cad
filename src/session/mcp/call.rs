//! A call: one request of the caller, and as many to the server as it takes to complete it.

use std::time::Duration;

use serde::Serialize;
use serde_json::value::RawValue;

use crate::error::{Error, ErrorKind, Result};
use crate::record::Record;
use crate::session::RequestOptions;
use crate::session::handlers::{AgentRequest, ContainedHandler};

use super::client::Client;
use super::connection::{Connection, Launch};
use super::era::{Era, Object, params};
use super::input::{NeededInput, Question, needed};

/// How far progress may move the timeout of a call by default.
const PROGRESS_MAX: Duration = Duration::from_secs(600);

/// A request to an MCP server, with what the client may do to complete it.
#[derive(Clone, Debug)]
pub struct Call {
    pub(super) method: String,
    params: Result<Object>,
    options: Option<RequestOptions>,
}

impl Call {
    /// Creates a request. `body` is its params: an object, or `()` for none.
    #[must_use]
    pub fn new(method: impl Into<String>, body: impl Serialize) -> Self {
        let params = Record::from_json(&body).and_then(|body| params(&body));
        Self { method: method.into(), params, options: None }
    }

    /// Sets the timeout of each request of the call, and how far progress renews it.
    ///
    /// Default: the timeout of the settings, renewed by progress up to 10 min.
    #[must_use]
    pub fn options(mut self, options: RequestOptions) -> Self {
        self.options = Some(options);
        self
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
    /// - Otherwise as [`Session::request`](crate::session::Session::request).
    pub async fn run(&self, call: Call) -> Result<Record> {
        let first = call.params.clone()?;
        let mut params = first.clone();
        let rounds_max = self.launch().input_rounds_max;
        for round in 0.. {
            let (result, era) = self.exchange(&call, &params).await?;
            if era == Era::Legacy {
                return Ok(result);
            }
            let Some(input) = needed(&result, self.launch().identity.has_extensions())? else {
                return Ok(result);
            };
            if round == rounds_max {
                break;
            }
            let answers = self.launch().answer(&call.method, &input).await?;
            params = input.answered(&first, &answers)?;
        }
        let what = format!("`{}`: after {rounds_max} rounds of input it needs more", call.method);
        Err(Error::new(ErrorKind::InputRequired, "request", what)
            .remedy("raise Builder::input_rounds_max"))
    }

    async fn exchange(&self, call: &Call, params: &Object) -> Result<(Record, Era)> {
        let connection = self.connection();
        let result = connection.ask(self.launch(), call, params).await?;
        Ok((result, connection.server.era()))
    }
}

impl Connection {
    async fn ask(&self, launch: &Launch, call: &Call, params: &Object) -> Result<Record> {
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
        self.session.request_with(&call.method, params, options).await
    }
}

impl Launch {
    /// Has the questions of a result answered by the handlers.
    async fn answer(&self, method: &str, input: &NeededInput) -> Result<Object> {
        let mut answers = Object::new();
        for (key, question) in &input.questions {
            let answer = self.answer_one(question).await.map_err(|(why, remedy)| {
                let asked = &question.method;
                let what = format!("`{method}` needs the input `{key}` of `{asked}`: {why}");
                Error::new(ErrorKind::InputRequired, "request", what).remedy(remedy)
            })?;
            answers.insert(key.clone(), answer);
        }
        Ok(answers)
    }

    async fn answer_one(
        &self,
        question: &Question,
    ) -> std::result::Result<Box<RawValue>, (String, &'static str)> {
        let Some(handler) = self.setup.handlers.find(&question.method) else {
            return Err(("it has no handler".into(), "set one with Builder::handle"));
        };
        let body = question.params.as_ref().map_or("null", |params| params.get());
        let request =
            AgentRequest::new((&*question.method).into(), body.as_bytes().to_vec().into());
        let work = Box::pin(async move { handler(request).await });
        let answer = ContainedHandler::new(work, std::sync::Arc::default()).await;
        let failed = |error: String| {
            // There is no error among the answers of MCP, but each kind has one that says no.
            (error, "answer with a result that declines, such as {\"action\": \"decline\"}")
        };
        match answer {
            Some(Ok(answer)) => answer.json().map_err(|error: Error| failed(error.to_string())),
            Some(Err(error)) => Err(failed(format!("the handler failed: {error}"))),
            None => Err(failed("the handler was cancelled".into())),
        }
    }
}

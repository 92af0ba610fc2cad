//! Subscriptions: the changes that a server reports, in both eras.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use serde::Serialize;

use crate::error::{ErrorKind, Result};
use crate::record::Record;
use crate::session::RequestOptions;
use crate::session::executor::{Executor, with_deadline};
use crate::session::state::RequestSlot;

use super::bus::Feed;
use super::client::Client;
use super::connection::{Connection, Launch, has_ended_by_itself};
use super::era::{Era, Object, raw};

/// The kinds of lists that may change: the capability, the key of the filter, and the notification.
const LISTS: [(&str, &str, &str); 3] = [
    ("tools", "toolsListChanged", "notifications/tools/list_changed"),
    ("prompts", "promptsListChanged", "notifications/prompts/list_changed"),
    ("resources", "resourcesListChanged", "notifications/resources/list_changed"),
];

/// The changes that a subscription is about. Without a call of its methods there are none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    lists: [bool; 3],
    resources: Vec<String>,
}

impl Filter {
    /// Returns a filter without any change.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds changes of the list of tools.
    #[must_use]
    pub fn tools(mut self) -> Self {
        self.lists[0] = true;
        self
    }

    /// Adds changes of the list of prompts.
    #[must_use]
    pub fn prompts(mut self) -> Self {
        self.lists[1] = true;
        self
    }

    /// Adds changes of the list of resources.
    #[must_use]
    pub fn resources(mut self) -> Self {
        self.lists[2] = true;
        self
    }

    /// Adds changes of one resource.
    #[must_use]
    pub fn resource(mut self, uri: impl Into<String>) -> Self {
        self.resources.push(uri.into());
        self
    }

    pub(super) fn has_resource(&self, uri: &str) -> bool {
        self.resources.iter().any(|own| own == uri)
    }

    /// Returns whether a notification of the legacy era is about one of these changes.
    pub(super) fn wants(&self, method: &str, uri: Option<&str>) -> bool {
        let is_list = LISTS.iter().zip(self.lists).any(|(list, on)| on && list.2 == method);
        let is_resource = method == "notifications/resources/updated"
            && uri.is_some_and(|uri| self.has_resource(uri));
        is_list || is_resource
    }

    /// Returns the filter as JSON, of the kinds of changes that pass.
    fn to_json(&self, passes: impl Fn(&str, &str) -> bool) -> Result<Object> {
        let mut json = Object::new();
        for ((capability, key, _), _) in LISTS.iter().zip(self.lists).filter(|(_, on)| *on) {
            if passes(capability, "listChanged") {
                json.insert((*key).into(), raw(&true)?);
            }
        }
        if !self.resources.is_empty() && passes("resources", "subscribe") {
            json.insert("resourceSubscriptions".into(), raw(&self.resources)?);
        }
        Ok(json)
    }
}

/// What a subscription reports.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Update {
    /// A notification, as it came. While it is unread, another one that says the same is left out.
    Notification(Record),
    /// That many notifications may have been dropped: the subscription was not read, or a record of
    /// the server could not be.
    Lost(u64),
    /// The server had ended and was started again. What has changed in between is unknown.
    Reopened,
}

/// A subscription to changes of a server. Dropping it ends it.
///
/// In the modern era the client cancels it at the server. In the legacy era [`close`](Self::close) does, and
/// after a drop the notifications go to
/// [`Builder::on_notification`](super::Builder::on_notification).
#[derive(Debug)]
pub struct Subscription {
    client: Client,
    filter: Filter,
    /// `None` between the end of the server and its restart.
    open: Option<OpenFeed>,
    /// The server has ended the subscription, or it failed.
    is_over: bool,
}

/// A subscription at one run of the server.
#[derive(Debug)]
struct OpenFeed {
    connection: Arc<Connection>,
    feed: Arc<Feed>,
    id: u64,
    /// The outcome of `subscriptions/listen`. `None` in the legacy era.
    slot: Option<RequestSlot>,
}

impl Client {
    /// Subscribes to changes of the server.
    ///
    /// Sends `subscriptions/listen` in the modern era, and returns once the server has acknowledged
    /// it. In the legacy era it sends `resources/subscribe` for each resource; changes of lists come
    /// without a request. After a restart of the server the subscription opens itself again.
    /// Cancel-safe: a subscription that is half open ends.
    ///
    /// # Errors
    /// As [`run`](Self::run). [`Timeout`](ErrorKind::Timeout) also if the server does not acknowledge
    /// the subscription within the timeout of the settings.
    pub async fn listen(&self, filter: Filter) -> Result<Subscription> {
        let open = self.open_feed(&filter).await?;
        Ok(Subscription { client: self.clone(), filter, open: Some(open), is_over: false })
    }

    async fn open_feed(&self, filter: &Filter) -> Result<OpenFeed> {
        loop {
            let connection = self.0.live().await?;
            let opened = match connection.server.era() {
                Era::Modern => OpenFeed::listen(&connection, &self.0.launch, filter).await,
                Era::Legacy => OpenFeed::subscribe(&connection, filter).await,
            };
            match opened {
                // A subscription has no effect but itself, so it may be repeated.
                Err(error) if has_ended_by_itself(&connection.session, &error).await => {}
                opened => return opened,
            }
        }
    }
}

impl OpenFeed {
    /// Opens a subscription of the modern era.
    async fn listen(
        connection: &Arc<Connection>,
        launch: &Launch,
        filter: &Filter,
    ) -> Result<Self> {
        const METHOD: &str = "subscriptions/listen";
        let mut params = Object::new();
        params.insert("notifications".into(), raw(&filter.to_json(|_, _| true)?)?);
        launch.identity.stamp(connection.server.version(), &mut params)?;
        let body = Record::from_json(&params)?;

        let state = connection.session.state();
        let (id, slot) = state.open(METHOD, RequestOptions::new().timeout(None))?;
        let feed = Arc::new(Feed::new(filter.clone(), None));
        // Before the request is sent, so that the acknowledgement finds it.
        connection.bus.add(id, &feed);
        let open = Self { connection: Arc::clone(connection), feed, id, slot: Some(slot) };
        let opening = async {
            state.writer.send(state.protocol.request(id, METHOD, body.as_bytes())).await?;
            state.mark_sent(id);
            open.first(|feed, context| feed.poll_accepted(context).map(Some)).await.map(drop)
        };
        match launch.setup.settings.get_request_timeout() {
            None => opening.await?,
            Some(timeout) => {
                let executor = Executor::get()?;
                let limit = executor.now() + timeout;
                with_deadline(&executor, limit, opening).await.unwrap_or_else(|| {
                    let what = format!("`{METHOD}` was not acknowledged within {timeout:?}");
                    Err(state.error(ErrorKind::Timeout, what))
                })?;
            }
        }
        Ok(open)
    }

    /// Opens a subscription of the legacy era.
    async fn subscribe(connection: &Arc<Connection>, filter: &Filter) -> Result<Self> {
        // Only the keys of the table: no request has them.
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let server = &connection.server;
        let accepted = filter.to_json(|name, key| server.announces(name, key))?;
        let is_watching = accepted.contains_key("resourceSubscriptions");
        let feed = Feed::new(filter.clone(), Some(Record::from_json(&accepted)?));
        let (id, feed) = (NEXT.fetch_add(1, Ordering::Relaxed), Arc::new(feed));
        connection.bus.add(id, &feed);
        let open = Self { connection: Arc::clone(connection), feed, id, slot: None };
        for uri in filter.resources.iter().filter(|_| is_watching) {
            connection.session.request("resources/subscribe", Uri { uri }).await?;
        }
        Ok(open)
    }

    /// Waits for what `find` finds in the feed; `None` if the server has ended the subscription.
    async fn first<T>(
        &self,
        find: impl Fn(&Feed, &mut Context<'_>) -> Poll<Option<T>>,
    ) -> Result<Option<T>> {
        let mut outcome = self.slot.as_ref().map(|slot| slot.wait());
        // The session keeps no data, so its only event is the end, which comes after all notifications.
        // The report of the close may be there before them.
        let session = &self.connection.session;
        let mut gone = pin!(async { while session.next().await.is_some() {} });
        poll_fn(|context| {
            if let Poll::Ready(found) = find(&self.feed, context) {
                return Poll::Ready(Ok(found));
            }
            let ended = match &mut outcome {
                Some(outcome) => ready!(Pin::new(outcome).poll(context)),
                None => {
                    ready!(gone.as_mut().poll(context));
                    self.connection.end().map(Err)
                }
            };
            // What came before the end is read before the end.
            match find(&self.feed, context) {
                Poll::Ready(found) => Poll::Ready(Ok(found)),
                Poll::Pending => Poll::Ready(ended.transpose().map(|_result| None)),
            }
        })
        .await
    }
}

impl Drop for OpenFeed {
    fn drop(&mut self) {
        let state = self.connection.session.state();
        // In a forked child the locks may be held for good.
        if !state.writer.is_here() {
            return;
        }
        self.connection.bus.remove(self.id);
        if self.feed.is_ended() {
            // The server knows: a cancellation must not name a request that is over.
            let mut tables = state.lock();
            let is_open = tables.router.withdraw(self.id).is_some();
            tables.stats.settled += u64::from(is_open);
        } else if self.slot.is_some() {
            // Sends `notifications/cancelled`, unless the request has its outcome.
            state.withdraw(self.id);
        }
    }
}

/// The params of `resources/subscribe` and `resources/unsubscribe`.
#[derive(Serialize)]
struct Uri<'a> {
    uri: &'a str,
}

impl Subscription {
    /// Returns the changes that the server reports, as JSON: the part of the filter that it has
    /// accepted, such as `{"toolsListChanged":true}`. `None` while the server is gone.
    ///
    /// In the legacy era this follows from the capabilities of the server.
    #[must_use]
    pub fn accepted(&self) -> Option<Record> {
        self.open.as_ref()?.feed.accepted()
    }

    /// Waits for the next update. `None` once the server has ended the subscription.
    ///
    /// There is no timeout. If the server has ended, it is started again, within
    /// [`Builder::restarts`](super::Builder::restarts). Cancel-safe: no update is lost.
    ///
    /// # Errors
    /// [`AgentError`](ErrorKind::AgentError) if the server ended the subscription with an error,
    /// [`Closed`](ErrorKind::Closed) if the client was closed or the server cannot be restarted, and
    /// the errors of [`Client::listen`] after a restart.
    pub async fn next(&mut self) -> Result<Option<Update>> {
        while !self.is_over {
            let Some(open) = &self.open else {
                let open = self.client.open_feed(&self.filter).await;
                self.is_over = open.is_err();
                self.open = Some(open?);
                return Ok(Some(Update::Reopened));
            };
            let error = match open.first(Feed::poll).await {
                Ok(Some(update)) => return Ok(Some(update)),
                Ok(None) => break,
                Err(error) => error,
            };
            if !has_ended_by_itself(&open.connection.session, &error).await {
                self.is_over = true;
                return Err(error);
            }
            self.open = None;
        }
        self.is_over = true;
        Ok(None)
    }

    /// Ends the subscription, and tells the server so in both eras.
    ///
    /// # Errors
    /// Those of the request `resources/unsubscribe` in the legacy era. The subscription is over all
    /// the same.
    pub async fn close(mut self) -> Result<()> {
        let Some(open) = self.open.take() else { return Ok(()) };
        let (connection, is_legacy) = (Arc::clone(&open.connection), open.slot.is_none());
        drop(open);
        let server = &connection.server;
        if is_legacy && server.announces("resources", "subscribe") {
            for uri in self.filter.resources.iter().filter(|uri| !connection.bus.watches(uri)) {
                connection.session.request("resources/unsubscribe", Uri { uri }).await?;
            }
        }
        Ok(())
    }
}

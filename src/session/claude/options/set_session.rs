//! Floor 4. Setters: which conversation, which settings, which messages.

use std::path::Path;

use super::{Options, path_of, strings};

impl Options {
    /// Goes on with the last conversation of the working directory. Default off. (`--continue`)
    #[must_use]
    pub fn continue_conversation(mut self, on: bool) -> Self {
        self.continue_conversation = on;
        self
    }

    /// Goes on with the session of this id. (`--resume=ID`)
    #[must_use]
    pub fn resume(mut self, session: impl Into<String>) -> Self {
        self.resume = session.into();
        self
    }

    /// The id of the new session, a UUID. Default: the CLI makes one. (`--session-id=ID`)
    #[must_use]
    pub fn session_id(mut self, id: impl Into<String>) -> Self {
        self.session_id = id.into();
        self
    }

    /// What is resumed gets an id of its own. Default off. (`--fork-session`)
    #[must_use]
    pub fn fork_session(mut self, on: bool) -> Self {
        self.fork_session = on;
        self
    }

    /// Resumes up to this message of the assistant. (`--resume-session-at=UUID`)
    #[must_use]
    pub fn resume_session_at(mut self, message: impl Into<String>) -> Self {
        self.resume_at = message.into();
        self
    }

    /// Resumes without this turn. Sent even if it is empty. (`--resume-drops-turn=ID`)
    #[must_use]
    pub fn resume_drops_turn(mut self, turn: impl Into<String>) -> Self {
        self.resume_drops_turn = Some(turn.into());
        self
    }

    /// Has the transcript sent as `transcript_mirror` messages, too. Default off.
    /// (`--session-mirror`)
    #[must_use]
    pub fn session_mirror(mut self, on: bool) -> Self {
        self.session_mirror = on;
        self
    }

    /// Settings: a path, or a JSON object as text. Passed on as it is, unless there is a
    /// [`sandbox`](Self::sandbox) to be merged into it. (`--settings`)
    #[must_use]
    pub fn settings(mut self, settings: impl Into<String>) -> Self {
        self.settings = settings.into();
        self
    }

    /// Which settings files are read: `user`, `project`, `local`. An empty list: none. Default:
    /// what the CLI does by itself. (`--setting-sources=A,B`)
    #[must_use]
    pub fn setting_sources<I, S>(mut self, sources: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: Into<String>,
    {
        self.setting_sources = Some(strings(sources));
        self
    }

    /// Another directory the agent may work in; may be called several times. (`--add-dir`)
    #[must_use]
    pub fn add_dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.add_dirs.push(path_of(dir));
        self
    }

    /// Messages also come in parts (`stream_event`), as they are generated. Default off.
    /// (`--include-partial-messages`)
    #[must_use]
    pub fn include_partial_messages(mut self, on: bool) -> Self {
        self.partial_messages = on;
        self
    }

    /// The life of hooks comes as messages. Default off. (`--include-hook-events`)
    #[must_use]
    pub fn include_hook_events(mut self, on: bool) -> Self {
        self.hook_events = on;
        self
    }
}

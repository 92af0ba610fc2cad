//! F5, bench: a bar for whoever looks at it. Where stderr is no terminal nothing is shown.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// One bar over all scenarios; it is gone when this is dropped.
#[derive(Debug)]
pub(super) struct Progress(ProgressBar);

impl Progress {
    /// `rounds` of everything.
    pub(super) fn new(rounds: u64) -> Self {
        let bar = ProgressBar::with_draw_target(Some(rounds), ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("{msg:22} [{bar:40}] {percent:>3} % {eta}")
        {
            bar.set_style(style.progress_chars("=> "));
        }
        Self(bar)
    }

    pub(super) fn scenario(&self, name: &'static str) {
        self.0.set_message(name);
    }

    pub(super) fn round(&self) {
        self.0.inc(1);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

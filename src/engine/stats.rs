//! Floor 3. The counts of an engine and of its threads, read from their boards.

use crate::stats::EngineStats;

use super::handle::Engine;

impl Engine {
    /// What all threads together have done. Takes no lock and wakes no thread, so it may be
    /// asked as often as one likes.
    #[must_use]
    pub fn stats(&self) -> EngineStats {
        let mut threads = self.thread_stats().into_iter();
        let mut all = threads.next().unwrap_or_default();
        threads.for_each(|thread| all.merge(&thread));
        all
    }

    /// The same for each thread, in the order of their names: `agentpipe-0` and so on.
    #[must_use]
    pub fn thread_stats(&self) -> Vec<EngineStats> {
        self.inner.threads.iter().map(|(thread, _)| thread.board.read()).collect()
    }

    /// Sends both to `tracing`, as events of the target `agentpipe::stats`. Nobody does that
    /// by a clock: call it from a timer of your own. A thread that ends sends its own.
    pub fn trace_stats(&self) {
        for (index, stats) in self.thread_stats().into_iter().enumerate() {
            stats.trace(&format!("agentpipe-{index}"));
        }
        self.stats().trace("engine");
    }
}

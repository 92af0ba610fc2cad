//! Floor 3. Which engine thread gets a new agent. Pure.
//!
//! An agent stays where it was put, so the question is what a thread will have to do. Its agents
//! are the best guess while they are quiet; its pace of late is, where a few of them do all the
//! work.

/// What one thread has to do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    /// Agents that live there, or are on their way.
    pub(super) agents: usize,
    /// Records and KiB a second, of late.
    pub(super) pace: f64,
}

/// What an agent is taken to do a second, whatever it does now: it will not stay quiet for ever.
/// A thousand at this pace are a fifth of what a thread carries.
const NOMINAL: f64 = 20.0;

impl Load {
    #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52 agents")]
    fn expected(&self) -> f64 {
        self.agents as f64 * NOMINAL + self.pace
    }
}

/// The thread with the least to do, of those that take agents; the first of equals.
pub(super) fn lightest(loads: impl IntoIterator<Item = Option<Load>>) -> Option<usize> {
    let loads = loads.into_iter().enumerate().filter_map(|(index, load)| Some((index, load?)));
    let least = loads.min_by(|(_, a), (_, b)| a.expected().total_cmp(&b.expected()));
    least.map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Places `count` agents one after the other; where they went.
    fn place(paces: &[f64], agents: &mut [usize], count: usize) -> Vec<usize> {
        let mut placed = vec![0; agents.len()];
        for _ in 0..count {
            let loads =
                paces.iter().zip(&*agents).map(|(&pace, &agents)| Some(Load { agents, pace }));
            let thread = lightest(loads).expect("there are threads");
            agents[thread] += 1;
            placed[thread] += 1;
        }
        placed
    }

    #[test]
    fn quiet_threads_get_equally_many() {
        assert_eq!(place(&[0.0; 4], &mut [0; 4], 100), [25; 4]);
        assert_eq!(place(&[0.0; 3], &mut [10, 0, 4], 13), [0, 9, 4]);
        assert_eq!(lightest([]), None);
    }

    #[test]
    fn a_thread_with_busy_agents_gets_fewer() {
        // The story: ten agents that stream keep a thread busy. By their number alone it would
        // get the next forty, while its neighbour sleeps.
        assert_eq!(place(&[20_000.0, 0.0], &mut [10, 50], 900), [0, 900]);
        // As much as they do for a thousand nominal agents, and then it is its turn again.
        assert_eq!(place(&[20_000.0, 0.0], &mut [10, 1010], 100), [50, 50]);
    }

    #[test]
    fn a_thread_that_has_ended_gets_none() {
        // The story: it had the fewest agents, so it got each new one, and all of them were dead.
        let busy = Load { agents: 1000, pace: 1e6 };
        assert_eq!(lightest([None, Some(busy), None]), Some(1));
        assert_eq!(lightest([None, None]), None);
    }

    #[test]
    fn a_little_work_is_no_reason_to_crowd_the_others() {
        assert_eq!(place(&[60.0, 0.0], &mut [0, 0], 101), [49, 52]);
    }
}

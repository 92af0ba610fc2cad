//! Many agents in one process: what they cost, how they share a thread, and what a full kernel does.
//!
//! A test that counts descriptors, children or threads runs in its own process, see `alone`. Times are
//! asserted as ratios of one run or against generous ceilings.

mod busy_poll;
mod coalesce;
mod crowd;
mod fairness;
mod full;
mod pool;
mod stats;

use std::fs::File;
use std::future::Future;
use std::os::fd::AsFd;
use std::pin::{Pin, pin};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};

use agentpipe::{Agent, AgentCommand, ClosePolicy, CloseReport, Engine};

use crate::support::{CEILING, shell};

fn spawn(engine: &Engine, command: &AgentCommand) -> Agent {
    engine.spawn_blocking(command.clone()).expect("spawns")
}

/// Asks for all closes before it waits for the first.
fn close_all(agents: &[Agent], policy: ClosePolicy) -> Vec<CloseReport> {
    let mut closes: Vec<Pin<Box<dyn Future<Output = CloseReport> + '_>>> = Vec::new();
    for agent in agents {
        let mut close = Box::pin(agent.close_with(policy));
        let _begun = pin!(&mut close).poll(&mut Context::from_waker(Waker::noop()));
        closes.push(close);
    }
    agents.iter().map(Agent::closed_blocking).collect()
}

/// The bytes in the agent's stdout.
fn in_its_pipe(agent: &Agent) -> u64 {
    let path = format!("/proc/{}/fd/1", agent.pid());
    let pipe = File::open(path).expect("its stdout");
    rustix::io::ioctl_fionread(pipe.as_fd()).expect("a pipe")
}

/// Keeps the engine thread in a wake-up until the value is dropped. Counts no record.
struct HeldThread {
    _release: Sender<()>,
    _brake: Agent,
}

impl HeldThread {
    fn hold(engine: &Engine) -> Self {
        let mut brake = spawn(engine, &shell("read line"));
        let (reached, held) = channel();
        let (release, released) = channel();
        let waker = Waker::from(Arc::new(Brake { reached, released: Mutex::new(released) }));
        let polled = pin!(brake.next()).poll(&mut Context::from_waker(&waker));
        assert!(polled.is_pending(), "its output is open");
        brake.send_blocking("{}").expect("sent");
        held.recv_timeout(CEILING).expect("the engine thread is held");
        Self { _release: release, _brake: brake }
    }
}

struct Brake {
    reached: Sender<()>,
    released: Mutex<Receiver<()>>,
}

impl Wake for Brake {
    fn wake(self: Arc<Self>) {
        let _heard = self.reached.send(());
        let _dropped = self.released.lock().expect("not poisoned").recv_timeout(CEILING);
    }
}

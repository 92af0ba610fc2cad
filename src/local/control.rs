//! Floor 3. What all handles of one local agent share; the last one dropped aborts the agent.

use std::rc::Rc;
use std::sync::Arc;

use crate::transport::{Line, Request, Shared, abandon};

use super::hub::Hub;

#[derive(Debug)]
pub(super) struct Control {
    pub(super) shared: Arc<Shared>,
    hub: Rc<Hub>,
}

impl Control {
    pub(super) fn new(shared: Arc<Shared>, hub: &Rc<Hub>) -> Rc<Self> {
        hub.agents.set(hub.agents.get() + 1);
        Rc::new(Self { shared, hub: Rc::clone(hub) })
    }
}

impl Line for Control {
    fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    fn request(&self, request: Request) {
        self.hub.request(&self.shared, request);
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.hub.agents.set(self.hub.agents.get() - 1);
        if abandon(self) {
            self.hub.abandoned.set(self.hub.abandoned.get() + 1);
        }
        // It may have been all that the driver still ran for.
        self.hub.nudge();
    }
}

//! Floor 3. What all handles of one local agent share; the last one dropped aborts the agent.

use std::rc::Rc;
use std::sync::Arc;

use crate::transport::{Channel, Line, Request, abandon};

use super::hub::Hub;

#[derive(Debug)]
pub(super) struct Control {
    pub(super) channel: Arc<Channel>,
    hub: Rc<Hub>,
}

impl Control {
    pub(super) fn new(channel: Arc<Channel>, hub: &Rc<Hub>) -> Rc<Self> {
        hub.agents.set(hub.agents.get() + 1);
        Rc::new(Self { channel, hub: Rc::clone(hub) })
    }
}

impl Line for Control {
    fn channel(&self) -> &Arc<Channel> {
        &self.channel
    }

    fn request(&self, request: Request) {
        self.hub.request(&self.channel, request);
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

//! Small synchronisation types that need no runtime: a value set once, a one-shot channel, a list
//! of wakers, and the permits that bound the number of agents.

pub(crate) mod oneshot;
mod permits;
mod set_once;
mod wait_list;

pub(crate) use permits::{Permit, Permits};
pub(crate) use set_once::SetOnce;
pub(crate) use wait_list::{Sole, TasksToWake, WaitKey, WaitList, wake};

//! The `tracing` macros of this crate. They contain a panic of the subscriber: an event is sent in the
//! middle of a turn, where unwinding would leave an operation without its owner, and on threads that serve
//! agents of other users.

macro_rules! contained {
    ($level:ident, $send:ident, $($event:tt)+) => {
        // One load if no subscriber listens. The check of the level calls no code of a subscriber.
        if ::tracing::level_enabled!(::tracing::Level::$level) {
            $crate::contain::quietly(|| ::tracing::$send!($($event)+));
        }
    };
}

macro_rules! trace_event { ($($event:tt)+) => { $crate::trace::contained!(TRACE, trace, $($event)+) } }
macro_rules! debug_event { ($($event:tt)+) => { $crate::trace::contained!(DEBUG, debug, $($event)+) } }
macro_rules! info_event { ($($event:tt)+) => { $crate::trace::contained!(INFO, info, $($event)+) } }
macro_rules! warn_event { ($($event:tt)+) => { $crate::trace::contained!(WARN, warn, $($event)+) } }
macro_rules! error_event { ($($event:tt)+) => { $crate::trace::contained!(ERROR, error, $($event)+) } }

pub(crate) use {
    contained, debug_event as debug, error_event as error, info_event as info,
    trace_event as trace, warn_event as warn,
};

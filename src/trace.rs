//! The events of this crate. A subscriber that panics loses its event and costs nothing
//! else: an event is sent from the middle of a turn, where unwinding would leave an operation
//! without its record, and on threads that serve agents of other users.

macro_rules! contained {
    ($level:ident, $send:ident, $($event:tt)+) => {
        // One load where nothing listens; the level is no code of the subscriber's.
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

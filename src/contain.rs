//! Containment of panics in code of the user (wakers, tracing subscribers) that runs on threads that serve
//! other users, too.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs `work` and catches a panic in it, which is logged as a panic of `what`.
pub(crate) fn contain(what: &str, work: impl FnOnce()) {
    let Err(payload) = catch_unwind(AssertUnwindSafe(work)) else { return };
    // The subscriber itself may be what panics.
    quietly(|| tracing::error!(panic = message(&*payload), "{what} panicked"));
    discard(payload);
}

/// Runs `work` and catches a panic in it without a log line: for the log itself.
pub(crate) fn quietly(work: impl FnOnce()) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(work)) {
        discard(payload);
    }
}

/// Returns the message of a panic, if it is a text.
pub(crate) fn message(payload: &(dyn Any + Send)) -> &str {
    match (payload.downcast_ref::<&str>(), payload.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (_, Some(text)) => text,
        _ => "no message",
    }
}

/// Drops the payload, whose destructor is code of the user and may panic as well.
fn discard(payload: Box<dyn Any + Send>) {
    if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        #[expect(clippy::mem_forget, reason = "its destructor may panic each time")]
        std::mem::forget(again);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bomb;

    impl Drop for Bomb {
        fn drop(&mut self) {
            std::panic::panic_any(Self);
        }
    }

    #[test]
    fn panic_in_the_payload_destructor_is_contained() {
        let mut returned = 0;
        contain("a test", || std::panic::panic_any(Bomb));
        returned += 1;
        quietly(|| drop(Bomb));
        returned += 1;
        assert_eq!(returned, 2);
    }

    #[test]
    fn panic_while_unwinding_is_contained() {
        // An engine thread unwinds, its destructors report to the readers, and the waker of a reader
        // panics. Without containment that aborts the process.
        struct Reports<'a>(&'a mut bool);
        impl Drop for Reports<'_> {
            fn drop(&mut self) {
                contain("a waker", || panic!("second"));
                *self.0 = true;
            }
        }
        let mut reported = false;
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let _reports = Reports(&mut reported);
            panic!("first");
        }));
        assert_eq!(message(&*outcome.expect_err("panicked")), "first");
        assert!(reported);
    }
}

//! Runs code of the user (wakers, tracing subscribers) on threads that serve other users
//! too: a panic in it ends there.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs `work`. A panic in it goes no further and is logged, once, as one of `what`.
pub(crate) fn contain(what: &str, work: impl FnOnce()) {
    let Err(payload) = catch_unwind(AssertUnwindSafe(work)) else { return };
    // The subscriber may be what panics.
    quietly(|| tracing::error!(panic = message(&*payload), "{what} panicked"));
    discard(payload);
}

/// The same without a log line: for the log itself.
pub(crate) fn quietly(work: impl FnOnce()) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(work)) {
        discard(payload);
    }
}

/// What the panic said, where it was a text.
pub(crate) fn message(payload: &(dyn Any + Send)) -> &str {
    match (payload.downcast_ref::<&str>(), payload.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (_, Some(text)) => text,
        _ => "no message",
    }
}

/// The payload is a value of the code that panicked, with a destructor of its own.
fn discard(payload: Box<dyn Any + Send>) {
    if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        #[expect(clippy::mem_forget, reason = "its destructor may panic again, without an end")]
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
    fn a_payload_that_panics_in_its_destructor_is_contained() {
        let mut returned = 0;
        contain("a test", || std::panic::panic_any(Bomb));
        returned += 1;
        quietly(|| drop(Bomb));
        returned += 1;
        assert_eq!(returned, 2);
    }

    #[test]
    fn a_panic_during_an_unwinding_is_contained() {
        // The story: an engine thread unwinds, its destructors report to the readers, and the waker
        // of one of them panics. Let out, that aborts the process.
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

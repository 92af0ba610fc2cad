//! Tests of the pure parts: the exit of a CLI, generated records, pacing, trace text.

use std::time::{Duration, Instant};

use super::args::Build;
use super::life::{Decision, Life, View};
use super::{plain, protocol, replay};

const EMPTY: View = View { queued: 0, turn_open: false, interrupted: false };
const FULL: View = View { queued: 13 << 20, ..EMPTY };
const SMALL: View = View { queued: 100 << 10, ..EMPTY };
const CLEAN_0: Decision = Decision::Exit { code: 0, clean: true };
const LOST_0: Decision = Decision::Exit { code: 0, clean: false };
const CLEAN_143: Decision = Decision::Exit { code: 143, clean: true };
const LOST_143: Decision = Decision::Exit { code: 143, clean: false };

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn native() -> Life {
    Life::new(Build::ClaudeNative, None)
}

fn node() -> Life {
    Life::new(Build::ClaudeNode, None)
}

/// Steps from deadline to deadline with an unchanged view until the exit.
fn leaves(life: &mut Life, view: View) -> (Duration, Decision) {
    while let Some(due) = life.deadline(view.turn_open) {
        match life.step(due, view) {
            Decision::Exit { code, clean } => return (due, Decision::Exit { code, clean }),
            Decision::Continue | Decision::Cut => {}
        }
    }
    (Duration::MAX, Decision::Continue)
}

#[test]
fn idle_cli_exits_at_once() {
    let mut life = native();
    assert_eq!(life.step(ms(0), EMPTY), Decision::Continue);
    assert_eq!(life.deadline(false), None);
    life.see_eof(ms(100));
    assert_eq!(life.step(ms(107), EMPTY), Decision::Continue);
    assert_eq!(leaves(&mut life, EMPTY), (ms(108), CLEAN_0));

    let mut life = native();
    life.see_term(ms(100));
    assert_eq!(leaves(&mut life, EMPTY), (ms(108), CLEAN_143));
}

#[test]
fn native_keeps_an_unread_answer_30_s() {
    let mut life = native();
    life.see_eof(ms(0));
    assert_eq!(leaves(&mut life, FULL), (ms(30_008), LOST_0));
    // A small queue gets two seconds.
    let mut life = native();
    life.see_eof(ms(0));
    assert_eq!(leaves(&mut life, SMALL), (ms(2_008), LOST_0));
    let mut life = Life::new(Build::ClaudeNative, Some(ms(500)));
    life.see_eof(ms(0));
    assert_eq!(leaves(&mut life, FULL), (ms(508), LOST_0));
}

#[test]
fn native_exits_once_its_answer_is_read() {
    let mut life = native();
    life.see_eof(ms(0));
    assert_eq!(life.step(ms(8), FULL), Decision::Continue);
    assert_eq!(life.step(ms(60), SMALL), Decision::Continue);
    assert_eq!(life.step(ms(90), EMPTY), CLEAN_0);
}

#[test]
fn pipe_broken_before_the_exit_costs_2_s() {
    // End of input, 5 ms, read end closed.
    let mut life = native();
    life.see_eof(ms(0));
    life.see_broken_pipe(ms(5));
    assert_eq!(leaves(&mut life, EMPTY), (ms(2_008), LOST_0));
    // Read end closed, then SIGTERM.
    let mut life = native();
    life.see_broken_pipe(ms(0));
    assert_eq!(life.step(ms(10_000), EMPTY), Decision::Continue, "EPIPE alone does not end it");
    life.see_term(ms(10_000));
    assert_eq!(leaves(&mut life, EMPTY), (ms(12_008), LOST_143));
}

#[test]
fn pipe_broken_during_the_flush_ends_it() {
    let mut life = native();
    life.see_eof(ms(0));
    assert_eq!(life.step(ms(8), FULL), Decision::Continue);
    life.see_broken_pipe(ms(20));
    assert_eq!(life.step(ms(20), EMPTY), LOST_0);

    let mut life = native();
    life.see_term(ms(0));
    assert_eq!(life.step(ms(8), FULL), Decision::Continue);
    life.see_broken_pipe(ms(20));
    assert_eq!(life.step(ms(20), EMPTY), LOST_143);
}

#[test]
fn sigterm_shortens_the_flush() {
    let mut life = native();
    life.see_eof(ms(0));
    assert_eq!(life.step(ms(8), FULL), Decision::Continue);
    life.see_term(ms(5_000));
    assert_eq!(leaves(&mut life, FULL), (ms(7_008), LOST_0));

    let mut life = native();
    life.see_term(ms(0));
    assert_eq!(life.step(ms(8), FULL), Decision::Continue);
    life.see_eof(ms(100));
    assert_eq!(leaves(&mut life, FULL), (ms(2_008), LOST_143));
}

#[test]
fn open_turn_delays_the_end_of_input() {
    let open = View { turn_open: true, ..EMPTY };
    for mut life in [native(), node()] {
        life.see_eof(ms(0));
        assert_eq!(life.deadline(true), None);
        assert_eq!(life.step(ms(60_000), open), Decision::Continue);
    }
    // The interrupt ends the turn, and the exit status says so.
    let mut life = native();
    life.see_eof(ms(0));
    assert_eq!(life.step(ms(20), open), Decision::Continue);
    let interrupted = View { interrupted: true, ..EMPTY };
    assert_eq!(life.step(ms(30), interrupted), Decision::Exit { code: 1, clean: true });
    // SIGTERM does not wait for the turn.
    let mut life = native();
    life.see_term(ms(0));
    assert_eq!(leaves(&mut life, open), (ms(8), CLEAN_143));
}

#[test]
fn node_cuts_its_output() {
    let mut life = node();
    life.see_eof(ms(0));
    assert_eq!(life.step(ms(8), FULL), Decision::Cut);
    assert_eq!(leaves(&mut life, EMPTY).0, ms(78));
    // A broken pipe or a SIGTERM does not change that.
    let mut life = node();
    life.see_broken_pipe(ms(0));
    life.see_term(ms(0));
    assert_eq!(life.step(ms(8), EMPTY), Decision::Cut);
    life.see_eof(ms(10));
    life.see_term(ms(10));
    assert_eq!(leaves(&mut life, EMPTY), (ms(78), LOST_143));
}

#[test]
fn generated_record_has_the_exact_size() {
    let mut body = Vec::new();
    for size in (44..200).chain([4095, 8192, 100_000]) {
        for sequence in [0, 9, 10, 1_000_000, u64::MAX] {
            protocol::filler("flood", sequence, size, &mut body);
            assert_eq!(body.len(), size, "sequence {sequence}");
            let value: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(value["type"], "flood");
            assert_eq!(value["seq"], sequence);
        }
    }
}

#[test]
fn pace_does_not_drift() {
    let start = Instant::now();
    assert_eq!(plain::deadline(start, 0, 3), start);
    assert_eq!(plain::deadline(start, 1, 3), start + Duration::from_nanos(333_333_333));
    assert_eq!(plain::deadline(start, 3, 3), start + Duration::from_secs(1));
    let far = plain::deadline(start, 20_000 * 86_400 + 1, 20_000);
    assert_eq!(far, start + Duration::from_secs(86_400) + Duration::from_micros(50));
}

#[test]
fn compact_removes_blanks_between_tokens_only() {
    let text = r#"{"b": 1.0e2, "a": [ "x: y, z", "say \"h i\" , ok", "end\\" , null], "c": {} }"#;
    let mut out = Vec::new();
    replay::compact(text, &mut out);
    let wanted = r#"{"b":1.0e2,"a":["x: y, z","say \"h i\" , ok","end\\",null],"c":{}}"#;
    assert_eq!(String::from_utf8(out).unwrap(), wanted);
}

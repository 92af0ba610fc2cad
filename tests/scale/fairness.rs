//! One agent among many that wants everything.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use agentpipe::{Agent, Engine, Limits};

use super::{check_echo, engine, fake, spawn, wait_until};

/// Round trips through the agents in turn; the times, sorted.
fn rounds(agents: &mut [Agent], count: usize) -> Vec<Duration> {
    let mut times = Vec::with_capacity(count);
    for number in 0..count {
        let agent = &mut agents[number % 100];
        let begun = Instant::now();
        check_echo(agent, "{\"type\":\"ping\"}");
        times.push(begun.elapsed());
    }
    times.sort();
    times
}

fn show(what: &str, times: &[Duration]) {
    let at = |share: usize| times[(times.len() - 1) * share / 100];
    println!("{what}: p50 {:?} p90 {:?} p99 {:?} max {:?}", at(50), at(90), at(99), at(100));
}

#[test]
fn measure_flood() {
    let count: usize =
        std::env::var("SCALE_AGENTS").ok().and_then(|n| n.parse().ok()).unwrap_or(100);
    let engine = engine();
    let mut agents: Vec<Agent> = (0..count).map(|_| spawn(&engine, &fake(&[]))).collect();
    for agent in &mut agents {
        check_echo(agent, "{}");
    }
    let quiet = rounds(&mut agents, 2000);
    show("quiet", &quiet);
    for size in ["256", "4096", "65536"] {
        let mut flooder = spawn(&engine, &fake(&["--flood", "--record-size", size]));
        let over = AtomicBool::new(false);
        let (before, records) = (engine.stats(), std::sync::atomic::AtomicU64::new(0));
        thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    flooder.next_record_blocking();
                    records.fetch_add(1, Ordering::Relaxed);
                }
            });
            wait_until("floods", || records.load(Ordering::Relaxed) > 1000);
            let begun = Instant::now();
            let b = engine.stats();
            let flooded = rounds(&mut agents, 2000);
            let a = engine.stats();
            show(&format!("flood {size}"), &flooded);
            println!(
                "  {} MB/s, per enter {} KiB, starved {}, min free {}",
                (a.bytes_in - b.bytes_in) as f64 / begun.elapsed().as_secs_f64() / 1e6,
                (a.bytes_in - b.bytes_in) / 1024 / (a.io.enters - b.io.enters).max(1),
                a.io.starved - b.io.starved,
                a.io.buffers_free_min
            );
            over.store(true, Ordering::Relaxed);
        });
        let _ = before;
        // unread flooder
        flooder.abort_blocking();
    }
    // baseline: an agent of another engine that burns a core the same way
    let other = Engine::new().unwrap();
    let mut flooder = spawn(&other, &fake(&["--flood", "--record-size", "4096"]));
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                flooder.next_record_blocking();
            }
        });
        let flooded = rounds(&mut agents, 2000);
        show("flood on another engine", &flooded);
        over.store(true, Ordering::Relaxed);
    });
    let slow = spawn(&engine, &fake(&["--flood"]).limits(Limits::new().inbox_high(64 << 10)));
    wait_until("paused", || slow.stats().pauses == 1);
    let b = engine.stats();
    show("slow reader", &rounds(&mut agents, 2000));
    let a = engine.stats();
    println!("starved {} pauses {}", a.io.starved - b.io.starved, a.pauses - b.pauses);
}

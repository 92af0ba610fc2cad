//! The mode `--chat`: sends and answers requests at random, cancels some, and counts everything.
//!
//! The order of events is random, but every request has exactly one outcome. The answers of the host are
//! checked as they arrive; missing ones are found at the end of input.

mod wire;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::time::{Duration, Instant};

use serde_json::json;

use super::Fake;
use super::args::{Chat, ChatAs};
use super::ends::Stop;
use super::input::Item;
use wire::{Ask, Heard, Reply};

/// The most requests of the agent that are open at once.
const WINDOW: u64 = 64;
/// The longest pause before a request, an answer or a withdrawal.
const PAUSE: Duration = Duration::from_millis(2);

/// An action with a due time.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Action {
    Ask,
    Withdraw(u64),
    /// `id` is JSON text; `again` marks the second answer to one request.
    Answer {
        id: String,
        number: Option<u64>,
        again: bool,
    },
}

/// A request of the agent.
#[derive(Debug)]
struct OwnRequest {
    fails: bool,
    withdrawn: bool,
    answered: bool,
}

/// The counts of messages sent and received.
#[derive(Debug, Default)]
struct Tally {
    /// Lines received.
    records: u64,
    /// Requests of the agent, and how many of them were answered, withdrawn, and both.
    asked: u64,
    answered: u64,
    withdrawn: u64,
    crossed: u64,
    /// Answers of the host that confirm a withdrawal.
    cancelled: u64,
    /// Requests of the host, and those that get no answer because they say so (`ignored`) or because the
    /// host withdrew them (`dropped`).
    heard: u64,
    ignored: u64,
    dropped: u64,
    /// Answers to the host, with second ones; `repeated` counts the second ones.
    answers: u64,
    repeated: u64,
    /// Other records of the agent.
    notes: u64,
}

struct ChatPlayer<'a, 'b> {
    agent: &'a mut Fake<'b>,
    chat: Chat,
    dialect: ChatAs,
    random: Random,
    due: BinaryHeap<Reverse<(Instant, u64, Action)>>,
    /// Orders actions with the same due time.
    sequence: u64,
    own: HashMap<u64, OwnRequest>,
    open: u64,
    /// Requests of the host that wait for an answer.
    waiting: HashMap<String, Ask>,
    done: bool,
    tally: Tally,
}

pub(super) fn run(agent: &mut Fake<'_>, chat: Chat) -> Result<Stop, Stop> {
    let mut player = ChatPlayer {
        dialect: agent.args.script.chat_as,
        random: Random(chat.seed),
        agent,
        chat,
        due: BinaryHeap::new(),
        sequence: 0,
        own: HashMap::new(),
        open: 0,
        waiting: HashMap::new(),
        done: false,
        tally: Tally::default(),
    };
    for _ in 0..WINDOW.min(chat.count) {
        player.later(Action::Ask);
    }
    player.play()
}

impl ChatPlayer<'_, '_> {
    fn play(&mut self) -> Result<Stop, Stop> {
        loop {
            self.act()?;
            self.say_when_done()?;
            let next = self.due.peek().map(|Reverse((at, ..))| *at);
            let heard = match self.agent.input.next_before(next)? {
                Some(Item::Record(line) | Item::Tail(line)) => {
                    (self.dialect.read(line), String::from_utf8_lossy(line).into_owned())
                }
                Some(Item::End) => return self.end(),
                None => continue,
            };
            self.tally.records += 1;
            self.hear(heard.0).map_err(|why| match why {
                Stop::Mismatch(why) => Stop::Mismatch(format!("chat: {why}: {}", heard.1)),
                other => other,
            })?;
        }
    }

    fn later(&mut self, what: Action) {
        self.sequence += 1;
        let at = Instant::now() + self.random.delay(PAUSE);
        self.due.push(Reverse((at, self.sequence, what)));
    }

    /// Does what is due.
    fn act(&mut self) -> Result<(), Stop> {
        while self.due.peek().is_some_and(|Reverse((at, ..))| *at <= Instant::now()) {
            let Some(Reverse((_, _, what))) = self.due.pop() else { break };
            self.carry_out(what)?;
        }
        Ok(())
    }

    fn carry_out(&mut self, what: Action) -> Result<(), Stop> {
        match what {
            Action::Ask => self.ask(),
            Action::Withdraw(number) => self.withdraw(number),
            Action::Answer { id, number, again } => {
                if !again && self.waiting.remove(&id).is_none() {
                    // Withdrawn meanwhile.
                    return Ok(());
                }
                self.tally.repeated += u64::from(again);
                self.answer(&id, number.map_or(Reply::Error, |n| Reply::Success(Some(n))))
            }
        }
    }

    fn ask(&mut self) -> Result<(), Stop> {
        let number = self.tally.asked + 1;
        let fails = self.random.once_in(8);
        self.tally.asked = number;
        self.open += 1;
        self.own.insert(number, OwnRequest { fails, withdrawn: false, answered: false });
        if self.random.once_in(8) {
            self.later(Action::Withdraw(number));
        }
        let act = if fails { "fail" } else { "answer" };
        self.agent.output.record(self.dialect.request(number, act).as_bytes())?;
        if self.random.once_in(4) {
            self.note("chat_note")?;
        }
        Ok(())
    }

    /// Sends a record that is neither a request nor an answer.
    fn note(&mut self, name: &str) -> Result<(), Stop> {
        self.tally.notes += 1;
        let record = self.dialect.data(name, json!({"seq": self.tally.notes}));
        self.agent.output.record(record.as_bytes())
    }

    fn withdraw(&mut self, number: u64) -> Result<(), Stop> {
        let Some(own) = self.own.get_mut(&number).filter(|own| !own.answered) else {
            return Ok(());
        };
        own.withdrawn = true;
        self.tally.withdrawn += 1;
        self.agent.output.record(self.dialect.withdrawal(number).as_bytes())?;
        self.settled();
        Ok(())
    }

    /// Notes that a request of the agent is finished, and plans the next.
    fn settled(&mut self) {
        self.open -= 1;
        let begun = self.tally.asked + self.queued();
        if begun < self.chat.count {
            self.later(Action::Ask);
        }
    }

    fn queued(&self) -> u64 {
        self.due.iter().filter(|Reverse((_, _, due))| *due == Action::Ask).count() as u64
    }

    fn answer(&mut self, id: &str, outcome: Reply) -> Result<(), Stop> {
        self.tally.answers += 1;
        self.agent.output.record(self.dialect.answer(id, outcome).as_bytes())
    }

    fn hear(&mut self, heard: Heard) -> Result<(), Stop> {
        match heard {
            Heard::Asked { id, ask } => self.asked(id, ask),
            Heard::Answered { number, outcome } => {
                self.answered(number, outcome).map_err(|why| Stop::Mismatch(why.to_owned()))
            }
            Heard::Withdrawn { id } => self.withdrawn(&id),
            Heard::Told => Ok(()),
            Heard::Strange => Err(Stop::Mismatch("it is no part of a chat".to_owned())),
        }
    }

    fn asked(&mut self, id: String, ask: Ask) -> Result<(), Stop> {
        if ask == Ask::Greet {
            let hello = self.dialect.answer(&id, Reply::Success(None));
            return self.agent.output.record(hello.as_bytes());
        }
        self.tally.heard += 1;
        if self.waiting.insert(id.clone(), ask).is_some() {
            return Err(Stop::Mismatch("the id of this request is in use".to_owned()));
        }
        let number = match ask {
            Ask::Answer(number) | Ask::Twice(number) => Some(number),
            Ask::Fail | Ask::Ignore | Ask::Greet => None,
        };
        match ask {
            Ask::Ignore => {}
            Ask::Twice(_) => {
                self.later(Action::Answer { id: id.clone(), number, again: false });
                self.later(Action::Answer { id, number, again: true });
            }
            _ => self.later(Action::Answer { id, number, again: false }),
        }
        Ok(())
    }

    /// Checks an answer of the host: one per request, and the outcome that the request asked for.
    fn answered(&mut self, number: Option<u64>, outcome: Reply) -> Result<(), &'static str> {
        let Some(own) = number.and_then(|number| self.own.get_mut(&number)) else {
            return Err("an answer to what was not asked");
        };
        if std::mem::replace(&mut own.answered, true) {
            return Err("a second answer to one request");
        }
        match outcome {
            Reply::Cancelled if own.withdrawn => {
                self.tally.cancelled += 1;
                return Ok(());
            }
            Reply::Success(_) if own.fails => return Err("it was asked for an error"),
            Reply::Success(said) if said != number => {
                return Err("the answer to another request");
            }
            Reply::Success(_) => {}
            Reply::Error if own.fails => {}
            _ => return Err("it was asked for an answer"),
        }
        self.tally.answered += 1;
        if own.withdrawn {
            self.tally.crossed += 1;
        } else {
            self.settled();
        }
        Ok(())
    }

    fn withdrawn(&mut self, id: &str) -> Result<(), Stop> {
        // The withdrawal may have crossed the answer.
        let Some(_ask) = self.waiting.remove(id) else { return Ok(()) };
        if self.dialect == ChatAs::Lsp {
            return self.answer(id, Reply::Cancelled);
        }
        self.tally.dropped += 1;
        Ok(())
    }

    fn say_when_done(&mut self) -> Result<(), Stop> {
        if self.done || self.tally.asked < self.chat.count || self.open > 0 {
            return Ok(());
        }
        self.done = true;
        self.note("chat_done")
    }

    /// Ends the chat: sends the answers that are due, checks for missing ones, and writes the tally.
    fn end(&mut self) -> Result<Stop, Stop> {
        if !self.done {
            let what = format!("chat: stdin ended with {} requests of mine open", self.open);
            return Err(Stop::Mismatch(what));
        }
        while let Some(Reverse((_, _, what))) = self.due.pop() {
            self.carry_out(what)?;
        }
        let lsp = self.dialect == ChatAs::Lsp;
        let owed = |own: &&OwnRequest| !own.answered && (lsp || !own.withdrawn);
        let owed = self.own.values().filter(owed).count();
        if owed > 0 {
            let what = format!("chat: stdin ended and {owed} answers did not come");
            return Err(Stop::Mismatch(what));
        }
        self.tally.ignored = self.waiting.len() as u64;
        let Tally {
            records,
            asked,
            answered,
            withdrawn,
            crossed,
            cancelled,
            heard,
            ignored,
            dropped,
            answers,
            repeated,
            notes,
        } = self.tally;
        let tally = json!({
            "records": records, "asked": asked, "answered": answered, "withdrawn": withdrawn,
            "crossed": crossed, "cancelled": cancelled, "heard": heard, "ignored": ignored,
            "dropped": dropped, "answers": answers, "repeated": repeated, "notes": notes,
        });
        self.agent.output.record(self.dialect.data("chat_tally", tally).as_bytes())?;
        Ok(Stop::Eof)
    }
}

/// A generator that is the same in every run: SplitMix64.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Returns true once in `times` calls on average.
    fn once_in(&mut self, times: u64) -> bool {
        self.next().is_multiple_of(times)
    }

    /// Returns up to `limit`, and zero in a quarter of the calls.
    fn delay(&mut self, limit: Duration) -> Duration {
        if self.once_in(4) {
            return Duration::ZERO;
        }
        let limit = u64::try_from(limit.as_micros()).unwrap_or(u64::MAX).max(1);
        Duration::from_micros(self.next() % limit)
    }
}

//! Decides from `/proc/<pid>/task/*/stat` whether an agent is idle, or may still write output.
//!
//! A thread with output to write and room in the pipe is running, waits for a processor, or is in
//! uninterruptible sleep (states R and D). A thread that waits for input, a timer or another thread is in
//! interruptible sleep (S). The kernel makes a sleeper runnable at the moment it is woken, so a thread
//! that is seen in state S has already run since the last event it was woken for.
//!
//! An agent is often several processes: a launcher sleeps in `wait(2)` while the real agent works. So
//! the check covers the leader and those of its descendants that are in its process group or hold one
//! of its outputs. Descendants that have left the group and write elsewhere (background jobs of a tool)
//! do not count.
//!
//! The threads are read one after another, and a running thread may hand its work to one that was read
//! before and go to sleep itself. The processor time of each process, read before and after, rules that
//! out: if it has not changed, no thread ran in between, so all were asleep at one instant.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::close::Activity;

use super::procfs::{self, GroupMember, ProcStat, living_members};
use super::sys::cpu_time;

/// An agent with more threads is not checked, because that would take more than 20 ms.
const THREADS_MAX: usize = 1024;

/// The processes of an agent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Family<'a> {
    /// The leader; once it is gone, the remaining members of its group.
    pub(crate) roots: &'a [u32],
    /// The number of the process group.
    pub(crate) group: u32,
    /// The inodes of the stdout and stderr pipes.
    pub(crate) outputs: [u64; 2],
}

impl Family<'_> {
    /// Returns what the agent is doing. Costs about 10 us for each thread, and subtracts the number of
    /// threads from `budget`, which may end below what one check needs.
    ///
    /// Adds to `strays` the descendants that do not count: outside the group, without an output.
    pub(crate) fn activity(&self, budget: &mut usize, strays: &mut Vec<GroupMember>) -> Activity {
        // Without a `/proc` that numbers processes as this process does, a number could name
        // another process.
        if !procfs::is_usable() {
            return Activity::Unknown;
        }
        // The times are read before the survey and compared after it, so a thread that ran during
        // the survey shows.
        let before: Vec<_> = self.roots.iter().map(|pid| cpu_time(*pid)).collect();
        let first = self.survey(budget, strays);
        let processes = match &first {
            Err(activity) => return *activity,
            Ok(survey) if survey.processes.is_empty() => return Activity::Gone,
            Ok(survey) => &survey.processes,
        };
        // The survey found no process besides those that were timed before it.
        if processes.as_slice() == self.roots {
            return verdict(&first, &before, self.roots);
        }
        // There are more processes than were timed, so time all of them. A process that starts or ends
        // in between shows in the processor time of its parent or of itself.
        let before: Vec<_> = processes.iter().map(|pid| cpu_time(*pid)).collect();
        verdict(&self.survey(budget, strays), &before, processes)
    }

    /// Finds the processes and reads the states of their threads. An error is already the answer.
    fn survey(
        &self,
        budget: &mut usize,
        strays: &mut Vec<GroupMember>,
    ) -> Result<Survey, Activity> {
        let mut survey = Survey::default();
        self.visit(self.roots.to_vec(), &mut survey, budget, strays)?;
        // Without the lists of children, the members of the group are still found by their group
        // number. Only descendants that have left the group are missed.
        if survey.children_hidden {
            let [members] = living_members([self.group]);
            let members = members.iter().map(GroupMember::pid).collect();
            self.visit(members, &mut survey, budget, strays)?;
        }
        // The roots first and in their order, for the comparison with `roots`.
        survey.processes.sort_unstable_by_key(|pid| {
            self.roots.iter().position(|root| root == pid).unwrap_or(self.roots.len())
        });
        Ok(survey)
    }

    /// Surveys the processes and those of their descendants that count.
    fn visit(
        &self,
        mut unvisited: Vec<u32>,
        survey: &mut Survey,
        budget: &mut usize,
        strays: &mut Vec<GroupMember>,
    ) -> Result<(), Activity> {
        while let Some(pid) = unvisited.pop() {
            // The search of the group finds again what was reached from the roots.
            if survey.processes.contains(&pid) {
                continue;
            }
            let folder = PathBuf::from(format!("/proc/{pid}"));
            let is_root = self.roots.contains(&pid);
            match ProcStat::read(&folder) {
                // It has ended since it was listed.
                None => continue,
                Some(stat) if stat.is_dead() => continue,
                Some(stat) if is_root || stat.group == self.group => {}
                // The real agent behind `timeout` or `setsid` is in another group and writes to the
                // same pipe.
                Some(_) if self.holds_output(&folder) => {}
                Some(stat) => {
                    strays.push(GroupMember::new(pid, &stat));
                    continue;
                }
            }
            survey.processes.push(pid);
            survey.add_threads(&folder, &mut unvisited, budget)?;
        }
        Ok(())
    }

    /// Returns whether a process has an output of the agent as its stdout or stderr, or hides its
    /// descriptors.
    pub(crate) fn may_hold_output(&self, pid: u32) -> bool {
        let folder = PathBuf::from(format!("/proc/{pid}"));
        self.holds_output(&folder) || fs::read_dir(folder.join("fd")).is_err()
    }

    fn holds_output(&self, folder: &Path) -> bool {
        let pipes = self.outputs.map(|inode| format!("pipe:[{inode}]"));
        ["fd/1", "fd/2"].iter().any(|fd| {
            fs::read_link(folder.join(fd))
                .is_ok_and(|link| pipes.iter().any(|pipe| link == Path::new(pipe)))
        })
    }
}

#[derive(Debug, Default)]
struct Survey {
    processes: Vec<u32>,
    threads: usize,
    /// The kernel did not list children: the process group is searched instead.
    children_hidden: bool,
}

impl Survey {
    /// Adds all threads of a process, and lists their children.
    fn add_threads(
        &mut self,
        folder: &Path,
        children: &mut Vec<u32>,
        budget: &mut usize,
    ) -> Result<(), Activity> {
        let threads = fs::read_dir(folder.join("task")).map_err(|_| Activity::Unknown)?;
        for thread in threads.flatten().map(|entry| entry.path()) {
            self.threads += 1;
            // The budget ends no check that has begun: at 0 the caller defers the next one.
            *budget = budget.saturating_sub(1);
            if self.threads > THREADS_MAX {
                return Err(Activity::Unknown);
            }
            match ProcStat::read(&thread).map(|stat| stat.state) {
                // A zombie or dead thread of a living process (Z, X) writes nothing, so it counts
                // as asleep.
                Some(b'S' | b'I' | b'P' | b'Z' | b'X' | b'x') => {}
                Some(b'T' | b't') => return Err(Activity::Stopped),
                // A state that is not known here counts as busy, too: that delays a close and loses
                // no output.
                Some(_) => return Err(Activity::Busy),
                // The thread has just ended, so it ran.
                None => return Err(Activity::Busy),
            }
            match fs::read_to_string(thread.join("children")) {
                Ok(list) => {
                    children.extend(list.split_ascii_whitespace().flat_map(str::parse::<u32>))
                }
                // The kernel has no CONFIG_PROC_CHILDREN, or the thread has ended.
                Err(_) => self.children_hidden = true,
            }
        }
        Ok(())
    }
}

/// All threads were seen asleep one after another: decides whether they were so at one instant.
fn verdict(
    survey: &Result<Survey, Activity>,
    before: &[Option<Duration>],
    processes: &[u32],
) -> Activity {
    match survey {
        Err(activity) => *activity,
        Ok(survey) => {
            // A process that was reaped in between has no time any more, which is a change, too.
            let unchanged =
                processes.iter().zip(before).all(|(pid, before)| cpu_time(*pid) == *before);
            match survey.threads {
                _ if !unchanged => Activity::Busy,
                0 | 1 => Activity::Asleep,
                _ => Activity::AllAsleep,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command, Stdio};

    use rustix::process::{Pid, Signal, kill_process};

    use super::{Activity, Family};

    /// With a budget for any process.
    fn activity(pid: u32) -> Activity {
        family(&pid).activity(&mut 1000, &mut Vec::new())
    }

    fn family(root: &u32) -> Family<'_> {
        Family { roots: std::slice::from_ref(root), group: *root, outputs: [0, 0] }
    }

    /// A child with a group of its own, which is killed with this value.
    struct Group(Child);

    impl Group {
        /// A shell that has said "ready".
        fn shell(script: &str) -> Self {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", &format!("echo ready; {script}")]);
            Self::start(&mut command, "ready")
        }

        fn start(command: &mut Command, ready: &str) -> Self {
            command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut group = Self(command.spawn().expect("it starts"));
            while !group.line().ends_with(ready) {}
            group
        }

        fn id(&self) -> u32 {
            self.0.id()
        }

        /// A line of its output.
        fn line(&mut self) -> String {
            let stdout = self.0.stdout.as_mut().expect("piped");
            let mut said = Vec::new();
            while said.last() != Some(&b'\n') {
                let mut byte = [0];
                stdout.read_exact(&mut byte).expect("a line");
                said.push(byte[0]);
            }
            String::from_utf8(said).expect("text").trim_end().to_owned()
        }
    }

    impl Drop for Group {
        fn drop(&mut self) {
            let _gone = rustix::process::kill_process_group(Pid::from_child(&self.0), Signal::KILL);
            let _reaped = self.0.wait();
        }
    }

    /// Another process, which is killed with this value.
    struct Job(Pid);

    impl Job {
        fn new(pid: &str) -> Self {
            Self(pid.trim().parse().ok().and_then(Pid::from_raw).expect("a pid"))
        }
    }

    impl Drop for Job {
        fn drop(&mut self) {
            let _gone = kill_process(self.0, Signal::KILL);
        }
    }

    /// Waits until the answer is `wanted`; the process needs its time to get there.
    fn must_become(pid: u32, wanted: Activity) {
        let begun = std::time::Instant::now();
        while activity(pid) != wanted {
            assert!(begun.elapsed().as_secs() < 30, "{:?}, not {wanted:?}", activity(pid));
            std::thread::yield_now();
        }
    }

    #[test]
    fn process_waiting_for_input_is_asleep() {
        let child = Group::shell("read line");
        must_become(child.id(), Activity::Asleep);
    }

    #[test]
    fn running_process_is_busy() {
        let child = Group::shell("while :; do :; done");
        for _ in 0..1000 {
            assert_eq!(activity(child.id()), Activity::Busy);
        }
        kill_process(Pid::from_child(&child.0), Signal::STOP).expect("ours");
        must_become(child.id(), Activity::Stopped);
    }

    /// With more busy processes than processors, each is without one for most of the time.
    #[test]
    fn process_waiting_for_a_processor_is_busy() {
        let busy: Vec<_> = (0..8).map(|_| Group::shell("while :; do :; done")).collect();
        for _ in 0..200 {
            for child in &busy {
                assert_eq!(activity(child.id()), Activity::Busy);
            }
        }
    }

    /// A launcher sleeps in `wait(2)` while the agent behind it works.
    #[test]
    fn launcher_is_as_busy_as_its_child() {
        let child = Group::shell("sh -c 'while :; do :; done'; :");
        must_become(child.id(), Activity::Busy);
        for _ in 0..1000 {
            assert_eq!(activity(child.id()), Activity::Busy);
        }
        let child = Group::shell("sh -c 'read line'; :");
        must_become(child.id(), Activity::AllAsleep);
    }

    /// A background job of a tool has left the group and writes to a file: it is not part of the agent.
    #[test]
    fn background_job_in_another_session_is_ignored() {
        let script = "setsid sh -c 'echo $$ >&3; exec >/dev/null 2>&1; while :; do :; done' 3>&1 & \
                      read line";
        let mut child = Group::shell(script);
        let _job = Job::new(&child.line());
        must_become(child.id(), Activity::Asleep);
    }

    /// The real agent behind `timeout` or `setsid` is in another group and holds the output.
    #[test]
    fn output_holder_outside_the_group_counts() {
        let child = Group::shell("setsid -w sh -c 'while :; do :; done'; :");
        let stdout = child.0.stdout.as_ref().expect("piped");
        let inode = rustix::fs::fstat(stdout).expect("a pipe").st_ino;
        let root = child.id();
        let family = Family { outputs: [inode, 0], ..family(&root) };
        let list = || std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", child.id()));
        let begun = std::time::Instant::now();
        while list().expect("children").is_empty()
            || family.activity(&mut 1000, &mut Vec::new()) != Activity::Busy
        {
            assert!(begun.elapsed().as_secs() < 30, "it was never seen");
        }
        let _job = Job::new(&list().expect("children"));
        for _ in 0..1000 {
            assert_eq!(family.activity(&mut 1000, &mut Vec::new()), Activity::Busy);
        }
    }

    #[test]
    fn process_with_a_running_thread_is_busy() {
        let (stop, wait) = std::sync::mpsc::channel::<()>();
        let sleeper = std::thread::spawn(move || wait.recv());
        assert_eq!(activity(std::process::id()), Activity::Busy);
        drop(stop);
        assert!(sleeper.join().expect("no panic").is_err());
    }

    #[test]
    fn dead_process_is_gone() {
        let mut child = Group::shell("read line");
        child.0.kill().expect("ours");
        must_become(child.id(), Activity::Gone);
        child.0.wait().expect("ours");
        assert_eq!(activity(child.id()), Activity::Gone);
    }

    #[test]
    fn check_subtracts_its_threads_from_the_budget() {
        let child = Group::shell("read line");
        must_become(child.id(), Activity::Asleep);
        let mut budget = 10;
        let root = child.id();
        assert_eq!(family(&root).activity(&mut budget, &mut Vec::new()), Activity::Asleep);
        assert_eq!(budget, 9);
    }

    /// Two threads hand work to each other: one of them is always awake, but a check that reads one after
    /// the other could find both asleep.
    #[test]
    fn threads_that_pass_work_on_are_never_idle() {
        let mut relay = Command::new(std::env::current_exe().expect("this binary"));
        relay.args(["--exact", "--nocapture", "process::activity::tests::relay"]);
        relay.env("AGENTPIPE_TEST_RELAY", "1");
        let child = Group::start(&mut relay, "relay");
        for n in 0..20_000 {
            let seen = activity(child.id());
            assert_eq!(seen, Activity::Busy, "check {n}");
        }
    }

    /// The process of the test above: two threads that wake each other through channels. Run as a test it
    /// passes one token and ends.
    #[test]
    fn relay() {
        let endless = std::env::var_os("AGENTPIPE_TEST_RELAY").is_some();
        let (there, from_here) = std::sync::mpsc::channel::<()>();
        let (back, from_there) = std::sync::mpsc::channel::<()>();
        let echo =
            std::thread::spawn(move || while from_here.recv().is_ok() && back.send(()).is_ok() {});
        let mut rounds = 0;
        if endless {
            std::io::Write::write_all(&mut std::io::stdout(), b"relay\n").expect("piped");
        }
        while endless || rounds == 0 {
            there.send(()).expect("the other thread lives");
            from_there.recv().expect("the other thread answers");
            rounds += 1;
        }
        drop(there);
        echo.join().expect("no panic");
        assert_eq!(rounds, 1);
    }
}

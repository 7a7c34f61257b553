//! A deterministic simulator: the real services and scripts, several servers, one store and
//! one database in one thread, and a scheduler with a seed that decides when every command,
//! answer, statement and timer happens, and what goes wrong. See docs/safety.md.
//!
//! `cargo run --profile bench --features simulation --example simulate -- [--histories N]
//! [--minutes M] [--seed S] [--only SEED [--trace | --whole]] [--without MEND] [--all]
//! [--never FAULT]...`

#![allow(
    clippy::disallowed_methods,
    clippy::exit,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::struct_excessive_bools,
    clippy::struct_field_names,
    clippy::too_many_lines,
    clippy::unwrap_used,
    reason = "a program for a person at a terminal"
)]

mod client;
mod cluster;
mod faults;
mod history;
mod journal;
mod knowledge;
mod run;
mod shrink;
mod trouble;
mod world;

use std::{
    process::exit,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use lockable::mends::Mend;

use self::{
    history::{FaultKind, History},
    run::{Ran, run},
    shrink::shrink,
};

/// How many steps of a history are shown.
const SHOWN_MAX: usize = 30;

struct Options {
    histories: u64,
    limit: Duration,
    seed: u64,
    only: Option<u64>,
    is_traced: bool,
    /// The trace of the one history is shown as it is.
    is_whole: bool,
    /// All that fail are shown, not the first alone.
    goes_on: bool,
    /// Each history runs twice, which must be the same.
    is_twice: bool,
    without: Option<Mend>,
    is_all: bool,
    never: Vec<String>,
    threads: usize,
}

/// What became of many histories.
struct Sum {
    histories: u64,
    steps: u64,
    slowest_ms: u64,
    simulated_ms: u64,
    passed: Duration,
    /// The seed of the first that has failed, and as how many-th.
    failed: Option<(u64, u64, String)>,
}

fn main() {
    let options = Options::read();
    if let Some(seed) = options.only {
        let history = History::generate(seed, &options.never);
        let ran = run(&history, options.without, options.is_whole);
        if options.is_whole {
            return ran.trace.iter().for_each(|line| println!("{line}"));
        }
        return report(&options, history, ran);
    }
    if options.is_all {
        return table(&options);
    }
    let sum = run_many(&options, options.without);
    println!("{}", sum.shown());
    if let Some((seed, ..)) = sum.failed {
        let history = History::generate(seed, &options.never);
        let ran = run(&history, options.without, false);
        report(&options, history, ran);
    }
}

/// Shows what became of one history, as small as it can be made.
fn report(options: &Options, history: History, ran: Ran) {
    println!("history {}: {} steps, {:.1} s simulated", history.seed, ran.steps, ran.simulated_ms as f64 / 1e3);
    let Some(what) = ran.violation.clone() else { return };
    println!("{what}\nsmaller:");
    let (smaller, ran) = shrink(&history, options.without, ran);
    println!(
        "{} of {} steps and {} of {} faults: {}",
        smaller.steps.len(),
        history.steps.len(),
        smaller.faults.len(),
        history.faults.len(),
        ran.violation.unwrap_or_default()
    );
    if options.is_traced {
        run(&smaller, options.without, true).trace.iter().for_each(|line| println!("{line}"));
    } else {
        println!("servers {}, short {} ms, {:?}", smaller.servers, smaller.short_ms, smaller.weather);
        smaller.steps.iter().take(SHOWN_MAX).for_each(|step| println!("{:>7.3} {step}", step.at_ms as f64 / 1e3));
        smaller.faults.iter().for_each(|fault| println!("{:>7.3} {:?}", fault.at_ms as f64 / 1e3, fault.kind));
    }
    exit(1);
}

/// Runs histories on all processors, until one fails.
fn run_many(options: &Options, without: Option<Mend>) -> Sum {
    let begun = Instant::now();
    let (next, steps, simulated_ms, slowest_ms) =
        (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let (is_over, failed) = (AtomicBool::new(false), Mutex::new(None));
    thread::scope(|scope| {
        for _ in 0..options.threads {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= options.histories || begun.elapsed() > options.limit {
                        next.fetch_sub(1, Ordering::Relaxed);
                        return;
                    }
                    let seed = options.seed.wrapping_add(number);
                    let history = History::generate(seed, &options.never);
                    let ran = run(&history, without, false);
                    steps.fetch_add(ran.steps, Ordering::Relaxed);
                    simulated_ms.fetch_add(ran.simulated_ms, Ordering::Relaxed);
                    slowest_ms.fetch_max(ran.slowest_ms, Ordering::Relaxed);
                    let mut what = ran.violation;
                    // What fails with all mends on says nothing of this one.
                    if without.is_some() && what.is_some() && run(&history, None, false).violation.is_some() {
                        what = None;
                    }
                    if options.is_twice {
                        let again = run(&history, without, false);
                        if again.digest != ran.digest {
                            what = Some(format!("two runs differ: {} and {} steps", ran.steps, again.steps));
                        }
                    }
                    if let Some(what) = what.as_ref().filter(|_| options.goes_on) {
                        println!("{seed}: {}", what.chars().take(160).collect::<String>());
                    } else if let Some(what) = what {
                        is_over.store(true, Ordering::Relaxed);
                        failed.lock().unwrap().get_or_insert((seed, number + 1, what));
                    }
                }
            });
        }
    });
    Sum {
        histories: next.into_inner(),
        steps: steps.into_inner(),
        slowest_ms: slowest_ms.into_inner(),
        simulated_ms: simulated_ms.into_inner(),
        passed: begun.elapsed(),
        failed: failed.into_inner().unwrap(),
    }
}

/// Switches each mend off in turn, and says after how many histories that was found.
fn table(options: &Options) {
    println!("| mend | found in history | what was found |\n| --- | --- | --- |");
    for mend in Mend::ALL {
        let sum = run_many(options, Some(mend));
        match sum.failed {
            Some((seed, number, what)) => println!("| {mend:?} | {number} (seed {seed}) | {what} |"),
            None => println!("| {mend:?} | not in {} | |", sum.histories),
        }
    }
}

impl Sum {
    fn shown(&self) -> String {
        let seconds = self.passed.as_secs_f64();
        let each = |sum: f64| sum / self.histories.max(1) as f64;
        let failed = match &self.failed {
            Some((seed, number, what)) => format!("\nhistory {number}, seed {seed}: {what}"),
            None => String::new(),
        };
        format!(
            "{} histories in {seconds:.1} s: {:.1} ms and {:.0} steps each, {:.1} s simulated each, {:.1} million steps \
             a minute; slowest answer {} ms{failed}",
            self.histories,
            each(seconds * 1e3),
            each(self.steps as f64),
            each(self.simulated_ms as f64 / 1e3),
            self.steps as f64 / seconds * 60.0 / 1e6,
            self.slowest_ms,
        )
    }
}

impl Options {
    fn read() -> Self {
        let mut options = Self {
            histories: 10_000,
            limit: Duration::from_secs(3600),
            seed: 1,
            only: None,
            is_traced: false,
            is_whole: false,
            goes_on: false,
            is_twice: false,
            without: None,
            is_all: false,
            // "a leap that is undone before it is noticed": such a pair is not noticed.
            never: vec!["blip".to_owned()],
            threads: thread::available_parallelism().map_or(1, Into::into),
        };
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            let mut value = || args.next().unwrap_or_else(|| usage(&arg));
            match arg.as_str() {
                "--histories" => options.histories = number(&value()),
                "--minutes" => {
                    let minutes: f64 = value().parse().unwrap_or_else(|_| usage(&arg));
                    options.limit = Duration::from_secs_f64(minutes * 60.0);
                }
                "--seed" => options.seed = number(&value()),
                "--only" => options.only = Some(number(&value())),
                "--threads" => options.threads = number(&value()) as usize,
                "--trace" => options.is_traced = true,
                "--go-on" => options.goes_on = true,
                "--whole" => options.is_whole = true,
                "--twice" => options.is_twice = true,
                "--without" => {
                    let name = value();
                    let mend = Mend::ALL.into_iter().find(|mend| mend.name() == name);
                    options.without = Some(mend.unwrap_or_else(|| usage(&name)));
                }
                "--all" => options.is_all = true,
                "--never" | "--also" => {
                    let name = value();
                    if !FaultKind::NAMES.contains(&&*name) {
                        usage(&name);
                    }
                    options.never.retain(|never| *never != name);
                    if arg == "--never" {
                        options.never.push(name);
                    }
                }
                _ => usage(&arg),
            }
        }
        options
    }
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or_else(|_| usage(text))
}

fn usage(wrong: &str) -> ! {
    println!("{wrong} cannot be understood\n");
    println!(
        "[--histories N] [--minutes M] [--seed S] [--threads N] [--twice] [--go-on] [--only SEED [--trace | --whole]]"
    );
    println!("[--without MEND | --all] [--never FAULT]... [--also FAULT]...\n");
    println!("mends: {}", Mend::ALL.map(Mend::name).join(" "));
    println!("faults: {}", FaultKind::NAMES.join(" "));
    exit(2)
}

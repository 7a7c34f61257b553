//! A deterministic simulator: several servers with the real services and scripts, one store and
//! one database in one thread, and a seeded scheduler, which decides the time of every command,
//! answer, statement and timer, and all faults. See docs/safety.md.
//!
//! `cargo run --profile bench --features simulation --example simulate -- --help` lists the options.
//!
//! Read `history.rs` first (what a seed decides), then `run.rs` (how a history runs), `oracle.rs`
//! (what is checked) and `world.rs` (network, store and time).

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
    reason = "a command-line program"
)]

mod client;
mod cluster;
mod faults;
mod history;
mod journal;
mod oracle;
mod run;
mod scenarios;
mod shrink;
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

use lockable::safeguards::Safeguard;

use self::{
    history::{FaultKind, History},
    run::{RunResult, run},
    shrink::shrink,
};

const HELP: &str = "\
--histories N          run N histories (10,000), each with the next seed
--minutes M            start no history later than this (60)
--seed S               the first seed (1)
--threads N            run N histories at once (the number of CPUs)
--twice                run each history twice, and fail if the runs differ
--go-on                print every failing history instead of stopping at the first
--only SEED            run one history, and shrink it if it fails
  --trace              print the commands of the shrunk history
  --whole              print the commands of the whole history, without shrinking it
--without SAFEGUARD    switch a safeguard off
--all                  switch each safeguard off in turn, and count the histories until a violation
--never FAULT          leave a fault out
--also FAULT           inject a fault that is left out otherwise: clock-blip
";

/// The maximum number of printed steps of a history.
const SHOWN_MAX: usize = 30;

struct Options {
    histories: u64,
    limit: Duration,
    seed: u64,
    only: Option<u64>,
    is_traced: bool,
    /// Prints the trace of the history without shrinking it.
    is_unshrunk: bool,
    /// Prints all failing histories instead of stopping at the first.
    continues: bool,
    /// Runs each history twice and compares both runs.
    is_twice: bool,
    without: Option<Safeguard>,
    is_all: bool,
    never: Vec<String>,
    threads: usize,
}

/// The totals of several histories.
struct Totals {
    histories: u64,
    steps: u64,
    slowest_ms: u64,
    simulated_ms: u64,
    elapsed: Duration,
    /// The seed and the number of the first failing history, and its violation.
    failed: Option<(u64, u64, String)>,
}

fn main() {
    let options = Options::read();
    if let Some(seed) = options.only {
        let history = History::generate(seed, &options.never);
        let result = run(&history, options.without, options.is_unshrunk);
        if options.is_unshrunk {
            return result.trace.iter().for_each(|line| println!("{line}"));
        }
        return report(&options, history, result);
    }
    if options.is_all {
        return print_table(&options);
    }
    let sum = run_many(&options, options.without);
    println!("{}", sum.summary());
    if let Some((seed, ..)) = sum.failed {
        let history = History::generate(seed, &options.never);
        let result = run(&history, options.without, false);
        report(&options, history, result);
    }
}

/// Prints the result of one history, and the shrunk history if it failed.
fn report(options: &Options, history: History, result: RunResult) {
    println!("history {}: {} steps, {:.1} s simulated", history.seed, result.steps, result.simulated_ms as f64 / 1e3);
    let Some(what) = result.violation.clone() else { return };
    println!("{what}\nshrunk:");
    let (smaller, result) = shrink(&history, options.without, result);
    println!(
        "{} of {} steps and {} of {} faults: {}",
        smaller.steps.len(),
        history.steps.len(),
        smaller.faults.len(),
        history.faults.len(),
        result.violation.unwrap_or_default()
    );
    if options.is_traced {
        run(&smaller, options.without, true).trace.iter().for_each(|line| println!("{line}"));
    } else {
        println!("servers {}, short {} ms, {:?}", smaller.servers, smaller.short_ms, smaller.message_faults);
        smaller.steps.iter().take(SHOWN_MAX).for_each(|step| println!("{:>7.3} {step}", step.at_ms as f64 / 1e3));
        smaller.faults.iter().for_each(|fault| println!("{:>7.3} {:?}", fault.at_ms as f64 / 1e3, fault.kind));
    }
    exit(1);
}

/// Runs histories on all CPUs, until one fails.
fn run_many(options: &Options, without: Option<Safeguard>) -> Totals {
    let began_at = Instant::now();
    let (next, steps, simulated_ms, slowest_ms) =
        (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let (is_over, failed) = (AtomicBool::new(false), Mutex::new(None));
    thread::scope(|scope| {
        for _ in 0..options.threads {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= options.histories || began_at.elapsed() > options.limit {
                        next.fetch_sub(1, Ordering::Relaxed);
                        return;
                    }
                    let seed = options.seed.wrapping_add(number);
                    let history = History::generate(seed, &options.never);
                    let result = run(&history, without, false);
                    steps.fetch_add(result.steps, Ordering::Relaxed);
                    simulated_ms.fetch_add(result.simulated_ms, Ordering::Relaxed);
                    slowest_ms.fetch_max(result.slowest_ms, Ordering::Relaxed);
                    let mut what = result.violation;
                    // A history that also fails with all safeguards does not show that this one is needed.
                    if without.is_some() && what.is_some() && run(&history, None, false).violation.is_some() {
                        what = None;
                    }
                    if options.is_twice {
                        let again = run(&history, without, false);
                        if again.digest != result.digest {
                            what = Some(format!("two runs differ: {} and {} steps", result.steps, again.steps));
                        }
                    }
                    if let Some(what) = what.as_ref().filter(|_| options.continues) {
                        println!("{seed}: {}", what.chars().take(160).collect::<String>());
                    } else if let Some(what) = what {
                        is_over.store(true, Ordering::Relaxed);
                        failed.lock().unwrap().get_or_insert((seed, number + 1, what));
                    }
                }
            });
        }
    });
    Totals {
        histories: next.into_inner(),
        steps: steps.into_inner(),
        slowest_ms: slowest_ms.into_inner(),
        simulated_ms: simulated_ms.into_inner(),
        elapsed: began_at.elapsed(),
        failed: failed.into_inner().unwrap(),
    }
}

/// Switches each safeguard off in turn, and prints the number of histories until a violation.
fn print_table(options: &Options) {
    println!("| safeguard | history | violation |\n| --- | --- | --- |");
    for safeguard in Safeguard::ALL {
        let sum = run_many(options, Some(safeguard));
        match sum.failed {
            Some((seed, number, what)) => println!("| {safeguard:?} | {number} (seed {seed}) | {what} |"),
            None => println!("| {safeguard:?} | not in {} | |", sum.histories),
        }
    }
}

impl Totals {
    fn summary(&self) -> String {
        let seconds = self.elapsed.as_secs_f64();
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
            is_unshrunk: false,
            continues: false,
            is_twice: false,
            without: None,
            is_all: false,
            // "a clock jump that is reverted before it is detected" is a documented limit.
            never: vec!["clock-blip".to_owned()],
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
                "--go-on" => options.continues = true,
                "--whole" => options.is_unshrunk = true,
                "--twice" => options.is_twice = true,
                "--without" => {
                    let name = value();
                    let safeguard = Safeguard::ALL.into_iter().find(|safeguard| safeguard.name() == name);
                    options.without = Some(safeguard.unwrap_or_else(|| usage(&name)));
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
                "--help" => {
                    print_help();
                    exit(0)
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
    println!("invalid argument: {wrong}\n");
    print_help();
    exit(2)
}

fn print_help() {
    println!("{HELP}");
    println!("safeguards: {}", Safeguard::ALL.map(Safeguard::name).join(" "));
    println!("faults: {}", FaultKind::NAMES.join(" "));
}

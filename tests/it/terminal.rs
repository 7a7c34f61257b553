//! `lockable run` in terminals: shells, shapes of jobs, and what happens to them. `flock` in the
//! same session shows what is expected.
//!
//! `tests/terminal` runs the whole table, `tests/run` a few cases in which each pair of values
//! occurs.

mod case;
mod differences;
mod folder;
mod locker;
mod processes;
mod scenario;
mod session;
mod single;
mod steps;

use std::sync::Arc;

use futures_util::{StreamExt, stream};

use self::{
    case::{Case, Shape, pairwise},
    differences::{Difference, normalized},
    locker::{Locker, Server, may_unshare},
};

/// How many cases run at once. Most of them wait most of the time.
const AT_ONCE: usize = 32;

#[tokio::test(flavor = "multi_thread")]
async fn a_shell_sees_what_it_sees_of_flock() {
    let server = Arc::new(Server::start().await);
    let cases = chosen(may_unshare().await);
    let count = cases.len();
    let played = stream::iter(cases).map(|case| {
        let played = tokio::spawn(check(case, server.clone()));
        async move { played.await.unwrap_or_else(|panic| Some(format!("\n{case}: {panic}"))) }
    });
    let faults: Vec<String> = played.buffer_unordered(AT_ONCE).filter_map(std::future::ready).collect().await;
    assert!(faults.is_empty(), "{} of {count} cases failed:\n{}", faults.len(), faults.join("\n"));
}

/// The cases that the environment asks for: all with `TERMINAL_WHOLE`, those whose names contain
/// the words of `TERMINAL_ONLY`, each of them `TERMINAL_TIMES` times.
fn chosen(may_unshare: bool) -> Vec<Case> {
    let variable = |name| std::env::var(name).ok();
    let has = |case: &Case, word: &str| case.to_string().split(' ').any(|value| value == word);
    let mut cases = Case::all();
    cases.retain(|case| may_unshare || case.shape != Shape::First);
    match (variable("TERMINAL_ONLY"), variable("TERMINAL_WHOLE")) {
        (Some(words), _) => cases.retain(|case| words.split_whitespace().all(|word| has(case, word))),
        (None, Some(_)) => {}
        (None, None) => cases = pairwise(&cases),
    }
    let times = variable("TERMINAL_TIMES").map_or(1, |times| times.parse().unwrap());
    cases.into_iter().flat_map(|case| std::iter::repeat_n(case, times)).collect()
}

/// Plays a case with both. Returns what is wrong.
async fn check(case: Case, server: Arc<Server>) -> Option<String> {
    let flock = scenario::play(case, &server, &Locker::Flock, None).await;
    if !flock.faults.is_empty() {
        return Some(format!("\n{case}: flock: {:?}\n{}", flock.faults, flock.screen));
    }
    let differences = Difference::of(case);
    let expected = normalized(case, Difference::applied(&differences, &flock.outcome));
    let locker = Locker::lockable(&server, case).await;
    let seen = scenario::play(case, &server, &locker, Some(&expected)).await;
    let is_right = normalized(case, seen.outcome.clone()) == expected && seen.faults.is_empty();
    let explain = || {
        let reasons: Vec<_> = differences.iter().map(|difference| difference.reason).collect();
        let [flock, ours] = [&flock.screen, &seen.screen].map(|screen| screen.replace('\n', "\n    "));
        format!(
            "\n{case}\n  faults: {:?}\n  expected: {expected}\n  seen:     {}\n  differences: {reasons:?}\n  \
             flock's screen:\n    {flock}\n  screen:\n    {ours}",
            seen.faults, seen.outcome
        )
    };
    (!is_right).then(explain)
}

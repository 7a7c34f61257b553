//! `lockable run` in terminals, for each shell, shape of job and event. `flock` in the same session is
//! the oracle.
//!
//! `tests/terminal` runs the whole table, `tests/run` a few cases that cover each pair of values.

mod case;
mod differences;
mod folder;
mod processes;
mod scenario;
mod session;
mod single;
mod steps;
mod wrapper;

use std::sync::Arc;

use futures_util::{StreamExt, stream};

use self::{
    case::{Case, Shape, pairwise},
    differences::{Difference, normalized},
    wrapper::{Server, Wrapper, may_unshare},
};

/// The number of concurrent cases. They mostly wait.
const AT_ONCE: usize = 32;

#[tokio::test(flavor = "multi_thread")]
async fn shell_sees_the_same_outcome_as_with_flock() {
    let server = Arc::new(Server::start().await);
    let cases = chosen(may_unshare().await);
    let count = cases.len();
    let results = stream::iter(cases).map(|case| {
        let result = tokio::spawn(check(case, server.clone()));
        async move { result.await.unwrap_or_else(|panic| Some(format!("\n{case}: {panic}"))) }
    });
    let faults: Vec<String> = results.buffer_unordered(AT_ONCE).filter_map(std::future::ready).collect().await;
    assert!(faults.is_empty(), "{} of {count} cases failed:\n{}", faults.len(), faults.join("\n"));
}

/// The cases that the environment selects: all with `TERMINAL_WHOLE`, or the cases whose names contain
/// the words of `TERMINAL_ONLY`; each of them `TERMINAL_TIMES` times.
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

/// Runs a case with both wrappers. Returns the description of a failure.
async fn check(case: Case, server: Arc<Server>) -> Option<String> {
    let flock = scenario::run(case, &server, &Wrapper::Flock, None).await;
    if !flock.faults.is_empty() {
        return Some(format!("\n{case}: flock: {:?}\n{}", flock.faults, flock.screen));
    }
    let differences = Difference::of(case);
    let expected = normalized(case, Difference::applied(&differences, &flock.outcome));
    let wrapper = Wrapper::lockable(&server, case).await;
    let seen = scenario::run(case, &server, &wrapper, Some(&expected)).await;
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

//! The cost of an account is bounded: tokens, rows, bytes, and the time of other accounts.

mod changes;
mod history;
mod lists;
mod pages;
mod rows;
mod tokens;

use crate::support::Cluster;

/// Returns the id of an account.
async fn id_of(cluster: &Cluster, email: &str) -> String {
    cluster.operator(&["account", "show", email]).await["id"].as_str().unwrap().to_owned()
}

/// Inserts tokens of an account, with `word` as the prefix of hash and label.
fn insert_tokens(cluster: &Cluster, account: &str, word: &str, count: u32, revoked_at: &str) {
    let insert = format!(
        "INSERT INTO tokens (id, account, hash, label, may_lock, may_manage, default_namespace, created_at, revoked_at) \
         SELECT '00000000-0000-7000-8000-' || LPAD(n::text, 12, '0') , '{account}', '{word}' || n, '{word} ' || n, 1, 0, \
         '-', 0, {revoked_at} FROM generate_series(1, {count}) AS n"
    );
    cluster.postgres.query(&insert).unwrap();
}

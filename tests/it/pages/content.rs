//! Documents, problem pages, the lock list, the history of a lock, the audit log.

use super::open_cluster;
use crate::support::{Cluster, Pod, eventually, page::PageClient, redis::RedisServer};

#[tokio::test(flavor = "multi_thread")]
async fn documents_exist_and_their_links_resolve() {
    let pod = Pod::start().await;
    let mut reader = PageClient::new(&pod.origin());
    let mut seen = vec!["/".to_owned()];
    let mut at = 0;
    while at < seen.len() {
        let path = seen[at].clone();
        at += 1;
        let page = reader.get(&path).await;
        assert!([200, 303].contains(&page.status), "{path}: {}", page.status);
        if page.header("content-type").is_some_and(|kind| kind.contains("json")) {
            continue;
        }
        let links = page.text.split("href=\"").skip(1).filter_map(|rest| rest.split('"').next());
        for link in links.filter(|link| !link.starts_with("http")) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { path.clone() } else { file.to_owned() };
            if !anchor.is_empty() {
                let there = reader.get(&target).await.text;
                assert!(there.contains(&format!("id=\"{anchor}\"")), "{path}: the target of {link} does not exist");
            }
            if !seen.contains(&target) {
                seen.push(target);
            }
        }
    }
    for path in [
        "/docs/https-endpoints",
        "/docs/guide",
        "/docs/run",
        "/docs/fencing",
        "/docs/safety",
        "/docs/ci",
        "/docs/ci/lockable.sh",
        "/docs/operations",
        "/docs/performance",
        "/docs/security",
        "/docs/architecture",
        "/docs/api",
        "/problems/too-many-failures",
    ] {
        assert!(seen.iter().any(|seen| seen == path), "no page links to {path}: {seen:?}");
    }
    let first = reader.get("/docs").await;
    let list = first.between("<ul class=\"list\">", "</ul>");
    assert!(
        list.trim_start().starts_with("<li><a href=\"/docs/https-endpoints\">"),
        "the three calls are the first document"
    );
    reader
        .get("/docs/https-endpoints")
        .await
        .assert_shows(200, &["The lease starts at 60 seconds for the Hobbyist plan"]);
    reader.get("/docs/nothing").await.assert_shows(404, &["This page does not exist"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_problem_type_has_an_html_and_a_text_page() {
    let pod = Pod::start().await;
    let client = pod.client("11111111-2222-4333-8444-555555555555");
    let refused = client.get("/v1/acquire/a").await;
    let path = refused.json["type"].as_str().unwrap().to_owned();
    let text = client.get(&path).await;
    assert!(text.text.starts_with("Not authenticated (401)\n\n"), "{}", text.text);
    let mut reader = PageClient::new(&pod.origin());
    reader.get(&path).await.assert_shows(200, &["<h1>Not authenticated</h1>", "Status 401"]);
    client.get("/problems/none").await.assert_problem(404, "not-found");
}

#[tokio::test(flavor = "multi_thread")]
async fn history_shows_holders_and_how_each_grant_ended() {
    let cluster = open_cluster().await;
    let pod = &cluster.pods[0];
    let mut ana = PageClient::member(&pod.origin(), "ana@example.com").await;
    let token = ana.token("job", &["lock", "manage"]).await;
    let client = pod.client(&token);
    let begun = jiff::Timestamp::now();
    client.get("/v1/acquire/shown?owner=one&note=the%20first").await;
    client.get("/v1/release/shown?owner=one").await;
    client.get("/v1/acquire/shown?owner=two&lease=1s").await;
    eventually(async || client.get("/v1/acquire/shown?owner=three").await.json["response"] == true).await;
    client.request("DELETE", "/v1/locks/shown", &[]).await;
    client.get("/v1/acquire/shown?owner=four").await;
    // A repeated acquire is the same grant and one row.
    client.get("/v1/acquire/shown?owner=four").await;

    let path = "/account/locks/history?namespace=public&name=shown";
    let mut rows = Vec::new();
    eventually(async || {
        let page = ana.get(path).await;
        assert_eq!(page.status, 200);
        let Some((_, table)) = page.text.split_once("<h2>History</h2>") else { return false };
        let row = |row: &str| {
            let owner = row.split("<bdi>").nth(1).unwrap().split('<').next().unwrap().to_owned();
            let ending = row.split("data-name=\"State\">").nth(1).unwrap().split('<').next().unwrap().to_owned();
            (owner, ending)
        };
        rows = table.split("<tr>").skip(2).map(row).collect();
        rows.len() == 4 && rows.iter().any(|(_, ending)| ending == "broken") && rows[3].1 == "released"
    })
    .await;
    let rows: Vec<_> = rows.iter().map(|(owner, ending)| (owner.as_str(), ending.as_str())).collect();
    assert_eq!(rows, [("four", "held"), ("three", "broken"), ("two", "expired"), ("one", "released")]);
    let page = ana.get(path).await;
    page.assert_shows(200, &["the first", "token <bdi>job</bdi>"]);
    let since = page.text.split("data-name=\"From\"><time datetime=\"").skip(1);
    let since: Vec<jiff::Timestamp> = since.map(|from| from.split('"').next().unwrap().parse().unwrap()).collect();
    assert!(since.len() == 4 && since.is_sorted_by(|later, earlier| later >= earlier), "{since:?}");
    let second = jiff::SignedDuration::from_secs(1);
    assert!(since[3] >= begun - second && since[0] <= jiff::Timestamp::now() + second, "{begun}: {since:?}");
    ana.get("/account/locks/history?namespace=public&name=never").await.assert_shows(200, &["No grants recorded"]);
    ana.get("/account/locks/history?namespace=public&name=%20").await.assert_shows(400, &["Invalid lock name"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn lock_list_is_paged() {
    let cluster = open_cluster().await;
    let pod = &cluster.pods[0];
    let mut ana = PageClient::member(&pod.origin(), "ana@example.com").await;
    let token = ana.token("pipeline", &["lock"]).await;
    let client = pod.client(&token);
    for number in 0..60 {
        let path =
            format!("/v1/acquire/deploy-production-{number:02}?owner=ci-{number}&note=build%20{number}&lease=1h");
        assert_eq!(client.get(&path).await.json["response"], true);
    }
    let first = ana.get("/account/locks").await;
    assert!(first.text.len() < 30 * 1024, "{} bytes", first.text.len());
    let next = first.between("<nav class=\"pages\"", "</nav>");
    let next = next.split("href=\"").nth(1).unwrap().split('"').next().unwrap().replace("&#38;", "&");
    let second = ana.get(&next).await;
    let shown =
        |page: &str| (0..60).filter(|n| page.contains(&format!(">deploy-production-{n:02}<"))).collect::<Vec<_>>();
    assert_eq!((shown(&first.text), shown(&second.text)), ((0..35).collect(), (35..60).collect()));
    assert!(second.text.contains("First page") && !second.text.contains("Next page"));
    assert_eq!(shown(&ana.get("/account/locks?prefix=deploy-production-4").await.text), (40..50).collect::<Vec<_>>());
    assert_eq!(ana.get("/account/locks?cursor=none").await.status, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn lock_list_shows_waiters_in_queue_order() {
    let cluster = open_cluster().await;
    let pod = &cluster.pods[0];
    let mut ana = PageClient::member(&pod.origin(), "ana@example.com").await;
    let token = ana.token("job", &["lock"]).await;
    let client = pod.client(&token);
    let mut waits = Vec::new();
    for (lock, waiting) in [("long", 6), ("short", 2), ("none", 0)] {
        assert_eq!(client.get(&format!("/v1/acquire/{lock}?owner=holder&lease=1h")).await.json["response"], true);
        for number in 0..waiting {
            let client = client.clone();
            let path = format!("/v1/acquire/{lock}?owner={lock}-{number}&note=build%20{number}&wait=50s");
            waits.push(tokio::spawn(async move { client.get(&path).await }));
            let path = format!("/v1/locks/{lock}");
            let asking = pod.client(&token);
            eventually(async || asking.get(&path).await.json["waiting"] == number + 1).await;
        }
    }
    let page = ana.get("/account/locks").await;
    let line = |lock: &str, named: u64| {
        let waiter = |n| format!("<li><bdi>{lock}-{n}</bdi> <span class=\"faint\"><bdi>build {n}</bdi></span></li>");
        format!("<ol>{}</ol>", (0..named).map(waiter).collect::<String>())
    };
    let shown: Vec<&str> = page.text.split("<td data-name=\"Waiting\">").skip(1).collect();
    let shown: Vec<&str> = shown.iter().map(|rest| rest.split("</td>").next().unwrap()).collect();
    let of_long = line("long", 5) + "<span class=\"faint\">and 1 more</span>";
    assert_eq!(shown, [of_long, line("short", 2), "<span class=\"faint\">none</span>".into()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn history_is_bounded() {
    let cluster = open_cluster().await;
    let pod = &cluster.pods[0];
    let mut ana = PageClient::member(&pod.origin(), "ana@example.com").await;
    let token = ana.token("job", &["lock"]).await;
    let client = pod.client(&token);
    for round in 0..120 {
        client.get(&format!("/v1/acquire/busy?owner=o{round}")).await;
        client.get(&format!("/v1/release/busy?owner=o{round}")).await;
    }
    let path = "/account/locks/history?namespace=public&name=busy";
    eventually(async || ana.get(path).await.text.matches("<tr>").count() == 21).await;
    // The index of names is bounded: the oldest name is dropped.
    let key = cluster.redis.cli(&["keys", "*recorded*"]);
    assert_eq!(key.trim().lines().count(), 1, "one key per account: {key}");
    for batch in 0..11 {
        let members: Vec<String> =
            (0..100).flat_map(|n| [(10 + batch * 100 + n).to_string(), format!("-/x{batch}-{n}")]).collect();
        let args: Vec<&str> = ["zadd", key.trim()].into_iter().chain(members.iter().map(String::as_str)).collect();
        cluster.redis.cli(&args);
    }
    eventually(async || {
        // A grant in a busy second is left out; try again.
        client.get("/v1/acquire/newest").await;
        client.get("/v1/release/newest").await;
        !cluster.redis.cli(&["zscore", key.trim(), "-/newest"]).trim().is_empty()
    })
    .await;
    // Each script removes a few names only.
    eventually(async || {
        client.get("/v1/acquire/newest").await;
        client.get("/v1/release/newest").await;
        cluster.redis.cli(&["zcard", key.trim()]).trim() == "1000"
    })
    .await;
    assert_eq!(cluster.redis.cli(&["zscore", key.trim(), "-/x0-0"]).trim(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn audit_log_is_paged_filtered_and_exported() {
    let cluster = open_cluster().await;
    let pod = &cluster.pods[0];
    let mut ana = PageClient::member(&pod.origin(), "ana@example.com").await;
    let insert = "INSERT INTO audit SELECT 'id' || LPAD(n::text, 2, '0'), 1795000000000, a.id, 'session:' || a.id, 'token.create', \
                  '{\"label\":\"=token-' || n || '\"}' FROM generate_series(0, 54) AS n, accounts a";
    cluster.postgres.query(insert).unwrap();
    let first = ana.get("/account/audit?kind=token.").await;
    assert_eq!(first.text.matches("token.create").count(), 50);
    assert!(first.text.contains("=token-54") && !first.text.contains("=token-4<"), "the newest rows are first");
    let older = first.between("<a href=\"/account/audit?kind=token.&#38;before=", "\"").to_owned();
    let second = ana.get(&format!("/account/audit?kind=token.&before={older}")).await;
    assert_eq!(second.text.matches("token.create").count(), 5, "{}", second.text);
    assert!(!second.text.contains(">Older<"));
    assert!(!ana.get("/account/audit?kind=account.").await.text.contains("token.create"));
    for path in ["/account/audit?kind=everything", "/account/audit?before=x", "/account/audit?before=1"] {
        assert_eq!(ana.get(path).await.status, 400, "{path}");
    }
    let file = ana.get("/account/audit.csv?kind=token.").await;
    assert_eq!(file.header("content-type"), Some("text/csv; charset=utf-8"));
    assert_eq!(file.text.lines().count(), 56);
    assert_eq!(file.text.lines().next(), Some("time,action,by,detail"));
    assert!(file.text.lines().nth(1).unwrap().contains("token.create,session:"), "{}", file.text);
}

/// The lock list, the health endpoint and the metrics report a recovery while it lasts.
#[tokio::test(flavor = "multi_thread")]
async fn recovery_is_reported_only_while_it_lasts() {
    let settings =
        [("LOCKABLE_SIGN_UP", "true"), ("LOCKABLE_SIGN_UP_PLAN", "business"), ("LOCKABLE_JOURNAL_ABOVE", "4s")];
    let cluster = Cluster::start_with(1, RedisServer::builder(), &settings).await;
    let pod = &cluster.pods[0];
    let mut member = PageClient::member(&pod.origin(), "ana@example.com").await;
    let is_reported =
        async |member: &mut PageClient| member.get("/account/locks").await.text.contains("Recovering until ");
    let status = async || {
        let ready = pod.admin().get("/readyz").await.json;
        (ready["locks"].as_str().unwrap().to_owned(), pod.metric("lockable_recovering").await.unwrap())
    };
    assert!(!is_reported(&mut member).await);
    assert_eq!(status().await, ("ok".into(), 0.0));
    cluster.redis.cli(&["FLUSHALL"]);
    eventually(async || status().await == ("recovering".into(), 1.0)).await;
    assert!(is_reported(&mut member).await);
    eventually(async || status().await == ("ok".into(), 0.0)).await;
    assert!(!is_reported(&mut member).await);
    assert_eq!(pod.metric("lockable_recoveries_total").await, Some(1.0));
}

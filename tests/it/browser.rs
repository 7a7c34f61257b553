//! The pages in a real browser.

use fantoccini::key::Key;

use crate::support::{Pod, browser::Browser, exclusive_cpu, run_shell};

const EMAIL: &str = "ana@example.com";
const PASSWORD: &str = "seven lanterns over Basel";

async fn sign_up(browser: &Browser) {
    browser.go("/account/sign-up").await;
    browser.fill("#email", EMAIL).await;
    browser.fill("#password", PASSWORD).await;
    browser.click("main button").await;
    browser.await_path("/account/sign-in").await;
    browser.await_text("[role=status]", "Sign in with your password").await;
    browser.fill("#email", EMAIL).await;
    browser.fill("#password", PASSWORD).await;
    browser.click("main button").await;
    browser.await_path("/account/locks").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sign_up_create_token_and_break_a_lock() {
    let pod = Pod::start().await;
    let browser = Browser::start(&pod.origin()).await;
    sign_up(&browser).await;
    browser.await_text("#locks", "holds no locks").await;

    browser.go("/account/tokens").await;
    browser.fill("#label", "pipeline").await;
    browser.click("section button").await;
    browser.await_text("h1", "New token").await;
    let line = browser.text("#curl").await;
    let token = browser.text("#token").await;
    browser.click("[data-copy=curl]").await;
    browser.await_text("[data-copy=curl]", "Copied").await;

    // "Try it" sends the entered token to the API.
    browser.go("/").await;
    browser.fill("#try-token", &token).await;
    for (call, answer) in [("acquire", "true"), ("heartbeat", "true"), ("release", "true"), ("heartbeat", "not_held")] {
        browser.click(&format!("#try-out [value={call}]")).await;
        browser.await_text("#try-answer", answer).await;
    }
    browser.fill("#try-token", "11111111-2222-4333-8444-555555555555").await;
    browser.click("#try-out [value=acquire]").await;
    browser.await_text("#try-answer", "401").await;

    browser.go("/account/locks").await;
    browser.await_text("#live-state", "Live updates are on").await;
    assert!(run_shell(&format!("{line} 2>/dev/null")).await.contains(r#""response":true"#), "{line}");
    browser.await_text("#locks tbody", "my-lock-name").await;
    browser.await_text("#locks tbody", "pipeline").await;
    browser.await_text("#locks [data-countdown]", "in ").await;
    let path = browser.path().await;
    assert_eq!(path, "/account/locks", "the list changed without a reload");

    browser.click("#locks td a").await;
    browser.await_text("h1", "Break my-lock-name?").await;
    browser.await_text("dl", "pipeline").await;
    browser.click("button.danger").await;
    browser.await_path("/account/locks").await;
    browser.await_text("#locks", "holds no locks").await;
    let heartbeat = pod.client(&token).get("/v1/heartbeat/my-lock-name").await;
    assert_eq!((&heartbeat.json["response"], &heartbeat.json["reason"]), (&false.into(), &"not_held".into()));

    browser.go("/account/locks/history?namespace=public&name=my-lock-name").await;
    crate::support::eventually(async || {
        browser.client.refresh().await.unwrap();
        browser.text("main").await.contains("broken")
    })
    .await;
    browser.go("/account/audit").await;
    let log = browser.text("main").await;
    for action in ["lock.break", "token.create", "account.sign-in", "account.create", "my-lock-name", "this session"] {
        assert!(log.contains(action), "{action} is not in the audit log: {log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_pages_work_by_keyboard() {
    let pod = Pod::start().await;
    let browser = Browser::start(&pod.origin()).await;
    browser.go("/account/sign-up").await;
    browser.tab_to("#email").await;
    browser.type_keys(EMAIL).await;
    browser.tab_to("#password").await;
    browser.type_keys(PASSWORD).await;
    browser.tab_to("main button").await;
    browser.press(Key::Enter).await;
    browser.await_path("/account/sign-in").await;
    browser.tab_to("#email").await;
    browser.type_keys(EMAIL).await;
    browser.tab_to("#password").await;
    browser.type_keys(PASSWORD).await;
    browser.press(Key::Enter).await;
    browser.await_path("/account/locks").await;

    browser.tab_to("a[href='/account/tokens']").await;
    browser.press(Key::Enter).await;
    browser.await_path("/account/tokens").await;
    browser.tab_to("#label").await;
    browser.type_keys("by keyboard").await;
    browser.tab_to("[value=manage]").await;
    browser.type_keys(" ").await;
    browser.tab_to("section button").await;
    browser.press(Key::Enter).await;
    browser.await_text("h1", "New token").await;
    let token = browser.text("#token").await;
    let client = pod.client(&token);
    assert_eq!(client.get("/v1/acquire/typed?owner=ana").await.json["response"], true);

    browser.tab_to("a[href='/account/locks'].button").await;
    browser.press(Key::Enter).await;
    browser.await_text("#locks tbody", "typed").await;
    browser.tab_to("#locks td a").await;
    browser.press(Key::Enter).await;
    browser.await_text("h1", "Break typed?").await;
    browser.tab_to("button.danger").await;
    browser.press(Key::Enter).await;
    browser.await_path("/account/locks").await;
    assert_eq!(client.get("/v1/heartbeat/typed?owner=ana").await.json["response"], false);

    browser.tab_to("a[href='/account/audit']").await;
    browser.press(Key::Enter).await;
    browser.await_path("/account/audit").await;
    assert!(browser.text("main").await.contains("lock.break"));
    // The first press of Tab focuses the link "Skip to content".
    browser.client.refresh().await.unwrap();
    browser.press(Key::Tab).await;
    browser.press(Key::Enter).await;
    let main = "return document.activeElement.id === 'main' || location.hash === '#main'";
    assert_eq!(browser.client.execute(main, vec![]).await.unwrap(), true);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_pages_work_without_javascript() {
    let pod = Pod::start().await;
    let browser = Browser::start_without_javascript(&pod.origin()).await;
    sign_up(&browser).await;
    browser.go("/account/tokens").await;
    browser.fill("#label", "plain").await;
    browser.click("[value=manage]").await;
    browser.click("section button").await;
    browser.await_text("h1", "New token").await;
    let token = browser.text("#token").await;
    let client = pod.client(&token);
    assert_eq!(client.get("/v1/acquire/plain").await.json["response"], true);

    browser.go("/account/locks").await;
    assert!(browser.text("#locks tbody").await.contains("plain"));
    assert!(browser.text("#live-state").await.contains("Reload the page"));
    browser.click("#locks td a").await;
    browser.click("button.danger").await;
    browser.await_path("/account/locks").await;
    assert_eq!(client.get("/v1/heartbeat/plain").await.json["response"], false);

    browser.go("/account/tokens").await;
    browser.click("a[href$='/rotate']").await;
    browser.click("[value=now]").await;
    browser.click("main button").await;
    browser.await_text("h1", "New token").await;
    crate::support::eventually(async || client.get("/v1/locks/plain").await.status == 401).await;
    let rotated = browser.text("#token").await;
    assert_eq!(pod.client(&rotated).get("/v1/locks/plain").await.status, 200);
    browser.go("/account/tokens").await;
    browser.click("td summary").await;
    browser.click("td button.danger").await;
    browser.await_text("main", "No tokens.").await;
    crate::support::eventually(async || pod.client(&rotated).get("/v1/locks/plain").await.status == 401).await;
    browser.click("header button").await;
    browser.await_text("[role=status]", "You are signed out").await;
    browser.go("/account/audit").await;
    browser.await_path("/account/sign-in").await;
}

/// Checks every page that is reachable without deleting anything.
#[tokio::test(flavor = "multi_thread")]
async fn all_pages_pass_axe_and_fit_small_screens() {
    let _cpu = exclusive_cpu().await;
    let pod = Pod::builder().env("LOCKABLE_SIGN_UP_PLAN", "business").start().await;
    let browser = Browser::start(&pod.origin()).await;
    let made = pod.operator(&["account", "invite"]).await;
    let signed_out = ["/account/sign-in", "/account/sign-up", made["link"].as_str().unwrap(), "/no/such/page", "/"];
    check(&browser, &signed_out, "out").await;

    sign_up(&browser).await;
    browser.go("/account/tokens").await;
    browser.fill("#label", "pipeline").await;
    browser.click("section button").await;
    browser.await_text("h1", "New token").await;
    let client = pod.client(&browser.text("#token").await);
    for scheme in ["light", "dark"] {
        browser.set_color_scheme(scheme).await;
        assert_eq!(browser.accessibility_violations().await, Vec::<String>::new(), "a new token, {scheme}");
    }
    browser.save_screenshot("token").await;
    let path = "/v1/acquire/deploy/production/eu-central-1/web-frontend?owner=ci-4711&note=build%204711,%20by%20ana";
    assert_eq!(client.get(path).await.json["response"], true);
    assert_eq!(client.get("/v1/acquire/batch?lease=3h").await.json["response"], true);
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.get("/v1/acquire/batch?owner=ci-4712&note=build%204712&wait=50s").await }
    });
    browser.go("/account/locks").await;
    browser.await_text("#locks tbody", "ci-4712").await;
    browser.go("/account/plan").await;
    browser.fill("input[name=name]", "team-a").await;
    browser.click("section form.row button").await;
    browser.await_text("#main .list", "team-a").await;
    let lock = "namespace=public&name=deploy%2Fproduction%2Feu-central-1%2Fweb-frontend";
    let (breaking, history) = (format!("/account/locks/break?{lock}"), format!("/account/locks/history?{lock}"));
    let rotate = {
        browser.go("/account/tokens").await;
        let link = browser.client.find(fantoccini::Locator::Css("a[href$='/rotate']")).await.unwrap();
        link.attr("href").await.unwrap().unwrap()
    };
    let signed_in = [
        "/",
        "/account/locks",
        &breaking,
        &history,
        "/account/tokens",
        &rotate,
        "/account/plan",
        "/account/security",
        "/account/security/delete",
        "/account/audit",
        "/account/audit?kind=lock.",
        "/docs",
        "/docs/https-endpoints",
        "/docs/guide",
        "/docs/run",
        "/docs/fencing",
        "/docs/safety",
        "/docs/ci",
        "/docs/operations",
        "/docs/performance",
        "/docs/security",
        "/docs/architecture",
        "/docs/api",
        "/problems/too-many-failures",
    ];
    check(&browser, &signed_in, "in").await;
    waiting.abort();
}

/// Checks accessibility in both color schemes, and that no page overflows a narrow window.
async fn check(browser: &Browser, paths: &[&str], who: &str) {
    for path in paths {
        for (scheme, width) in [("light", 1280), ("dark", 360), ("light", 320)] {
            browser.set_color_scheme(scheme).await;
            browser.resize(width, 800).await;
            browser.go(path).await;
            // Open collapsed sections to check their content, too.
            let open = "for (const details of document.querySelectorAll('details')) details.open = true";
            browser.client.execute(open, vec![]).await.unwrap();
            assert!(!browser.overflows().await, "{path} overflows a window of {width} px");
            if width != 320 {
                assert_eq!(browser.accessibility_violations().await, Vec::<String>::new(), "{path}, {scheme}");
                browser.save_screenshot(&format!("{who}{}-{width}", path.replace(['/', '?', '&', '='], "-"))).await;
            }
        }
    }
}

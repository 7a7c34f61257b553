//! Security headers of the pages.

use crate::support::{Pod, client::http_client, dev_cert, page::PageClient};

#[tokio::test(flavor = "multi_thread")]
async fn every_page_has_a_strict_content_security_policy() {
    let pod = Pod::start().await;
    let mut member = PageClient::member(&pod.origin(), "ana@example.com").await;
    for path in [
        "/",
        "/docs",
        "/docs/safety",
        "/docs/api",
        "/account/locks",
        "/account/sign-in",
        "/no/page",
        "/problems/rate-limited",
    ] {
        let page = member.get(path).await;
        let policy = page.header("content-security-policy").unwrap();
        for part in [
            "default-src 'none'",
            "script-src 'self'",
            "frame-ancestors 'none'",
            "form-action 'self'",
            "base-uri 'none'",
        ] {
            assert!(policy.contains(part), "{path}: {policy}");
        }
        assert!(!policy.contains("unsafe") && !policy.contains('*') && !policy.contains("http"), "{path}: {policy}");
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("referrer-policy", "no-referrer"),
            ("cross-origin-opener-policy", "same-origin"),
            ("cache-control", "no-store"),
        ] {
            assert_eq!(page.header(name), Some(value), "{path}: {name}");
        }
        assert_eq!(page.header("strict-transport-security"), None, "{path}");
        // No page contains anything that the policy would block.
        for part in ["<script>", "<style", " style=", " onclick=", "javascript:", "src=\"http", "href=\"//"] {
            assert!(!page.text.contains(part), "{path} has {part}");
        }
        assert!(page.text.len() < 30 * 1024, "{path} has {} bytes", page.text.len());
    }
    let page = member.get("/").await;
    let styles = page.between("rel=\"stylesheet\" href=\"", "\"").to_owned();
    let file = member.get(&styles).await;
    assert_eq!(file.header("cache-control"), Some("public, max-age=31536000, immutable"));
    assert_eq!(file.header("content-type"), Some("text/css; charset=utf-8"));
    let of_another = styles.replace("/assets/", "/assets/0");
    assert_eq!(member.get(&of_another).await.header("cache-control"), Some("no-store"));
    assert_eq!(member.get("/assets/0/nothing.js").await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_server_sends_hsts() {
    let certificate = dev_cert().await;
    let pod = Pod::builder().tls(&certificate).start().await;
    let bytes = std::fs::read(&certificate.cert).unwrap();
    let root = reqwest::Certificate::from_pem(&bytes).unwrap();
    let client = http_client().tls_certs_only([root]).build().unwrap();
    let answer = client.get(format!("https://{}/", pod.authority("localhost"))).send().await.unwrap();
    assert_eq!(answer.headers()["strict-transport-security"], "max-age=31536000");
    let text = answer.text().await.unwrap();
    assert!(text.contains(&format!("curl -u $TOKEN: https://{}/v1/acquire", pod.authority("localhost"))), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn trusted_proxy_sets_the_scheme_of_the_client() {
    let pod = Pod::builder().env("LOCKABLE_TRUSTED_PROXIES", "127.0.0.1/32").start().await;
    let mut client = PageClient::new(&pod.origin()).with_field("x-forwarded-proto", "https");
    let page = client.get("/").await;
    assert!(page.header("strict-transport-security").is_some());
    assert!(page.text.contains("curl -u $TOKEN: https://127.0.0.1"), "{}", page.text);

    let stranger = Pod::start().await;
    let mut client = PageClient::new(&stranger.origin()).with_field("x-forwarded-proto", "https");
    let page = client.get("/").await;
    assert_eq!(page.header("strict-transport-security"), None, "an untrusted client sets the header");
    assert!(page.text.contains("curl -u $TOKEN: http://127.0.0.1"), "{}", page.text);

    let public = Pod::builder().env("LOCKABLE_PUBLIC_URL", "https://locks.example.com").start().await;
    let page = PageClient::new(&public.origin()).get("/").await;
    assert!(page.header("strict-transport-security").is_some(), "the public URL is HTTPS");
    assert!(page.text.contains("curl -u $TOKEN: https://locks.example.com/v1/acquire"), "{}", page.text);
}

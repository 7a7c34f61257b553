//! Ambiguous input is rejected without side effects.

use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{Client, Pod};

async fn business() -> (Pod, Client) {
    let pod = Pod::start().await;
    let client = pod.client(&pod.first_token());
    (pod, client)
}

/// Sends raw bytes; returns status and whole response.
async fn raw(pod: &Pod, request: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(pod.authority("127.0.0.1")).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    (answer.split(' ').nth(1).unwrap().parse().unwrap(), answer)
}

#[tokio::test]
async fn numbers_keep_all_digits_or_are_rejected() {
    let (_pod, client) = business().await;
    let acquire = async |body: &str| client.post_body("/v1/acquire/numbers", "application/json", body).await;
    for number in ["179587168470367300001", "18446744073709551616", "1.5", "1e3", "1.0", "-0.5"] {
        let answer = acquire(&format!(r#"{{"owner": {number}}}"#)).await;
        answer.assert_problem(400, "malformed-parameter");
        assert!(answer.json["detail"].as_str().unwrap().contains("owner"), "{}", answer.text);
    }
    let granted = acquire(r#"{"owner": 18446744073709551615}"#).await;
    assert_eq!(granted.json["owner"], "18446744073709551615", "{}", granted.text);
    let as_text = acquire(r#"{"owner": "18446744073709551615"}"#).await;
    assert_eq!((&as_text.json["response"], &as_text.json["again"]), (&json!(true), &json!(true)), "{}", as_text.text);
    let another = acquire(r#"{"owner": "18446744073709551616"}"#).await;
    assert_eq!(another.json["response"], false, "{}", another.text);
}

#[tokio::test]
async fn unread_body_is_rejected() {
    let (pod, client) = business().await;
    assert_eq!(client.get("/v1/acquire/body").await.json["response"], true);
    let send = async |method: &str, path: &str, rest: &str| {
        let (authority, authorization) = (pod.authority("127.0.0.1"), client.authorization());
        let head = format!("{method} {path} HTTP/1.1\r\nHost: {authority}\r\nAuthorization: {authorization}");
        raw(&pod, &format!("{head}\r\nConnection: close\r\n{rest}")).await
    };
    let form = "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 15\r\n\r\nfencing_token=1";
    let in_chunks = "Transfer-Encoding: chunked\r\n\r\nf\r\nfencing_token=1\r\n0\r\n\r\n";
    for body in [form, in_chunks] {
        for (method, path) in [
            ("GET", "/v1/acquire/other"),
            ("GET", "/v1/heartbeat/body"),
            ("GET", "/v1/release/body"),
            ("GET", "/v1/locks/body"),
            ("GET", "/v1/locks"),
            ("GET", "/v1/account"),
            ("HEAD", "/v1/locks/body"),
            ("DELETE", "/v1/locks/body"),
        ] {
            let (status, answer) = send(method, path, body).await;
            assert_eq!(status, 400, "{method} {path}: {answer}");
            assert!(method == "HEAD" || answer.contains("/problems/malformed-body"), "{method} {path}: {answer}");
        }
    }
    for empty in ["Content-Length: 0\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"] {
        let (status, answer) = send("GET", "/v1/heartbeat/body", empty).await;
        assert_eq!(status, 200, "{answer}");
        assert!(answer.contains(r#""response":true"#), "the lock was neither released nor broken: {answer}");
    }
}

#[tokio::test]
async fn break_accepts_the_fencing_token_of_the_grant() {
    let (_pod, client) = business().await;
    let fence = client.get("/v1/acquire/mine?owner=a").await.json["fencing_token"].as_u64().unwrap();
    let other = client.request("DELETE", &format!("/v1/locks/mine?fencing_token={}", fence - 1), &[]).await;
    assert_eq!((&other.json["response"], &other.json["reason"]), (&json!(false), &json!("held_by_another")));
    let malformed = client.request("DELETE", "/v1/locks/mine?fencing_token=x", &[]).await;
    malformed.assert_problem(400, "malformed-parameter");
    assert_eq!(client.get("/v1/locks/mine").await.json["held"], true);
    let broken = client.request("DELETE", &format!("/v1/locks/mine?fencing_token={fence}"), &[]).await;
    assert_eq!(broken.json["response"], true, "{}", broken.text);
}

#[tokio::test]
async fn names_with_invisible_characters_are_rejected() {
    let (pod, client) = business().await;
    for name in ["inv%EF%BB%BF", "in%E2%80%8Bv", "a%C2%A0b", "a%EF%B8%8F", "a%E3%85%A4", "a%E2%A0%80", "%F3%A0%81%A1"] {
        let answer = client.get(&format!("/v1/acquire/{name}")).await;
        answer.assert_problem(400, "malformed-name");
        assert!(answer.json["detail"].as_str().unwrap().contains("an invisible character"), "{name}: {}", answer.text);
        client.get(&format!("/v1/acquire/a?owner=x{name}")).await.assert_problem(400, "malformed-parameter");
    }
    for name in ["inv", "a%20b", "%C3%9Cn%C3%AFc%C3%B8d%C3%A9", "%F0%9F%9A%80"] {
        assert_eq!(client.get(&format!("/v1/acquire/{name}")).await.json["response"], true, "{name}");
    }
    let (code, _, complaint) = pod.run(&["account", "create", "--email", "a@exam\u{200B}ple.com"]).await;
    assert_eq!(code, Some(1), "{complaint}");
    assert!(complaint.contains("not a valid e-mail address"), "{complaint}");
}

#[tokio::test]
async fn ambiguous_http_framing_is_rejected() {
    let (pod, client) = business().await;
    let authorization = client.authorization();
    let host = format!("Host: {}\r\n", pod.authority("127.0.0.1"));
    let other = "Host: elsewhere\r\n";
    let gzip = "Transfer-Encoding: gzip, chunked\r\n";
    let twice = "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n";
    for (method, fields, body) in [
        ("GET", String::new(), ""),
        ("GET", format!("{host}{other}"), ""),
        ("GET", format!("{host}{host}"), ""),
        ("POST", format!("{host}{gzip}"), "0\r\n\r\n"),
        ("POST", format!("{host}{twice}"), "0\r\n\r\n"),
    ] {
        for path in ["/v1/acquire/ambiguous", "/v1/locks/ambiguous"] {
            let request = format!(
                "{method} {path} HTTP/1.1\r\n{fields}Authorization: {authorization}\r\nConnection: close\r\n\r\n{body}"
            );
            let (status, answer) = raw(&pod, &request).await;
            assert_eq!(status, 400, "{request}{answer}");
        }
    }
    let request = format!("GET /v1/locks/ambiguous HTTP/1.0\r\nAuthorization: {authorization}\r\n\r\n");
    let (status, answer) = raw(&pod, &request).await;
    assert_eq!(status, 200, "HTTP/1.0 needs no Host header: {answer}");
    assert!(answer.contains(r#""held":false"#), "{answer}");
}

#[tokio::test]
async fn fragments_in_request_targets_are_rejected() {
    let (pod, client) = business().await;
    let (host, authorization) = (pod.authority("127.0.0.1"), client.authorization());
    let fields = format!("Host: {host}\r\nAuthorization: {authorization}\r\nConnection: close\r\n\r\n");
    for line in [
        "GET /v1/acquire/a#b HTTP/1.1",
        "POST /v1/acquire/a# HTTP/1.1",
        "GET /v1/acquire/a?owner=o#b HTTP/1.1",
        "GET /v1/acquire/a#b HTTP/1.0",
        "\r\n\r\nGET /v1/acquire/a#b HTTP/1.1",
        "\nGET /v1/acquire/a#b HTTP/1.1",
        &format!("GET http://{host}/v1/acquire/a#b HTTP/1.1"),
        &format!("GET http://{host}#/v1/acquire/a HTTP/1.1"),
        &format!("CONNECT {host}#b HTTP/1.1"),
    ] {
        let (status, answer) = raw(&pod, &format!("{line}\r\n{fields}")).await;
        assert_eq!(status, 400, "{line}: {answer}");
    }
    // A client that sends single bytes.
    let mut stream = TcpStream::connect(pod.authority("127.0.0.1")).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for byte in format!("GET /v1/acquire/a#b HTTP/1.1\r\n{fields}").bytes() {
        // The server may close before the last byte.
        let _ = stream.write_all(&[byte]).await;
    }
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(answer.starts_with(b"HTTP/1.1 400") || answer.is_empty(), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(client.get("/v1/locks/a").await.json["held"], false);
    let (status, answer) = raw(&pod, &format!("GET /v1/acquire/a%23b HTTP/1.1\r\nReferer: /#x\r\n{fields}")).await;
    assert_eq!((status, answer.contains(r#""name":"a#b""#)), (200, true), "{answer}");
}

#[tokio::test]
async fn fragment_is_rejected_behind_pipelined_requests_whose_bodies_are_unchanged() {
    let (pod, client) = business().await;
    let (host, authorization) = (pod.authority("127.0.0.1"), client.authorization());
    let fields = format!("Host: {host}\r\nAuthorization: {authorization}\r\n");
    let post = |name: &str, framing: &str, body: &str| {
        format!("POST /v1/acquire/{name} HTTP/1.1\r\n{fields}Content-Type: application/json\r\n{framing}\r\n\r\n{body}")
    };
    let body = "{\n\"note\":\r\n\r\n\"#1 GET /a#b HTTP/1.1\"\n}";
    let with_length = post("length", &format!("Content-Length: {}", body.len()), body);
    let plain = format!("GET /v1/acquire/plain HTTP/1.1\r\n{fields}\r\n");
    let fragment = format!("GET /v1/acquire/behind#x HTTP/1.1\r\n{fields}\r\n");
    for before in [&plain, &with_length, &format!("{plain}{with_length}"), &format!("{with_length}\r\n{plain}")] {
        let (_, answers) = raw(&pod, &format!("{before}{fragment}{plain}")).await;
        let expected = before.matches(" /v1/acquire/").count();
        assert_eq!(answers.matches("HTTP/1.1 200").count(), expected, "{before}: {answers}");
        assert_eq!(answers.matches("HTTP/1.1 400").count(), 1, "{before}: {answers}");
    }
    // The server cannot follow the framing of chunks, so it closes the connection behind them.
    let chunks = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    let chunked = post("chunked", "Transfer-Encoding: chunked", &chunks);
    let (status, answers) = raw(&pod, &format!("{chunked}{fragment}")).await;
    assert_eq!((status, answers.matches("HTTP/1.1").count()), (200, 1), "{answers}");
    for name in ["length", "chunked"] {
        let view = client.get(&format!("/v1/locks/{name}")).await;
        assert_eq!(view.json["holder"]["note"], "#1 GET /a#b HTTP/1.1", "{}", view.text);
    }
    assert_eq!(client.get("/v1/locks/behind").await.json["held"], false);
}

#[tokio::test]
async fn bearer_token_is_accepted() {
    let (pod, _) = business().await;
    let token = pod.first_token();
    let anonymous = Client::new(&pod.origin(), None);
    let bearer = async |field: String| anonymous.request("GET", "/v1/account", &[("Authorization", &field)]).await;
    assert_eq!(bearer(format!("Bearer {token}")).await.status, 200);
    assert_eq!(bearer(format!("bearer {token}")).await.status, 200);
    bearer(format!("Bearer {token}:")).await.assert_problem(401, "unauthenticated");
    bearer("Bearer 9b2f2b0e-5c0f-4d8e-8f3c-000000000000".to_owned()).await.assert_problem(401, "unauthenticated");
    let acquired =
        anonymous.request("GET", "/v1/acquire/bearer", &[("Authorization", &format!("Bearer {token}"))]).await;
    assert_eq!(acquired.json["response"], true, "{}", acquired.text);
    assert!(!pod.log().contains(&token), "no token is logged");
}

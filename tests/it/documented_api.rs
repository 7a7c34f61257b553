//! The published documentation, verbatim, and the client that was published for it.

use crate::support::{Pod, dev_cert, python, run_shell};

#[tokio::test]
async fn documented_curl_calls_work() {
    let pod = Pod::start().await;
    let token = pod.first_token();
    let curl = async |operation: &str| {
        // As documented, except for host and token.
        let command = format!("curl {}/v1/{operation}/my-lock-name -u {token}:", pod.origin());
        serde_json::from_str::<serde_json::Value>(&run_shell(&command).await).unwrap()["response"].clone()
    };
    assert_eq!(curl("acquire").await, true);
    assert_eq!(curl("acquire").await, false, "all subsequent attempts to acquire it will fail");
    assert_eq!(curl("heartbeat").await, true);
    assert_eq!(curl("release").await, true);
    assert_eq!(curl("heartbeat").await, false);
    assert_eq!(curl("acquire").await, true);
}

#[tokio::test]
async fn documented_python_example_works() {
    let certificate = dev_cert().await;
    let pod = Pod::builder().tls(&certificate).start().await;
    let script = format!(
        r#"
LOCKABLE_DOMAIN = "{authority}"
import requests as rq

auth = ('{token}', '') #Note the empty password
res = rq.get(f"https://{{LOCKABLE_DOMAIN}}/v1/heartbeat/my-lock-name", auth=auth)
assert res.json() == {{'response': False, **res.json()}}, res.text
res = rq.get(f"https://{{LOCKABLE_DOMAIN}}/v1/acquire/my-lock-name", auth=auth)
assert res.json()['response'] is True, res.text
res = rq.get(f"https://{{LOCKABLE_DOMAIN}}/v1/heartbeat/my-lock-name", auth=auth)
assert res.json()['response'] is True, res.text
"#,
        authority = pod.authority("localhost"),
        token = pod.first_token(),
    );
    python::run(&script, &[("REQUESTS_CA_BUNDLE", certificate.cert.to_str().unwrap())]).await;
}

/// `with Lock(...)` from fifty threads on four names, each of which checks that it is alone; and an
/// invalid token.
#[tokio::test]
async fn published_client_never_overlaps_and_raises_on_invalid_token() {
    let certificate = dev_cert().await;
    let pod = Pod::builder().tls(&certificate).start().await;
    let script = format!(
        r#"
import datetime as dt, os, threading, time, uuid
import lockable, requests
lockable.client.LOCKABLE_DOMAIN = "{authority}"
inside, faults, turns = {{}}, [], []

def work(number):
    name = f"published-{{number % 4}}"
    try:
        with lockable.Lock(name, acquire_sleep_period=dt.timedelta(milliseconds=50)):
            if inside.setdefault(name, number) != number:
                faults.append((name, number, inside[name]))
            time.sleep(0.02)
            inside.pop(name)
            turns.append(number)
    except Exception as error:
        faults.append((name, number, repr(error)))

threads = [threading.Thread(target=work, args=(number,)) for number in range(50)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert not faults, faults
assert sorted(turns) == list(range(50)), turns

os.environ['LOCKABLE_AUTH_TOKEN'] = str(uuid.uuid4())
try:
    with lockable.Lock('published-0'):
        raise SystemExit('an invalid token acquired a lock')
except requests.HTTPError as error:
    assert error.response.status_code == 401
"#,
        authority = pod.authority("localhost"),
    );
    let token = pod.first_token();
    let variables = [("REQUESTS_CA_BUNDLE", certificate.cert.to_str().unwrap()), ("LOCKABLE_AUTH_TOKEN", &token)];
    python::run(&script, &variables).await;
}

//! HTTPS: certificates created, served, replaced, and invalid.

use std::{fs, process::Command};

use crate::support::{Certificate, Pod, dev_cert, eventually, pod::lockable, run_shell};

/// Sends a request with curl, which trusts only this certificate.
async fn curl(pod: &Pod, certificate: &Certificate, more: &[&str]) -> Option<String> {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--cacert"])
        .arg(&certificate.cert)
        .args(more)
        .arg(format!("https://{}/v1/acquire/tls", pod.authority("localhost")));
    let output = tokio::task::spawn_blocking(move || curl.output().unwrap()).await.unwrap();
    output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
}

#[tokio::test]
async fn curl_trusts_the_certificate_of_dev_cert() {
    let certificate = dev_cert().await;
    let pod = Pod::builder().tls(&certificate).start().await;
    for version in ["1.2", "1.3"] {
        let asked = ["--tlsv1.2", "--tls-max", version, "--output", "/dev/null", "-w", "%{http_code} %{http_version}"];
        let answer = curl(&pod, &certificate, &asked).await;
        assert_eq!(answer.as_deref(), Some("401 1.1"), "TLS {version}");
    }
    for host in ["127.0.0.1", "localhost"] {
        let url = format!("https://{}/v1/acquire/tls", pod.authority(host));
        let answer = run_shell(&format!("curl --silent --cacert {} {url}", certificate.cert.display())).await;
        assert!(answer.contains("unauthenticated"), "{host}: {answer}");
    }
    assert_eq!(curl(&pod, &dev_cert().await, &[]).await, None, "curl trusts no other certificate");
}

/// Returns how often the server has logged that a new certificate is unusable.
fn complaints(pod: &Pod) -> usize {
    pod.log().matches("the new certificate is invalid").count()
}

#[tokio::test]
async fn server_chooses_the_cipher() {
    let certificate = dev_cert().await;
    let pod = Pod::builder().tls(&certificate).start().await;
    let (strong, other) = ("ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-ECDSA-AES128-GCM-SHA256");
    for offered in [format!("{strong}:{other}"), format!("{other}:{strong}")] {
        let origin = pod.origin().replace("127.0.0.1", "localhost");
        let cert = certificate.cert.display();
        let line = format!("curl -sv --cacert {cert} --tls-max 1.2 --ciphers {offered} {origin}/openapi.json 2>&1");
        assert!(run_shell(&line).await.contains(&format!("TLSv1.2 / {strong}")), "{offered}");
    }
}

#[tokio::test]
async fn changed_certificate_is_reloaded_and_mismatched_pair_is_ignored() {
    let (first, second) = (dev_cert().await, dev_cert().await);
    let pod = Pod::builder().tls(&first).start().await;
    let old = dev_cert().await;
    fs::copy(&first.cert, &old.cert).unwrap();

    fs::copy(&second.cert, &first.cert).unwrap();
    eventually(async || complaints(&pod) == 1).await;
    assert!(curl(&pod, &old, &[]).await.is_some(), "the former pair is still served");

    fs::copy(&second.key, &first.key).unwrap();
    eventually(async || curl(&pod, &second, &[]).await.is_some()).await;
    assert_eq!(curl(&pod, &old, &[]).await, None);
    assert_eq!(complaints(&pod), 1, "the error is logged once");
}

#[tokio::test]
async fn unusable_certificate_is_rejected_in_one_line() {
    let sound = dev_cert().await;
    let other = dev_cert().await;
    let missing = sound.key.with_file_name("missing.pem");
    for (key, complaint) in [
        (&other.key, "does not match the certificate"),
        (&missing, "cannot read"),
        (&sound.cert, "contains no valid private key"),
    ] {
        let pod = Pod::builder().tls(&sound).env("LOCKABLE_TLS_KEY", key.to_str().unwrap());
        let (code, stderr) = pod.expect_refusal().await;
        assert_eq!(code, Some(1), "{stderr}");
        assert!(stderr.lines().count() == 1 && stderr.contains(complaint), "{stderr}");
    }
}

#[tokio::test]
async fn dev_cert_keeps_the_key_private_and_does_not_replace_files() {
    use std::os::unix::fs::PermissionsExt as _;

    let certificate = dev_cert().await;
    let mode = |path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&certificate.key), mode(&certificate.cert)), (0o600, 0o644));

    let before = fs::read(&certificate.key).unwrap();
    let home = certificate.key.parent().unwrap().to_str().unwrap();
    let again = lockable(&["dev-cert", "--out", home]).output().await.unwrap();
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("already exists"));
    assert_eq!(fs::read(&certificate.key).unwrap(), before);

    let forced = lockable(&["dev-cert", "--force", "--out", home]).output().await.unwrap();
    assert!(forced.status.success());
    assert_ne!(fs::read(&certificate.key).unwrap(), before);
    assert_eq!(mode(&certificate.key), 0o600);
}

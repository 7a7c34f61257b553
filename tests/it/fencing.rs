//! Runs the examples of docs/fencing.md verbatim.

use crate::support::{Pod, pod::lockable, postgres::Postgres, python};

const FENCING: &str = include_str!("../../docs/fencing.md");

/// Returns the code blocks of a language.
fn blocks(language: &str) -> Vec<&'static str> {
    let begin = format!("```{language}\n");
    FENCING.split(&*begin).skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

#[tokio::test]
async fn postgres_rejects_stale_fencing_tokens() {
    let postgres = Postgres::database().await;
    let [setup, write] = blocks("sql")[..] else { panic!("docs/fencing.md has two SQL examples") };
    postgres.query(setup).unwrap();
    postgres.query("CREATE TABLE releases (environment text, version int)").unwrap();
    postgres.query("INSERT INTO releases VALUES ('prod', 1)").unwrap();
    let write_as = |token: u64, version: u32| {
        let write = write
            .replace("1795000000000000", &token.to_string())
            .replace("version = 42", &format!("version = {version}"));
        postgres.query(&write)
    };
    write_as(7, 2).unwrap();
    write_as(7, 3).unwrap();
    write_as(9, 4).unwrap();
    let late = write_as(8, 5).unwrap_err();
    assert!(late.contains("the fencing token 8 of deploy-prod is stale"), "{late}");
    assert_eq!(postgres.query("SELECT version FROM releases").unwrap().trim(), "4");

    // The script of the document, with a real fencing token.
    let pod = Pod::start().await;
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("script");
    std::fs::write(&script, blocks("bash")[0]).unwrap();
    let mut run = lockable(&["run", "deploy-prod", "--", "sh", "-e", script.to_str().unwrap()]);
    run.env("LOCKABLE_URL", pod.origin()).env("LOCKABLE_AUTH_TOKEN", pod.first_token());
    let url: url::Url = postgres.url.parse().unwrap();
    run.env("PGHOST", "127.0.0.1").env("PGPORT", url.port().unwrap().to_string()).env("PGUSER", url.username());
    let ran = run.env("PGDATABASE", url.path().trim_start_matches('/')).output().await.unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    assert_eq!(postgres.query("SELECT version FROM releases").unwrap().trim(), "42");
    assert!(write_as(10, 5).is_err());
}

#[tokio::test]
async fn object_store_rejects_stale_fencing_tokens() {
    let script = format!(
        r#"{}
import boto3, moto
with moto.mock_aws():
    s3 = boto3.client("s3", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="y")
    s3.create_bucket(Bucket="bucket")
    read = lambda: s3.get_object(Bucket="bucket", Key="key")["Body"].read()
    put_fenced(s3, "bucket", "key", b"7", 7)
    put_fenced(s3, "bucket", "key", b"7 again", 7)
    put_fenced(s3, "bucket", "key", b"9", 9)
    try:
        put_fenced(s3, "bucket", "key", b"8", 8)
        raise SystemExit("the stale write was not rejected")
    except Stale:
        assert read() == b"9"

    # Another writer writes between the read and the write.
    class Overtaken:
        def __init__(self): self.reads = 0
        def __getattr__(self, name): return getattr(s3, name)
        def head_object(self, **wanted):
            seen = s3.head_object(**wanted)
            self.reads += 1
            if self.reads == 1:
                put_fenced(s3, "bucket", "key", b"12", 12)
            return seen
    overtaken = Overtaken()
    try:
        put_fenced(overtaken, "bucket", "key", b"11", 11)
        raise SystemExit("the overtaken write was not rejected")
    except Stale:
        assert read() == b"12" and overtaken.reads == 2
"#,
        blocks("python")[0]
    );
    python::run(&script, &[]).await;
}

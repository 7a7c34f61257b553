//! The examples of docs/fencing.md, as they stand there.

use crate::support::{Pod, pod::lockable, postgres::Postgres, python};

const FENCING: &str = include_str!("../../docs/fencing.md");

/// The examples in a language.
fn blocks(language: &str) -> Vec<&'static str> {
    let begin = format!("```{language}\n");
    FENCING.split(&*begin).skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

#[tokio::test]
async fn postgres_turns_away_who_is_late() {
    let postgres = Postgres::database().await;
    let [setup, write] = blocks("sql")[..] else { panic!("there are two") };
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

    // The same from a script, whose token is a real one.
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
async fn an_object_store_turns_away_who_is_late() {
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
        raise SystemExit("the late one was not turned away")
    except Stale:
        assert read() == b"9"

    # Somebody writes between the look and the write.
    class Late:
        def __init__(self): self.looks = 0
        def __getattr__(self, name): return getattr(s3, name)
        def head_object(self, **wanted):
            seen = s3.head_object(**wanted)
            self.looks += 1
            if self.looks == 1:
                put_fenced(s3, "bucket", "key", b"12", 12)
            return seen
    late = Late()
    try:
        put_fenced(late, "bucket", "key", b"11", 11)
        raise SystemExit("who was overtaken was not turned away")
    except Stale:
        assert read() == b"12" and late.looks == 2
"#,
        blocks("python")[0]
    );
    python::run(&script, &[]).await;
}

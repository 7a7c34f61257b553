//! The OpenAPI description and its page.

use std::process::Stdio;

use serde_json::Value;

use crate::support::{Pod, python};

#[tokio::test(flavor = "multi_thread")]
async fn description_contains_every_route_and_its_authentication() {
    let pod = Pod::start().await;
    let description = pod.client_without_token().get("/openapi.json").await;
    assert_eq!(description.status, 200);
    assert_eq!(description.json["openapi"], "3.1.0");
    let paths = description.json["paths"].as_object().unwrap();
    let mut operations: Vec<_> = paths
        .iter()
        .flat_map(|(path, item)| item.as_object().unwrap().keys().map(move |method| format!("{method} {path}")))
        .collect();
    operations.sort();
    let expected = [
        "delete /v1/locks/{name}",
        "delete /v1/terraform/{name}",
        "get /v1/account",
        "get /v1/acquire/{name}",
        "get /v1/heartbeat/{name}",
        "get /v1/locks",
        "get /v1/locks/{name}",
        "get /v1/release/{name}",
        "post /v1/acquire/{name}",
        "post /v1/heartbeat/{name}",
        "post /v1/release/{name}",
        "post /v1/terraform/{name}",
    ];
    assert_eq!(operations, expected);
    let schemes = &description.json["components"]["securitySchemes"];
    assert_eq!((&schemes["token"]["scheme"], &schemes["bearer"]["scheme"]), (&"basic".into(), &"bearer".into()));
    assert_eq!(description.json["security"], serde_json::json!([{ "token": [] }, { "bearer": [] }]));
    let acquire = &paths["/v1/acquire/{name}"];
    let named = |operation: &Value| -> Vec<_> {
        let params = operation["parameters"].as_array().unwrap();
        params.iter().map(|param| param["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(named(&acquire["get"]), ["name", "namespace", "owner", "lease", "wait", "note", "strict"]);
    assert!(acquire["get"].get("requestBody").is_none());
    // Parameters may be in the body or in the query string, but not in both, which OpenAPI cannot
    // express.
    assert_eq!(named(&acquire["post"]), ["name"]);
    assert_eq!(acquire["post"]["requestBody"]["required"], false);
}

#[tokio::test]
async fn description_contains_the_url_of_its_server() {
    let pod = Pod::start().await;
    let servers = async |pod: &Pod| pod.client_without_token().get("/openapi.json").await.json["servers"].clone();
    assert_eq!(servers(&pod).await, serde_json::json!([{ "url": pod.origin() }]));
    let public = Pod::builder().env("LOCKABLE_PUBLIC_URL", "https://locks.example.com").start().await;
    assert_eq!(servers(&public).await, serde_json::json!([{ "url": "https://locks.example.com" }]));
}

/// Compares the server's validation with the schemas, as a JavaScript client reads them: patterns
/// are ECMA-262 with the flag `u`, and lengths count characters.
const COMPARE: &str = r##"
const { ORIGIN, TOKEN } = process.env;
const headers = { authorization: "Bearer " + TOKEN };
const api = await (await fetch(ORIGIN + "/openapi.json")).json();
const resolve = (schema) => schema.$ref ? resolve(api.components.schemas[schema.$ref.split("/").pop()]) : schema;
function fits(schema, value) {
  schema = resolve(schema);
  if (schema.anyOf) return schema.anyOf.some((one) => fits(one, value));
  const type = value === null ? "null" : Number.isInteger(value) ? "integer" : typeof value;
  if (schema.type !== type) return false;
  if (schema.enum && !schema.enum.includes(value)) return false;
  if (type === "integer") return value >= schema.minimum && value <= schema.maximum;
  const length = type === "string" ? [...value].length : 0;
  if (length < (schema.minLength ?? 0) || length > (schema.maxLength ?? Infinity)) return false;
  return !schema.pattern || new RegExp(schema.pattern, "u").test(value);
}
let differ = [], counts = { taken: 0, refused: 0 };
async function compare(what, schema, value, address, options) {
  const answer = await fetch(ORIGIN + address, { headers, ...options });
  const taken = answer.status === 200 || answer.status === 403;
  if (!taken && answer.status !== 400) throw new Error(`${what}: ${answer.status} ${await answer.text()}`);
  counts[taken ? "taken" : "refused"]++;
  if (fits(schema, value) !== taken) differ.push(`${what} ${JSON.stringify(value)}: the server ${taken ? "accepts" : "rejects"} it`);
}
const durations = ["0", "90", "007", "1.5m", "1.5s", "0.25h", "1d", "366d", "366.0d", "366.001d", "367d", "8784h", "8785h", "31622400000ms",
  "31622400001ms", "31622400", "31622401", "1500ms", "1.5ms", "1.0ms", "1.5", "1.", ".5s", "1.2345s", "1.999m", "", "s", "-1", "+1", "1 s", "1e3",
  "5min", "1S", "1\u0665", "٣", "500ms", "501ms", "0.5s", "0.50s", "0.501s", "0.008m", "0.009m", "0.0s", "00000000000000000000ms"];
const texts = ["é", "grün, ✓", "grün,✓", "a b", " a", "a ", "", "x".repeat(128), "x".repeat(129), "a\tb", "a\nb", "\u007f", "\u0085", "\u00a0",
  "\u00ad", "a\u200bb", "a\ufeffb", "a\u202eb", "a\u2028b", "a\u2800b", "a\u3164b", "\u{1d173}", "\u{e0001}", "\u{1f512}", "\u0301", "-", "^]\\[", "true"];
const names = [...texts, "a/b", "a//b", "/a", "a/", "a/./b", "a/../b", "a/.", "a/..b", "a/.b", "a/...", "...", ".a", "..a", "a/ b", "a /b", ". ", "a%b", "?x", "#x"];
const each = { lease: durations, wait: durations, owner: texts, note: [...texts, "x".repeat(500), "x".repeat(501)],
  fencing_token: ["1", "007", "0", "9007199254740991", "9007199254740992", "x", "-1"], strict: ["true", "false", "True", "1", ""] };
// In query strings and forms a number is its digits.
const typed = (name, value) => name === "fencing_token" && /^0*[1-9][0-9]*$/.test(value) ? Number(value)
  : name === "strict" && (value === "true" || value === "false") ? value === "true" : value;
let number = 0;
for (const [name, values] of Object.entries(each)) {
  const operation = name === "fencing_token" ? "heartbeat" : "acquire";
  const { get, post } = api.paths[`/v1/${operation}/{name}`];
  const content = post.requestBody.content;
  for (const value of values) {
    // Each request uses its own lock, so that none waits.
    const path = () => `/v1/${operation}/exact-${number++}`;
    const schema = get.parameters.find((one) => one.name === name).schema;
    await compare(`query ${name}`, schema, typed(name, value), `${path()}?${name}=${encodeURIComponent(value)}`);
    const form = { method: "POST", body: new URLSearchParams({ [name]: value }) };
    await compare(`form ${name}`, resolve(content["application/x-www-form-urlencoded"].schema).properties[name], typed(name, value), path(), form);
  }
  const inJson = [...values, 0, 1, -1, 90, 1.5, 31622400, 31622401, 9007199254740991, true, false, null, [], {}];
  for (const value of inJson) {
    const json = { method: "POST", body: JSON.stringify({ [name]: value }), headers: { ...headers, "content-type": "application/json" } };
    const schema = resolve(content["application/json"].schema).properties[name];
    await compare(`JSON ${name}`, schema, value, `/v1/${operation}/exact-${number++}`, json);
  }
}
for (const name of names) {
  const schema = api.paths["/v1/locks/{name}"].get.parameters.find((one) => one.name === "name").schema;
  // Encode dots, too, because fetch resolves dot segments.
  const encoded = encodeURIComponent(name).replaceAll(".", "%2E");
  if (/^(\.|%2E){1,2}$/.test(encoded)) continue;
  await compare("name", schema, name, `/v1/locks/${encoded}`);
}
const list = api.paths["/v1/locks"].get.parameters;
for (const [name, values] of Object.entries({ limit: ["1", "1000", "0", "1001", "+1", "x", ""], cursor: ["1-", "1-61", "1-ff", "1-6", "x", "", "1-6G"],
  prefix: ["", "é", "\n", "x".repeat(200), "x".repeat(201)] })) {
  for (const value of values) {
    const read = name === "limit" && /^[0-9]+$/.test(value) ? Number(value) : value;
    await compare(`list ${name}`, list.find((one) => one.name === name).schema, read, `/v1/locks?${name}=${encodeURIComponent(value)}`);
  }
}
const empty = await fetch(ORIGIN + "/v1/acquire/empty", { method: "POST", headers });
if (empty.status !== 200) differ.push(`an empty POST: ${empty.status}`);
if (differ.length || counts.taken < 100 || counts.refused < 100) {
  console.error(JSON.stringify(counts) + "\n" + differ.join("\n"));
  process.exit(1);
}
"##;

#[tokio::test(flavor = "multi_thread")]
async fn description_and_server_accept_the_same_values() {
    let pod = Pod::builder().env("LOCKABLE_WAIT_MAX", "500ms").start().await;
    pod.operator(&["plan", "set", "business", "--rate", "100000", "--burst", "100000"]).await;
    let account = pod.account("business").await;
    let ran = tokio::process::Command::new("node")
        .args(["--input-type=module", "--eval", COMPARE])
        .envs([("ORIGIN", pod.origin()), ("TOKEN", account.token)])
        .output()
        .await
        .unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
}

const WHOLE_NUMBERS: &str = r"
import schemathesis

def whole(value):
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {name: whole(member) for name, member in value.items()}
    return value

@schemathesis.hook
def map_body(context, body):
    return whole(body)
";

/// Schemathesis calls every route with valid and with invalid data.
#[tokio::test(flavor = "multi_thread")]
async fn server_conforms_to_its_description() {
    let pod = Pod::builder().env("LOCKABLE_WAIT_MAX", "500ms").start().await;
    let account = pod.account("business").await;
    pod.operator(&["plan", "set", "business", "--rate", "100000", "--burst", "100000"]).await;
    let url = format!("{}/openapi.json", pod.origin());
    let credentials = format!("{}:", account.token);
    // A schema cannot forbid a whole number written with a fraction.
    let folder = tempfile::tempdir().unwrap();
    let (config, hooks) = (folder.path().join("schemathesis.toml"), folder.path().join("hooks.py"));
    std::fs::write(&hooks, WHOLE_NUMBERS).unwrap();
    // Status 423 is a valid response, too: for `strict=true`, and for Terraform.
    let settings = "[checks]\npositive_data_acceptance.expected-statuses = [200, 403, 423]\n";
    std::fs::write(&config, format!("hooks = {hooks:?}\n{settings}")).unwrap();
    let checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,\
                  positive_data_acceptance,negative_data_rejection";
    let mut schemathesis = python::command();
    schemathesis.args(["-m", "schemathesis.cli", "--config-file", config.to_str().unwrap(), "run", &url]);
    schemathesis.args(["--auth", &credentials, "--checks", checks, "--max-examples", "15", "--seed", "1"]);
    schemathesis.args(["--generation-database", "none", "--no-color"]);
    let ran = schemathesis.current_dir(env!("CARGO_TARGET_TMPDIR")).output().await.unwrap();
    let [stdout, stderr] = [ran.stdout, ran.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert!(ran.status.success(), "{stdout}\n{stderr}");
    assert!(!stdout.contains("mostly rejected generated data"), "{stdout}");
}

/// The page renders in a browser from this server alone and under its content security policy;
/// Chromium logs violations to the console.
#[tokio::test(flavor = "multi_thread")]
async fn api_page_works_offline() {
    let pod = Pod::start().await;
    let client = pod.client_without_token();
    let page = client.get("/docs/api").await;
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");

    let profile = tempfile::tempdir().unwrap();
    let ran = tokio::process::Command::new("chromium")
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--virtual-time-budget=10000"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        // Let Chromium reach only this machine.
        .arg("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
        .args(["--dump-dom", &format!("{}/docs/api", pod.origin())])
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap();
    let [dom, log] = [ran.stdout, ran.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    for text in ["Acquire a lock, or wait for it", "/v1/terraform/{name}", "Break a lock"] {
        assert!(dom.contains(text), "{text} is not on the page: {dom}\n{log}");
    }
    let complaints: Vec<_> = log.lines().filter(|line| line.contains("CONSOLE")).collect();
    assert_eq!(complaints, Vec::<&str>::new());
}

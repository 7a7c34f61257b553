use std::sync::Once;

use reqwest::{
    Method,
    header::{HeaderMap, HeaderName},
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// A client of one server, with a token or without one.
#[derive(Clone)]
pub struct Client {
    origin: String,
    token: Option<String>,
    http: reqwest::Client,
}

/// A response.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub text: String,
    /// `null` if the body is no JSON.
    pub json: Value,
    headers: HeaderMap,
}

/// Returns the base configuration of all HTTP clients.
pub fn http_client() -> reqwest::ClientBuilder {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| {
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
    reqwest::Client::builder().no_proxy()
}

impl Client {
    pub fn new(origin: &str, token: Option<&str>) -> Self {
        // Lock routes never redirect; a test must see it if one does.
        let http = http_client().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        Self { origin: origin.into(), token: token.map(Into::into), http }
    }

    /// Returns the same client for another origin.
    pub fn with_origin(&self, origin: &str) -> Self {
        Self { origin: origin.into(), ..self.clone() }
    }

    pub async fn get(&self, path: &str) -> Response {
        self.request("GET", path, &[]).await
    }

    /// Sends a GET request; returns `None` if the connection fails.
    pub async fn try_get(&self, path: &str) -> Option<Response> {
        self.try_send(self.http.get(format!("{}{path}", self.origin))).await.ok()
    }

    /// Sends a GET request with the path unchanged. Other clients normalize the path.
    pub async fn get_raw(&self, path: &str) -> Response {
        let authority = self.origin.strip_prefix("http://").expect("the server has no TLS");
        let mut stream = TcpStream::connect(authority).await.unwrap();
        let authorization = self.authorization();
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {authority}\r\nAuthorization: {authorization}\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, text) = answer.split_once("\r\n\r\n").unwrap();
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let fields = lines.map(|line| line.split_once(": ").unwrap());
        let headers =
            fields.map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap())).collect();
        Response { status, json: serde_json::from_str(text).unwrap_or_default(), text: text.to_owned(), headers }
    }

    pub async fn request(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Response {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let mut request = self.http.request(method, format!("{}{path}", self.origin));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request).await
    }

    pub async fn post_form(&self, path: &str, form: &[(&str, &str)]) -> Response {
        self.send(self.http.post(format!("{}{path}", self.origin)).form(form)).await
    }

    pub async fn post_json(&self, path: &str, body: Value) -> Response {
        self.send(self.http.post(format!("{}{path}", self.origin)).json(&body)).await
    }

    pub async fn post_body(&self, path: &str, content_type: &str, body: &str) -> Response {
        let request = self.http.post(format!("{}{path}", self.origin)).header("content-type", content_type);
        self.send(request.body(body.to_owned())).await
    }

    pub async fn send_body(&self, method: &str, path: &str, body: &str) -> Response {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let request = self.http.request(method, format!("{}{path}", self.origin));
        self.send(request.header("content-type", "application/json").body(body.to_owned())).await
    }

    /// Returns the value of the header `Authorization`.
    pub fn authorization(&self) -> String {
        use base64::{Engine, engine::general_purpose::STANDARD};
        format!("Basic {}", STANDARD.encode(format!("{}:", self.token.as_deref().unwrap_or_default())))
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Response {
        self.try_send(request).await.unwrap()
    }

    async fn try_send(&self, mut request: reqwest::RequestBuilder) -> reqwest::Result<Response> {
        if let Some(token) = &self.token {
            request = request.basic_auth(token, Some(""));
        }
        let response = request.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await?;
        Ok(Response { status, json: serde_json::from_str(&text).unwrap_or_default(), text, headers })
    }
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// Asserts that this is a complete problem document of that type.
    #[track_caller]
    pub fn assert_problem(&self, status: u16, kind: &str) {
        assert_eq!((self.status, &self.json["type"]), (status, &format!("/problems/{kind}").into()), "{}", self.text);
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        assert_eq!(self.header("cache-control"), Some("no-store"));
        assert_eq!(self.json["status"], status);
        assert_eq!(self.json["request_id"], *self.header("x-request-id").unwrap(), "{}", self.text);
        assert!(self.json["title"].is_string() && self.json["detail"].is_string(), "{}", self.text);
    }
}

use reqwest::header::{HeaderMap, SET_COOKIE};

use super::{client::http_client, eventually};

/// A minimal browser: it stores cookies, follows no redirects, and reads form fields.
#[derive(Clone)]
pub struct PageClient {
    origin: String,
    http: reqwest::Client,
    pub cookies: Vec<(String, String)>,
    fields: Vec<(String, String)>,
}

/// A page as received.
#[derive(Debug)]
pub struct PageResponse {
    pub status: u16,
    pub text: String,
    pub headers: HeaderMap,
}

pub const PASSWORD: &str = "seven lanterns over Basel";

impl PageClient {
    pub fn new(origin: &str) -> Self {
        let http = http_client().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        Self { origin: origin.into(), http, cookies: Vec::new(), fields: Vec::new() }
    }

    /// Sends this header with every request.
    pub fn with_field(mut self, name: &str, value: &str) -> Self {
        self.fields.push((name.into(), value.into()));
        self
    }

    /// Signs up and signs in.
    pub async fn member(origin: &str, email: &str) -> Self {
        let mut client = Self::new(origin);
        client.sign_up(email, PASSWORD).await;
        assert_eq!(client.sign_in(email, PASSWORD).await.status, 303);
        client
    }

    pub async fn sign_up(&mut self, email: &str, password: &str) -> PageResponse {
        let csrf = self.get("/account/sign-up").await.csrf();
        self.post("/account/sign-up", &[("csrf", &csrf), ("email", email), ("password", password)]).await
    }

    pub async fn sign_in(&mut self, email: &str, password: &str) -> PageResponse {
        let csrf = self.get("/account/sign-in").await.csrf();
        self.post("/account/sign-in", &[("csrf", &csrf), ("email", email), ("password", password)]).await
    }

    /// Sends a form with the CSRF token of this browser.
    pub async fn send(&mut self, path: &str, fields: &[(&str, &str)]) -> PageResponse {
        let csrf = self.get("/account/security").await.csrf();
        self.post(path, &[&[("csrf", &*csrf)], fields].concat()).await
    }

    /// Creates a token and returns it.
    pub async fn token(&mut self, label: &str, scopes: &[&str]) -> String {
        let scopes = scopes.iter().map(|scope| ("scope", *scope));
        let fields: Vec<_> = [("label", label), ("namespace", "public")].into_iter().chain(scopes).collect();
        let page = self.send("/account/tokens", &fields).await;
        page.between("class=\"secret\"><code>", "</code>").to_owned()
    }

    /// Loads a page. Retries after a 429, because tests are faster than people.
    pub async fn get(&mut self, path: &str) -> PageResponse {
        let mut answer = None;
        eventually(async || answer.insert(self.get_once(path).await).status != 429).await;
        answer.unwrap()
    }

    pub async fn get_once(&mut self, path: &str) -> PageResponse {
        let request = self.http.get(format!("{}{path}", self.origin));
        self.run(request).await
    }

    pub async fn post(&mut self, path: &str, form: &[(&str, &str)]) -> PageResponse {
        let request = self.http.post(format!("{}{path}", self.origin)).form(form);
        self.run(request).await
    }

    /// Opens a streamed response.
    pub async fn stream(&self, path: &str) -> reqwest::Response {
        let request = self.http.get(format!("{}{path}", self.origin)).header("cookie", self.cookie());
        request.send().await.unwrap()
    }

    fn cookie(&self) -> String {
        let cookies: Vec<_> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        cookies.join("; ")
    }

    async fn run(&mut self, mut request: reqwest::RequestBuilder) -> PageResponse {
        request = request.header("accept", "text/html").header("cookie", self.cookie());
        for (name, value) in &self.fields {
            request = request.header(name, value);
        }
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        for cookie in headers.get_all(SET_COOKIE) {
            self.keep(cookie.to_str().unwrap());
        }
        PageResponse { status, headers, text: response.text().await.unwrap() }
    }

    fn keep(&mut self, cookie: &str) {
        let (pair, attributes) = cookie.split_once(';').unwrap();
        let (name, value) = pair.split_once('=').unwrap();
        for attribute in ["HttpOnly", "Secure", "Path=/", "SameSite=Lax"] {
            assert!(attributes.contains(attribute), "{cookie}");
        }
        assert!(name.starts_with("__Host-") && !attributes.contains("Domain"), "{cookie}");
        self.cookies.retain(|(other, _)| other != name);
        if !attributes.contains("Max-Age=0") {
            self.cookies.push((name.into(), value.into()));
        }
    }
}

impl PageResponse {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// Returns the redirect target.
    pub fn redirect_target(&self) -> &str {
        self.header("location").unwrap_or_else(|| panic!("{}: {}", self.status, self.text))
    }

    pub fn csrf(&self) -> String {
        self.between("name=\"csrf\" value=\"", "\"").to_owned()
    }

    /// Returns the text between the first occurrence of `before` and the next `after`.
    #[track_caller]
    pub fn between(&self, before: &str, after: &str) -> &str {
        let rest = self.text.split_once(before).unwrap_or_else(|| panic!("{before} is not in {}", self.text)).1;
        rest.split_once(after).unwrap().0
    }

    #[track_caller]
    pub fn assert_shows(&self, status: u16, parts: &[&str]) {
        assert_eq!(self.status, status, "{}", self.text);
        for part in parts {
            assert!(self.text.contains(part), "{part} is not in {}", self.text);
        }
    }
}

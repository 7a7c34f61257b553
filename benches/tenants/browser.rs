//! A minimal browser for the account pages.

use std::net::{IpAddr, Ipv4Addr};

use reqwest::{Client, Response, header, redirect::Policy};

const EMAIL: &str = "bench@example.com";
const PASSWORD: &str = "seven lanterns over Basel";

#[derive(Clone)]
pub struct Browser {
    origin: String,
    http: Client,
    cookies: Vec<(String, String)>,
}

impl Browser {
    pub fn new(address: &str) -> Self {
        Self { origin: format!("http://{address}"), http: Self::http(None), cookies: Vec::new() }
    }

    fn http(from: Option<IpAddr>) -> Client {
        Client::builder().redirect(Policy::none()).local_address(from).build().unwrap()
    }

    pub async fn set_password(&mut self, link: &str) {
        let path = format!("/account/{}", link.split_once("/account/").unwrap().1);
        let csrf = csrf(&self.get(&path).await);
        self.post(&path, &[("csrf", &csrf), ("password", PASSWORD)]).await;
    }

    pub async fn sign_in(&mut self) {
        self.sign_in_with(EMAIL, PASSWORD).await;
    }

    /// Signs in with a wrong password, from an address in 127.0.0.0/8 that depends on the number.
    pub async fn fail_to_sign_in(&mut self, number: usize) {
        let from = Ipv4Addr::new(127, 1, (number / 250 % 250) as u8, (number % 250 + 1) as u8);
        self.http = Self::http(Some(from.into()));
        self.sign_in_with(&format!("{number}@example.com"), &"long".repeat(256)).await;
    }

    async fn sign_in_with(&mut self, email: &str, password: &str) {
        self.cookies.retain(|(name, _)| !name.contains("session"));
        let csrf = csrf(&self.get("/account/sign-in").await);
        self.post("/account/sign-in", &[("csrf", &csrf), ("email", email), ("password", password)]).await;
    }

    pub async fn make_and_revoke_token(&mut self, label: &str) {
        let csrf = csrf(&self.get("/account/tokens").await);
        let fields = [("csrf", &*csrf), ("label", label), ("namespace", "public"), ("scope", "lock")];
        let page = self.post("/account/tokens", &fields).await;
        // The action of the first form that revokes a token.
        let Some((before, _)) = page.split_once("/revoke\"") else { return };
        let Some((_, action)) = before.rsplit_once("action=\"") else { return };
        self.post(&format!("{action}/revoke"), &[("csrf", &csrf)]).await;
    }

    pub async fn get(&mut self, path: &str) -> String {
        let request = self.http.get(format!("{}{path}", self.origin));
        self.run(request).await
    }

    async fn post(&mut self, path: &str, fields: &[(&str, &str)]) -> String {
        let request = self.http.post(format!("{}{path}", self.origin));
        self.run(request.header(header::ORIGIN, &self.origin).form(fields)).await
    }

    async fn run(&mut self, request: reqwest::RequestBuilder) -> String {
        let cookies: Vec<_> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let Ok(response) = request.header(header::COOKIE, cookies.join("; ")).send().await else {
            return String::new();
        };
        self.keep_cookies(&response);
        response.text().await.unwrap_or_default()
    }

    fn keep_cookies(&mut self, response: &Response) {
        for cookie in response.headers().get_all(header::SET_COOKIE) {
            let pair = cookie.to_str().ok().and_then(|cookie| cookie.split(';').next()?.split_once('='));
            let Some((name, value)) = pair else { continue };
            self.cookies.retain(|(kept, _)| kept != name);
            self.cookies.push((name.to_owned(), value.to_owned()));
        }
    }
}

fn csrf(page: &str) -> String {
    between(page, "name=\"csrf\" value=\"", "\"").unwrap_or_default().to_owned()
}

fn between<'page>(page: &'page str, before: &str, behind: &str) -> Option<&'page str> {
    page.split_once(before)?.1.split_once(behind).map(|(found, _)| found)
}

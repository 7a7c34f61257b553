use askama::Template;

use super::{
    browser::Browser,
    error::PageError,
    layout::{Layout, Section},
    session::{SessionRejection, SessionUser},
    template::HtmlPage,
};

#[derive(Template)]
#[template(path = "home.html")]
pub(super) struct HomePage {
    layout: Layout,
    origin: String,
}

/// `GET /`: the start page.
pub(super) async fn home(
    browser: Browser,
    user: Result<SessionUser, SessionRejection>,
) -> Result<HtmlPage<HomePage>, PageError> {
    let layout = match &user {
        Ok(user) => user.layout("Locks over HTTPS", Section::None),
        Err(_) => Layout::signed_out("Locks over HTTPS"),
    };
    Ok(HtmlPage(HomePage { layout, origin: browser.origin }))
}
